"""The help of a program appears at once: nothing is imported for it that takes long."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLOW_TO_IMPORT = {
    "flax",
    "grain",
    "jax",
    "matplotlib",
    "optax",
    "orbax",
    "scipy",
    "sklearn",
}
PROGRAMS = [
    "examples.benchmarks.compiled",
    "examples.benchmarks.training_loop",
    "examples.detect",
    "examples.experiments.run",
    "examples.quickstart",
    "examples.train_classifier",
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_help_of_a_program_imports_nothing_slow(program):
    """Imports are the same on every machine, and seconds are not."""
    code = f"""if True:
        import atexit, runpy, sys
        slow = {SLOW_TO_IMPORT!r}
        atexit.register(lambda: print("imported:", sorted(slow & set(sys.modules))))
        sys.argv = [{program!r}, "--help"]
        runpy.run_module({program!r}, run_name="__main__")
    """
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--help" in done.stdout
    assert done.stdout.splitlines()[-1] == "imported: []"
