"""Build the site of guides and API into `site/`, by pdoc: `python .ci/docs.py`.

Any warning is an error, and so are a public name without a docstring, a name of `mtl` in code font
that leads nowhere, and a broken link between pages.
"""

import html
import importlib
import inspect
import os
import pydoc
import re
import shutil
import sys
import types
import typing
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before mtl, which loads TensorFlow

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import pandas as pd  # noqa: E402
import pdoc.doc  # noqa: E402
import pdoc.render  # noqa: E402

REPOSITORY = "https://github.com/keras-mtl/mtl/blob/main/"
API = [
    *(f"mtl.{name}" for name in (
        "models", "features", "data", "encodings", "tasks", "training", "callbacks", "losses",
        "balancing", "optimizers", "metrics", "calibration", "inspection", "serving", "migrate",
        "benchmark", "layers",
    )),
    "mtl.models.options", "mtl.models.network", "mtl.data.raw",
]  # fmt: skip
GUIDES = {
    "README.md": "mtl",
    **{f"mtl/{name}/README.md": f"mtl.guides.{name}"
       for name in ("data", "models", "training", "serving", "benchmark")},
    "examples/README.md": "mtl.guides.examples",
    "mtl/MIGRATING.md": "mtl.guides.migrating",
    "mtl/CHANGELOG.md": "mtl.guides.changes",
    "mtl/README.zh.md": "mtl.guides.zh",
    ".github/CONTRIBUTING.md": "mtl.guides.contributing",
}  # fmt: skip


def address(module: str) -> str:
    """Return the path of a module's page within the site."""
    return module.replace(".", "/") + ".html"


def as_page(path: str) -> str:
    """Return a guide's Markdown with links, formulas and pictures as the site has them."""
    here = Path(address(GUIDES[path])).parent
    text = re.sub(r"<!--.*?-->\n*", "", (ROOT / path).read_text(encoding="utf-8"), flags=re.DOTALL)

    def target(match: re.Match[str]) -> str:
        link, _, anchor = match[1].partition("#")
        if re.match(r"https?:", link) or not link:
            return match[0]
        to = os.path.normpath(ROOT / Path(path).parent / link).removeprefix(f"{ROOT}/")
        to = os.path.relpath(address(GUIDES[to]), here) if to in GUIDES else REPOSITORY + to
        return f"]({to}{'#' + anchor if anchor else ''})"

    def formula(match: re.Match[str]) -> str:
        return f"<div>$${html.escape(match[1].strip())}$$</div>"

    def picture(match: re.Match[str]) -> str:
        file = ROOT / Path(path).parent / match[2]
        shutil.copy(file, ROOT / "site" / here)
        return f'<img src="{file.name}" alt="{match[1]}" style="max-width: 100%">'

    text = re.sub(r"!\[(.*?)\]\((.*?)\)", picture, text)
    text = re.sub(r"\]\(([^)\s]+)\)", target, text)
    return re.sub(r"^```math\n(.*?)^```", formula, text, flags=re.MULTILINE | re.DOTALL)


def modules() -> dict[str, pdoc.doc.Module]:
    """Return what has a page, by name: the package with the README, its parts, and the guides."""
    found = {}
    for name in ("mtl", *API, *(name for name in GUIDES.values() if name != "mtl")):
        guide = name.startswith("mtl.guides.")
        found[name] = pdoc.doc.Module(
            types.ModuleType(name) if guide else importlib.import_module(name)
        )
    for path, name in GUIDES.items():
        found[name].docstring = as_page(path)
        found[name].obj.__docformat__ = "markdown"
    found["mtl"].submodules = [found[name] for name in API if name.count(".") == 1]
    for column in vars(found["mtl.features"].obj).values():
        if isinstance(column, type) and hasattr(column, "_fields"):  # as types, not their names
            column.__new__.__annotations__ = typing.get_type_hints(column.__base__)
    for factory in found["mtl.models"].members.values():
        if hasattr(factory.wrapped, "search"):  # what @model shows, in place of what it was given
            factory.obj.__signature__ = inspect.signature(factory.wrapped)
            factory.obj.__doc__, factory.decorators = factory.wrapped.__doc__, []
    return found


def undocumented(members: Iterable[pdoc.doc.Doc]) -> Iterator[str]:
    """Yield the full names of public classes, functions and methods without a docstring."""
    for member in members:
        if member.name.startswith("_") or isinstance(member, pdoc.doc.Variable):
            continue
        if isinstance(member, pdoc.doc.Class):
            yield from undocumented(member.own_members)
        if not member.docstring:
            yield member.fullname


def linked(page: str) -> str:
    """Return a page with links that lead where they say.

    pdoc links members of Keras' classes, which it doesn't show, and takes a guide for a module.
    """
    for path, name in GUIDES.items():
        module = f"{name.replace('.', '/')}{'/__init__' if name == 'mtl' else ''}.py"
        page = page.replace(f'"{REPOSITORY}{module}"', f'"{REPOSITORY}{path}"')
    ids = set(re.findall(r'\bid="([^"]+)"', page))
    return re.sub(
        r'<a href="#([^"]+)">(.*?)</a>', lambda m: m[0] if m[1] in ids else m[2], page
    )  # fmt: skip


def broken(pages: dict[str, str]) -> Iterator[str]:
    """Yield the links between pages, and the names in code font, that lead nowhere."""
    ids = {path: set(re.findall(r'\bid="([^"]+)"', page)) for path, page in pages.items()}
    for path, page in pages.items():
        for name in re.findall(r"<code>(mtl(?:\.\w+)+)</code>", page):
            if pydoc.locate(name) is None:
                yield f"{path}: there is no {name}"
        for link in re.findall(r'<a (?:class="[^"]*" )?href="([^"$]+)"', page):
            to, _, anchor = html.unescape(link).partition("#")
            if re.match(r"https?:", to):
                continue
            to = os.path.normpath(Path(path).parent / to) if to else path
            if to not in pages or (anchor and anchor not in ids[to]):
                yield f"{path}: the link {link} leads nowhere"


def main() -> None:
    """Write the site, and end with an error if anything is wrong with it."""
    site = ROOT / "site"
    shutil.rmtree(site, ignore_errors=True)
    (site / "mtl" / "guides").mkdir(parents=True)
    for name in API:
        importlib.import_module(name)
    warnings.simplefilter("error")  # from here on they are pdoc's
    # A TypedDict doesn't keep whose its inherited fields are; they are shown all the same.
    warnings.filterwarnings("ignore", "Cannot determine .*GatedOptions")
    pdoc.render.configure(
        docformat="google", math=True, footer_text="keras-mtl",
        edit_url_map={"mtl": f"{REPOSITORY}mtl/"},
    )  # fmt: skip
    pd.Series.__class_getitem__ = classmethod(types.GenericAlias)  # as pandas-stubs have it
    found = modules()
    pages = {address(name): linked(pdoc.render.html_module(m, found)) for name, m in found.items()}
    for path, page in pages.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(page, encoding="utf-8")
    (site / "index.html").write_text(pdoc.render.html_index(found), encoding="utf-8")
    (site / "search.js").write_text(pdoc.render.search_index(found), encoding="utf-8")
    (site / ".nojekyll").touch()
    pages["index.html"] = ""
    silent = undocumented(m for name in API for m in found[name].members.values())
    if wrong := sorted({*broken(pages), *(f"{name} has no docstring" for name in silent)}):
        sys.exit("\n".join(wrong))
    print(f"wrote {len(pages)} pages to {site}")


if __name__ == "__main__":
    main()
