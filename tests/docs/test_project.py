"""The versions and names of the project agree, and its site is published as the workflow needs it."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_citation_and_the_package_have_one_version_and_one_license():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    said = dict(re.findall(r"^(version|license): (\S+)$", citation, re.MULTILINE))
    assert said == {"version": PROJECT["version"], "license": PROJECT["license"]}


def test_what_the_library_needs_is_jax_and_optax_only():
    assert [re.split(r"\W", need)[0] for need in PROJECT["dependencies"]] == ["jax", "optax"]


@pytest.fixture
def checkout(tmp_path):
    """A clone of an empty repository, with one commit."""
    git(tmp_path, "init", "--bare", "--initial-branch=main", "remote")
    git(tmp_path, "clone", "remote", "checkout")
    clone = tmp_path / "checkout"
    git(
        clone, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--allow-empty", "-m", "first"
    )
    git(clone, "push", "origin", "HEAD:main")
    return clone


def git(folder, *arguments):
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


def publish(checkout, version, page):
    """Publishes a site of one page, and returns the files of the branch that is served."""
    site = checkout / "site"
    site.mkdir(exist_ok=True)
    (site / "index.html").write_text(page)
    script = ROOT / ".github/publish_docs.sh"
    subprocess.run(
        [script, site, version, "https://example.org/docs/"],
        cwd=checkout,
        check=True,
        capture_output=True,
    )
    served = checkout.parent / f"served-{version}-{page}"
    git(checkout.parent, "clone", "--branch=gh-pages", "remote", str(served))
    return {
        path.relative_to(served).as_posix(): path.read_text()
        for path in served.rglob("*")
        if path.is_file() and ".git/" not in path.as_posix()
    }


def test_each_version_of_the_site_has_a_folder_and_the_newest_tag_is_stable(checkout):
    served = publish(checkout, "dev", "unreleased")
    assert served["dev/index.html"] == "unreleased"
    assert "url=dev/" in served["index.html"]
    for version in ("v0.9.0", "v0.10.0", "v0.2.1"):
        served = publish(checkout, version, version)
    assert served["v0.9.0/index.html"] == "v0.9.0"
    assert served["stable/index.html"] == "v0.10.0", "v0.2.1 came later, and is older"
    assert "url=stable/" in served["index.html"]
    assert served["dev/index.html"] == "unreleased"
    versions = json.loads(served["versions.json"])
    assert [each["version"] for each in versions] == ["v0.10.0", "v0.9.0", "v0.2.1", "dev"]
    assert versions[0]["url"] == "https://example.org/docs/v0.10.0/"
