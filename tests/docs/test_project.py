"""The versions and names of the project agree, and its site is published as the workflow needs it."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_citation_and_the_package_have_one_version_and_one_license():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    said = dict(re.findall(r"^(version|license): (\S+)$", citation, re.MULTILINE))
    assert said == {"version": PROJECT["version"], "license": PROJECT["license"]}


def test_the_changelog_has_the_version_as_a_release():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    dates = dict(re.findall(r"^## \[(\d\S*)\] - (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE))
    assert PROJECT["version"] in dates


def test_every_action_is_named_by_the_hash_of_a_commit():
    workflows = (ROOT / ".github/workflows").glob("*.yml")
    actions = re.findall(r"uses: (.*)", "\n".join(path.read_text("utf-8") for path in workflows))
    assert len(actions) > 10
    for action in actions:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\S+", action), action


def test_the_release_workflow_writes_the_address_of_the_repository(tmp_path):
    """PyPI shows the README outside of the repository, where relative links lead nowhere."""
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    address = "https://github.com/Some-One/optax-gc"
    command = [sys.executable, ROOT / ".github/set_address.py", f"{address}/", "v1.2.3"]
    subprocess.run(command, cwd=tmp_path, check=True)

    written = tomllib.loads((tmp_path / "pyproject.toml").read_text("utf-8"))["project"]
    assert written["urls"] == PROJECT["urls"] | {
        "Documentation": "https://some-one.github.io/optax-gc/stable/",
        "Source": address,
        "Issues": f"{address}/issues",
        "Changelog": f"{address}/blob/v1.2.3/CHANGELOG.md",
    }
    assert {**written, "urls": PROJECT["urls"]} == PROJECT

    before = (ROOT / "README.md").read_text(encoding="utf-8")
    after = (tmp_path / "README.md").read_text(encoding="utf-8")
    targets = [re.findall(r"\]\(([^)\s]+)\)", page) for page in (before, after)]
    assert len(targets[0]) == len(targets[1]) > 10
    assert all(target.startswith(("https://", "#")) for target in targets[1])
    assert f"({address}/blob/v1.2.3/docs/when.md)" in after
    assert f"]({address}/raw/v1.2.3/examples/quickstart.png)" in after
    badge = f"{address}/actions/workflows/ci.yml"
    assert f"[![CI]({badge}/badge.svg)]({badge})" in after


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


def test_a_version_with_a_suffix_is_never_the_stable_one(checkout):
    served = publish(checkout, "v1.0.0rc1", "candidate")
    assert "stable/index.html" not in served
    assert "url=v1.0.0rc1/" in served["index.html"]
    for version in ("v1.0.0", "v1.0.0rc2"):
        served = publish(checkout, version, version)
    assert served["v1.0.0rc2/index.html"] == "v1.0.0rc2"
    assert served["stable/index.html"] == "v1.0.0"
    assert "url=stable/" in served["index.html"]
    versions = json.loads(served["versions.json"])
    assert [each["version"] for each in versions] == ["v1.0.0", "v1.0.0rc2", "v1.0.0rc1"]
    assert [each["preferred"] for each in versions] == [True, False, False]


def test_ruff_has_one_version_in_every_place():
    (dev,) = (each for each in PROJECT["optional-dependencies"]["dev"] if each.startswith("ruff"))
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert dev == "ruff==" + re.findall(r"ruff-pre-commit\s+rev: v(\S+)", hooks)[0]
