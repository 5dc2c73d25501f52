"""What the documentation shows is so: its code runs, its commands parse, its links lead somewhere.

The blocks of a page run in order, in one namespace and an empty folder. Comments steer them, which
no reader of the rendered page sees:

    <!-- run
    import small  # code to run here, such as a set-up
    -->
    <!-- not run: why; for the next block, whose imports alone are run -->
    <!-- run --> for the next block of commands, of which `python -m` is run instead of parsed
"""

import argparse
import ast
import contextlib
import importlib.util
import os
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock
from urllib.parse import unquote

import keras
import pytest

import mtl.models

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("README.md", "mtl/**/*.md", "examples/*.md", "data/*.md", ".github/*.md")
    for path in ROOT.glob(pattern)
)
pytestmark = [  # of the exporters
    pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning:keras"),
]
HOME = "https://github.com/keras-mtl/mtl"
BLOCK = re.compile(
    r"^<!-- run\n(?P<hidden>.*?)^-->"
    r"|(?:^<!-- (?P<order>run|not run: [^>]+) -->\n+)?"
    r"^ *```(?P<language>\w*)\n(?P<code>.*?)^ *```",
    re.MULTILINE | re.DOTALL,
)
KNOWN = ("bash", "cd", "export", "git", "mypy", "pre-commit", "python", "ruff")
FENCE = re.compile(r"```.*?```", re.DOTALL)


class Block(NamedTuple):
    language: str
    code: str
    line: int
    order: str


def blocks(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        key = "hidden" if match["hidden"] is not None else "code"
        line = text.count("\n", 0, match.start(key))
        language = "python" if key == "hidden" else match["language"]
        yield Block(language, match[key], line, match["order"] or "")


def run_python(block, page, namespace):
    tree = ast.parse("\n" * block.line + block.code)
    if block.order.startswith("not run"):
        tree.body = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    exec(compile(tree, ROOT / page, "exec"), namespace)


def commands(code):
    """Yield the commands of a shell block, each as a list of words."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            yield words[:end]
            words = words[end + 1 :]


class Parsed(Exception):
    """Raised where a script has read its arguments, before it does anything."""


def run_command(words, monkeypatch, stop):
    """Run `python …` in this process, until its arguments are parsed if `stop`; check the rest."""
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    program, *arguments = words
    if program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        used = re.findall(r"[\w-]+", re.sub(r"^[^[]*\[?", "", arguments[-1]))
        assert arguments[0] == "install"
        assert set(used) <= set(extras["optional-dependencies"]), words
        return
    if program != "python" or arguments[0] == "-c" or arguments[:2] == ["-m", "pytest"]:
        assert program in KNOWN, words
        return
    original = argparse.ArgumentParser.parse_args

    def parse(self, args=None, namespace=None):
        original(self, args, namespace)
        raise Parsed

    # Scripts set variables, such as the backend they run on best, before they import mtl.
    with mock.patch.dict(os.environ), monkeypatch.context() as patch:
        if stop:
            patch.setattr(argparse.ArgumentParser, "parse_args", parse)
        expected = contextlib.suppress(SystemExit) if not stop else pytest.raises(Parsed)
        if arguments[0] == "-m":
            with expected:
                importlib.import_module(f"{arguments[1]}.__main__").main(arguments[2:])
        else:
            script = ROOT / arguments[0]
            assert script.exists(), words
            if stop and "argparse" not in script.read_text(encoding="utf-8"):
                assert len(arguments) == 1, words
                return
            patch.setattr(sys, "argv", arguments)
            patch.syspath_prepend(script.parent)
            with expected:
                runpy.run_path(str(script), run_name="__main__")


@pytest.fixture(autouse=True)
def small_and_quick(tmp_path, monkeypatch):
    """An empty folder, and training as Keras compiles it: XLA's seconds buy nothing here."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the pages are run on TensorFlow")
    if importlib.util.find_spec("keras.src.export.litert") is None:
        pytest.skip("the pages show what the newest Keras does")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mtl.training.stepped.pays_on_cpu", lambda model: False)
    keras.utils.set_random_seed(0)


@pytest.mark.parametrize("page", PAGES)
def test_code_runs(page, monkeypatch):
    namespace = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language == "python":
            run_python(block, page, namespace)
        elif block.language == "toml":  # its first line is its name
            Path(block.code.split()[1]).write_text(block.code, encoding="utf-8")
        elif block.language == "bash" and block.order == "run":
            for words in commands(block.code):
                run_command(words, monkeypatch, stop=False)


@pytest.mark.parametrize("page", PAGES)
def test_commands_parse(page, monkeypatch):
    text = (ROOT / page).read_text(encoding="utf-8")
    shell = [b.code for b in blocks(page) if b.language == "bash" and b.order == ""]
    prose = " ".join(FENCE.sub("", text).split())
    inline = re.findall(r"`((?:[A-Z_]+=\S+ )?python [^`]+|pip install [^`]+)`", prose)
    inline = [code for code in inline if "-m" not in code or "--" in code]  # or a name alone
    seen = set()
    for code in [*shell, *inline]:
        for words in commands(code):
            if tuple(words) not in seen:
                seen.add(tuple(words))
                run_command(words, monkeypatch, stop=True)


def anchors(path):
    """Return the anchors that GitHub gives the headings of a page."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        address, _, anchor = unquote(target).partition("#")
        if address.startswith(f"{HOME}/blob/main/"):
            path = ROOT / address.removeprefix(f"{HOME}/blob/main/")
        elif re.match(r"https?:", address):
            continue
        else:
            path = (ROOT / page).parent / address if address else ROOT / page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def test_what_is_shown_is_steered_by_known_comments():
    for page in PAGES:
        for comment in re.findall(r"<!--.*?(?:\n|-->)", (ROOT / page).read_text(encoding="utf-8")):
            assert re.fullmatch(r"<!-- run(\n| -->)|<!-- not run: .+ -->", comment), (page, comment)


@pytest.mark.parametrize("page", ["README.md", "mtl/README.zh.md", "mtl/models/README.md"])
def test_every_model_is_shown(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    form = "\n## {}\n" if page == "mtl/models/README.md" else "\n| [`{}`]("
    factories = [getattr(mtl.models, name) for name in mtl.models.__all__]
    names = [f.__name__ for f in factories if f.__module__.startswith("mtl.models.")]
    assert len(names) >= 17
    assert [name for name in names if form.format(name) not in text] == []


def test_the_readme_is_short():
    assert os.path.getsize(ROOT / "README.md") <= 8192
