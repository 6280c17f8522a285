"""Where a result comes from: versions, machine, commit."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "grain", "orbax-checkpoint", "numpy")


def provenance() -> dict[str, Any]:
    """Gives the versions, devices and commit of this process, as JSON takes them."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    device = jax.devices()[0]
    return {
        "versions": {"python": platform.python_version(), **versions},
        "devices": f"{jax.device_count()} x {device.device_kind}",
        "processes": jax.process_count(),
        "commit": commit(),
    }


def commit() -> str | None:
    """Gives the commit that this code is of, with "-dirty" after it where Python files are changed.

    Results are no code: a run that adds to them leaves the next one as clean as itself. None where
    it is not in a Git repository, or there is no Git.
    """

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["git", *arguments]
        folder = Path(__file__).parent
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    try:
        head = git("rev-parse", "HEAD")
        changed = git("diff", "--quiet", "HEAD", "--", ":/*.py")
    except OSError:
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + "-dirty" * bool(changed.returncode)
