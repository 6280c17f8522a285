"""The help of a program appears at once: nothing is imported for it that takes long."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SLOW_TO_IMPORT = [
    "flax",
    "grain",
    "jax",
    "matplotlib",
    "optax",
    "orbax",
    "scipy",
    "sklearn",
    "torch",
]
PROGRAMS = [
    "examples.benchmarks.alternatives",
    "examples.benchmarks.collectives",
    "examples.benchmarks.compiled",
    "examples.benchmarks.compiled.detector",
    "examples.benchmarks.compiled.forms",
    "examples.benchmarks.compiled.roofline",
    "examples.benchmarks.detection",
    "examples.benchmarks.detection_step",
    "examples.benchmarks.overhead",
    "examples.benchmarks.training_loop",
    "examples.detect",
    "examples.detection.scenes",
    "examples.experiments.figures",
    "examples.experiments.run",
    "examples.experiments.sweep.report",
    "examples.experiments.sweep.run",
    "examples.experiments.tables",
    "examples.models",
    "examples.quickstart",
    "examples.train_classifier",
    "examples.train_detector",
]
# All programs run in one process, because Python takes longer to start than a help to appear.
SHOW_HELP = """
import contextlib, io, json, runpy, sys
programs, slow = json.loads(sys.argv[1])
for program in programs:
    sys.argv = [program, "--help"]
    before, status = set(sys.modules), None
    with contextlib.redirect_stdout(io.StringIO()) as text:
        try:
            runpy.run_module(program, run_name="__main__")
        except SystemExit as end:
            status = end.code
    imported = sorted((set(sys.modules) - before) & set(slow))
    print(program, status, "--help" in text.getvalue(), imported)
"""


def test_every_program_is_listed():
    found = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for path in (ROOT / "examples").rglob("*.py")
        if '\nif __name__ == "__main__":\n' in path.read_text(encoding="utf-8")
    ]
    assert sorted(found) == PROGRAMS


def test_the_help_of_a_program_imports_nothing_slow():
    """Imports are the same on every machine, and seconds are not."""
    done = subprocess.run(
        [sys.executable, "-c", SHOW_HELP, json.dumps([PROGRAMS, SLOW_TO_IMPORT])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{program} 0 True []" for program in PROGRAMS]
