"""The commit of a result is found and marked if the code was changed."""

import os
import re
import subprocess

from examples.training import provenance


def test_a_commit_is_dirty_where_code_is_changed_and_not_where_results_are(tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "package").mkdir()
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "package" / "provenance.py"))
    code, results = tmp_path / "package" / "code.py", tmp_path / "results.jsonl"
    assert provenance.commit() is None, "no repository"
    git("init")
    code.write_text("x = 1\n")
    results.write_text("{}\n")
    git("add", ".")
    git("commit", "-m", "first")
    clean = provenance.commit()
    assert clean is not None
    assert re.fullmatch("[0-9a-f]{40}", clean)
    results.write_text("{}\n{}\n")
    assert provenance.commit() == clean
    code.write_text("x = 2\n")
    assert provenance.commit() == f"{clean}-dirty"
    code.write_text("x = 1\n")
    assert provenance.commit() == clean
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "results.jsonl").write_text("{}\n")
    assert provenance.commit() == clean
    (tmp_path / "new" / "code.py").write_text("x = 3\n")
    assert provenance.commit() == f"{clean}-dirty"


def test_a_machine_without_git_has_no_commit(monkeypatch):
    monkeypatch.setitem(os.environ, "PATH", "")
    assert provenance.commit() is None
