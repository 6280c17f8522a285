"""The quickstart runs as a user starts it, and its numbers have the right properties."""

import io
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from types import MappingProxyType

import numpy as np
import optax
import pytest
from rich.console import Console

from examples.quickstart import progress, results, training
from examples.quickstart.config import Config
from optax_gc import centralize
from tests.examples.programs import ENVIRONMENT


def run(*flags, cwd, environment=MappingProxyType({})):
    command = [sys.executable, "-W", "error", "-m", "examples.quickstart", *map(str, flags)]
    environment = ENVIRONMENT | {"COLUMNS": "100"} | environment
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def measured():
    """Measures two arms without GC and one with it."""
    with pytest.MonkeyPatch.context() as patch:
        arms = {"first": optax.identity(), "second": optax.identity(), "gc": centralize()}
        patch.setattr(training, "ARMS", arms)
        return training.train(Config(seeds=2, epochs=3), Console(quiet=True))


def test_the_arms_differ_only_in_gc(measured):
    """The weights, images and batches are the same, so two arms without GC are equal to the bit."""
    for key in ("loss", "accuracy", "drift", "removed"):
        np.testing.assert_array_equal(measured["first"][key], measured["second"][key])
        assert np.all(measured["gc"][key][:, -1] != measured["first"][key][:, -1])


def test_the_seeds_differ(measured):
    assert measured["gc"]["loss"][0, -1] != measured["gc"]["loss"][1, -1]


def test_it_learns(measured):
    for arm in measured.values():
        assert np.all(arm["loss"][:, -1] < arm["loss"][:, 0])
        assert np.all(arm["accuracy"][:, -1] > 15)


def test_gc_keeps_every_weight_vector_on_its_hyperplane(measured):
    """Equation 3: eᵀ(w - w⁰) = 0 with GC, and not without."""
    assert measured["gc"]["drift"].max() < 1e-5
    assert measured["first"]["drift"].min() > 1e-2


def test_gc_removes_part_of_the_gradient(measured):
    assert np.all(measured["first"]["removed"] == 0)
    assert np.all((measured["gc"]["removed"] > 0) & (measured["gc"]["removed"] < 1))


def test_the_images_are_those_of_the_examples_data_sets():
    from examples.datasets import small

    for split, (images, labels) in zip(("train", "test"), training.load_digits(), strict=True):
        theirs, _ = small.mnist5k(split, None)
        np.testing.assert_array_equal(labels, theirs.labels)
        pooled = theirs.images.reshape(-1, 14, 2, 14, 2, 1).mean((2, 4))
        # Equal up to the normalization, which is one shift and one scale for all pixels.
        assert np.corrcoef(images.ravel(), pooled.ravel())[0, 1] == pytest.approx(1, abs=1e-9)


def arm(accuracy):
    of = defaultdict(lambda: np.ones((len(accuracy), 1)))
    return of | {"accuracy": np.array(accuracy, float)[:, None]}


@pytest.mark.parametrize(
    ("gc", "conclusion"),
    [([82, 83, 84], "helped"), ([78, 79, 80], "hurt"), ([81, 79, 82], "show no effect")],
)
def test_the_conclusion_follows_the_interval(gc, conclusion):
    measured = {"none": arm([80, 81, 82]), "gc": arm(gc), "wrong": arm([80, 81, 82])}
    assert conclusion in results.conclude(measured)


def test_the_interval_is_that_of_students_t():
    # Mean 2, standard deviation 1, t(0.975; 2) = 4.3027.
    half = results.interval(np.array([1.0, 2.0, 3.0]))
    assert half == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert results.interval(np.zeros(3)) == 0


def test_without_a_terminal_a_line_appears_now_and_then(monkeypatch):
    clock = iter([100.0, 102.0, 102.9, 103.0, 104.0, 113.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    out = io.StringIO()
    with progress.Report(Console(file=out, width=100), total=5) as report:
        for number in range(5):
            report.describe(f"piece {number}")
            report.advance()
    # An estimate after three seconds, nothing one second later, and nothing once all is done.
    assert out.getvalue().splitlines() == ["60% done, about 2 s left; piece 2"]


def test_the_quick_mode_is_the_whole_program(tmp_path, compiled_once):
    done = run("--quick", "--out", tmp_path / "curves.png", cwd=tmp_path, environment=compiled_once)
    assert done.returncode == 0, done.stderr
    words = ("without GC", "with GC", "optax.centralize", "test accuracy", "drift", "step time")
    for word in (*words, "2 seeds, 3 arms, 3 epochs", "This was the quick mode"):
        assert word in done.stdout
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--help"], 0, "--learning-rate"),
        (["--seeds", "1"], 2, "an interval needs at least 2 seeds"),
    ],
)
def test_help_and_wrong_flags_load_no_heavy_library(flags, status, message):
    """Loading JAX, Flax or Matplotlib takes seconds of CPU time."""
    code = """
import runpy, sys
try:
    runpy.run_module("examples.quickstart", run_name="__main__", alter_sys=True)
except SystemExit as end:
    print("ended with", end.code)
print("loaded", sorted({"jax", "flax", "matplotlib", "scipy", "mlxtend"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *flags],
        env=ENVIRONMENT | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert message in done.stdout + done.stderr
    assert f"ended with {status}\nloaded []\n" in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"seeds": 1}, "--seeds 1: an interval needs at least 2 seeds"),
        ({"epochs": 0}, "--epochs 0: it must be at least 1"),
        ({"quick": True, "seeds": 5}, "--quick sets --seeds to 2: leave out one of the two"),
        ({"learning_rate": -1.0}, "--learning-rate -1.0: a positive number is needed"),
        ({"learning_rate": float("nan")}, "--learning-rate nan: a positive number is needed"),
        ({"train_images": 10}, "--train-images 10: choose 50 to 3000"),
        ({"out": Path("curves.gif")}, "the name must end in .png, .pdf or .svg"),
        ({"out": Path("nowhere/curves.png")}, "no file can be written there"),
    ],
)
def test_a_flag_that_makes_no_sense_is_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        Config(**flags)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, compiled_once):
    done = run("--quick", "--learning-rate", 1e9, cwd=tmp_path, environment=compiled_once)
    assert done.returncode == 1
    assert "the loss is nan; try a lower --learning-rate" in done.stderr
    assert list(tmp_path.iterdir()) == []
