"""Build the site of guides and API into `site/`, by pdoc: `python .ci/site.py`.

Any warning is an error, and so are a public name without a docstring, a name of `mtl` in code font
that leads nowhere, and a broken link between pages.
"""

import html
import importlib
import os
import re
import shutil
import sys
import types
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before mtl, which loads TensorFlow

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
warnings.simplefilter("error")

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
        if to.endswith(".png"):
            shutil.copy(ROOT / to, ROOT / "site" / Path(to).name)
            to = os.path.relpath(Path(to).name, here)
        else:
            to = os.path.relpath(address(GUIDES[to]), here) if to in GUIDES else REPOSITORY + to
        return f"]({to}{'#' + anchor if anchor else ''})"

    def formula(match: re.Match[str]) -> str:
        return f"<div>$${html.escape(match[1].strip())}$$</div>"

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
    pages = "".join(f"- [`{name}`]({address(name)})\n" for name in API)
    found["mtl"].docstring += f"\n## API\n\n{pages}"
    return found


def complaints(pages: dict[str, str], found: dict[str, pdoc.doc.Module]) -> list[str]:
    """Return what is wrong with the pages: silence where there should be words, broken links."""
    wrong = []
    for name in API:
        for member in found[name].own_members or found[name].members.values():
            if not member.docstring and not isinstance(member, pdoc.doc.Variable):
                wrong.append(f"{member.fullname} has no docstring")
    ids = {path: set(re.findall(r'\bid="([^"]+)"', page)) for path, page in pages.items()}
    for path, page in pages.items():
        for name in re.findall(r"<code>(mtl(?:\.\w+)+)(?:\([^<]*\))?</code>(?!</a>)", page):
            wrong.append(f"{path}: `{name}` leads nowhere")
        for link in re.findall(r'<a href="([^"]+)"', page):
            to, _, anchor = html.unescape(link).partition("#")
            if re.match(r"https?:", to):
                continue
            to = os.path.normpath(Path(path).parent / to) if to else path
            if to not in pages or (anchor and anchor not in ids[to]):
                wrong.append(f"{path}: the link {link} leads nowhere")
    return sorted(set(wrong))


def main() -> None:
    """Write the site, and end with an error if anything is wrong with it."""
    site = ROOT / "site"
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir()
    pdoc.render.configure(
        docformat="google", math=True, footer_text="keras-mtl",
        edit_url_map={"mtl": f"{REPOSITORY}mtl/"},
    )  # fmt: skip
    found = modules()
    pages = {address(name): pdoc.render.html_module(m, found) for name, m in found.items()}
    for path, page in pages.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(page, encoding="utf-8")
    (site / "index.html").write_text(pdoc.render.html_index(found), encoding="utf-8")
    (site / "search.js").write_text(pdoc.render.search_index(found), encoding="utf-8")
    (site / ".nojekyll").touch()
    pages["index.html"] = ""
    if wrong := complaints(pages, found):
        sys.exit("\n".join(wrong))
    print(f"wrote {len(pages)} pages to {site}")


if __name__ == "__main__":
    main()
