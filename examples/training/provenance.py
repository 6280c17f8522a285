"""The origin of a result: versions, machine and commit."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

from examples.training.errors import SettingError

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "grain", "orbax-checkpoint", "numpy")


def provenance() -> dict[str, Any]:
    """Returns the versions, devices and commit of this process, ready for JSON."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    device = jax.devices()[0]
    return {
        "versions": {"python": platform.python_version(), **versions},
        "devices": f"{jax.device_count()} x {device.device_kind}",
        "processes": jax.process_count(),
        "commit": commit(),
    }


def require_commit() -> None:
    """Checks that this code is that of a commit, as far as Git is at hand.

    Raises:
      SettingError: Python files have changed since the last commit, or are not in it.
    """
    if (commit() or "").endswith("-dirty"):
        raise SettingError(
            "Python files differ from the last commit, so the results could not be traced to a "
            "commit. Commit them, or pass --allow-dirty for a trial"
        )


def commit() -> str | None:
    """Returns the commit of this code, with "-dirty" after it if Python files differ from it.

    These are files that have changed and files that are new. Only Python files count, so a run that
    adds to the committed results does not make the next run dirty. Returns None outside of a Git
    repository, or without Git.
    """

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["git", *arguments]
        folder = Path(__file__).parent
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    try:
        head = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=all", "--", ":/*.py")
    except OSError:
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + "-dirty" * bool(changed.returncode or changed.stdout)
