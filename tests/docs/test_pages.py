"""The things that the pages name are there: tests by name, files by path, links, public names."""

import json
import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import optax_gc

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES = [page for page in PAGES if page.exists()]
TESTS = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))


def names(pages):
    return [page.relative_to(ROOT).as_posix() for page in pages]


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_test_that_a_page_names_exists(page):
    for name in re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8")):
        assert f"def {name}(" in TESTS, f"{page.name} names {name}, and there is no such test"


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_file_that_a_page_names_exists(page):
    for name in re.findall(
        r"`((?:tests|examples|docs|notebooks|optax_gc)/[\w./-]+)`", page.read_text("utf-8")
    ):
        assert (ROOT / name).exists(), f"{page.name} names {name}, and there is no such file"


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_module_that_a_page_runs_exists(page):
    for name in re.findall(r"python -m (examples[\w.]*|optax_gc[\w.]*)", page.read_text("utf-8")):
        path = ROOT / name.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_block_of_a_page_begins_with_its_language(page):
    """A fence too many turns the blocks that follow into text, which no test runs."""
    fences = re.findall(r"^```+(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert all(fences[::2])
    assert not any(fences[1::2])


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
READ_ON_GITHUB = [*PAGES, *NOTEBOOKS, *(ROOT / ".github").rglob("*.md")]


def text_of(page):
    """Returns the Markdown of a page or of a notebook, without its code."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        return "\n\n".join("".join(cell["source"]) for cell in cells)
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def links_of(page):
    return [urlsplit(target) for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page))]


@pytest.mark.parametrize("page", READ_ON_GITHUB, ids=names(READ_ON_GITHUB))
def test_every_link_inside_of_the_repository_leads_to_a_file(page):
    for link in links_of(page):
        # These are pages that GitHub makes for a repository. They are not files in it.
        if link.scheme or not link.path or link.path.startswith("../../actions/"):
            continue
        target = page.parent / link.path
        # The site's build copies the notebooks into the folder of the pages.
        if link.path.startswith("notebooks/"):
            target = ROOT / link.path
        assert target.exists(), f"{page.name} links to {link.path}, and there is no such file"
        if link.fragment and target.suffix == ".md":
            anchors = re.findall(r"^#+ (.*)$", text_of(target), re.MULTILINE)
            slugs = {
                re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in anchors
            }
            assert link.fragment in slugs, f"{page.name} links to #{link.fragment} of {link.path}"


def test_the_readme_and_the_pages_show_the_same_result_of_the_quickstart():
    tables, differences = [], []
    for name in ("README.md", "docs/getting_started.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        lines = text.splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith("| test accuracy, %"))
        rows = lines[start : lines.index("", start)]
        cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
        tables.append({label: tuple(values) for label, *values in cells})
        with_batch_norm = re.search(r"`--norm bn`\).*?([+-]\d\.\d\d ± \d\.\d\d)", text, re.DOTALL)
        differences.append(with_batch_norm and with_batch_norm[1])
    short, long = tables
    assert short.items() <= long.items()
    assert differences[0] is not None
    assert differences[0] == differences[1]


def test_the_site_has_every_outside_link_of_the_readme():
    """The workflow checks the outside links of the site, and so those of the README as well."""
    site = [page for page in PAGES if page.is_relative_to(ROOT / "docs")] + [
        ROOT / "CONTRIBUTING.md"
    ]
    checked = {link.geturl() for page in site for link in links_of(page) if link.scheme}
    assert {link.geturl() for link in links_of(ROOT / "README.md") if link.scheme} <= checked


# These read results or use examples of the repository. The others run anywhere.
NEED_A_CLONE = ("5_paper_figures.ipynb", "7_detection.ipynb")
RUN_ANYWHERE = [path for path in NOTEBOOKS if path.name not in NEED_A_CLONE]


@pytest.mark.parametrize("notebook", RUN_ANYWHERE, ids=names(RUN_ANYWHERE))
def test_every_notebook_begins_by_installing_what_it_imports(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    first, *rest = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    installed = re.search(r"%pip install -q (optax-gc .*)", first)
    assert installed, "the first cell must install the package"
    imported = set(re.findall(r"^(?:import|from) (\w+)", "\n".join(rest), re.MULTILINE))
    brought_along = {"jax", "optax", "numpy", "matplotlib", *sys.stdlib_module_names}
    names_of = {"sklearn": "scikit-learn", "optax_gc": "optax-gc"}
    missing = {names_of.get(name, name) for name in imported - brought_along}
    assert missing <= set(installed[1].split())


def test_the_reference_lists_every_public_name():
    reference = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    listed = set(
        re.findall(
            r"^(?:\.\. auto(?:function|class):: )optax_gc\.([\w.]+)$", reference, re.MULTILINE
        )
    )
    public = {name for name in optax_gc.__all__ if name != "diagnostics"}
    diagnostics = {
        f"diagnostics.{name}"
        for name, value in vars(optax_gc.diagnostics).items()
        if not name.startswith("_")
        and getattr(value, "__module__", "") == optax_gc.diagnostics.__name__
    }
    assert listed == public | diagnostics
