"""The things that the pages name are there: tests by name, files by path, public names."""

import re
from pathlib import Path

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


def test_the_reference_lists_every_public_name():
    reference = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^(?:\.\. auto\w+:: )optax_gc\.([\w.]+)$", reference, re.MULTILINE))
    public = {name for name in optax_gc.__all__ if name != "diagnostics"}
    diagnostics = {
        f"diagnostics.{name}"
        for name, value in vars(optax_gc.diagnostics).items()
        if not name.startswith("_")
        and getattr(value, "__module__", "") == optax_gc.diagnostics.__name__
    }
    assert listed == public | diagnostics
