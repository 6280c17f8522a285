"""The quickstart as a user runs it, and what its numbers must hold."""

import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import optax
import pytest
from rich.console import Console

from examples import quickstart
from optax_gc import centralize

ROOT = Path(__file__).parents[2]


def run(*flags, cwd):
    command = [sys.executable, "-W", "error", "-m", "examples.quickstart", *map(str, flags)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "COLUMNS": "100"}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def measured():
    """Two arms without GC and one with it."""
    with pytest.MonkeyPatch.context() as patch:
        arms = {"first": optax.identity(), "second": optax.identity(), "gc": centralize()}
        patch.setattr(quickstart, "ARMS", arms)
        return quickstart.train(quickstart.Config(seeds=2, epochs=3), Console(quiet=True))


def test_the_arms_differ_in_gc_alone(measured):
    """Same weights, images and batches: two arms without GC are equal to the last bit."""
    for key in ("loss", "accuracy", "drift", "removed"):
        np.testing.assert_array_equal(measured["first"][key], measured["second"][key])
        assert np.all(measured["gc"][key][:, -1] != measured["first"][key][:, -1])


def test_the_seeds_differ(measured):
    assert measured["gc"]["loss"][0, -1] != measured["gc"]["loss"][1, -1]


def test_it_learns(measured):
    for arm in measured.values():
        assert np.all(arm["loss"][:, -1] < arm["loss"][:, 0])
        assert np.all(arm["accuracy"][:, -1] > 15)


def test_gc_holds_every_weight_vector_on_its_hyperplane(measured):
    """Equation 3: eᵀ(w - w⁰) = 0 with GC, and not without."""
    assert measured["gc"]["drift"].max() < 1e-5
    assert measured["first"]["drift"].min() > 1e-2


def test_gc_removes_part_of_the_gradient(measured):
    assert np.all(measured["first"]["removed"] == 0)
    assert np.all((measured["gc"]["removed"] > 0) & (measured["gc"]["removed"] < 1))


def arm(accuracy):
    of = defaultdict(lambda: np.ones((len(accuracy), 1)))
    return of | {"accuracy": np.array(accuracy, float)[:, None]}


@pytest.mark.parametrize(
    ("gc", "conclusion"),
    [([82, 83, 84], "helped"), ([78, 79, 80], "hurt"), ([81, 79, 82], "cannot tell")],
)
def test_the_conclusion_follows_the_interval(gc, conclusion):
    measured = {"none": arm([80, 81, 82]), "gc": arm(gc), "wrong": arm([80, 81, 82])}
    assert conclusion in quickstart.conclude(measured)


def test_the_interval_is_students():
    # Mean 2, standard deviation 1, t(0.975; 2) = 4.3027.
    assert quickstart.interval(np.array([1.0, 2.0, 3.0])) == pytest.approx(
        4.3027 / 3**0.5, rel=1e-4
    )


def test_the_whole_program(tmp_path):
    done = run("--seeds", 2, "--epochs", 2, "--out", tmp_path / "curves.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for word in (
        "without GC",
        "with GC",
        "optax.centralize",
        "test accuracy",
        "drift",
        "step time",
    ):
        assert word in done.stdout
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"seeds": 1}, "--seeds 1: an interval needs at least 2 seeds"),
        ({"epochs": 0}, "--epochs 0: at least 1 is needed"),
        ({"learning_rate": -1.0}, "--learning-rate -1.0: a positive number is needed"),
        ({"learning_rate": float("nan")}, "--learning-rate nan: a positive number is needed"),
        ({"train_images": 10}, "--train-images 10: give 50 to 3000"),
        ({"out": Path("curves.gif")}, "the name must end in .png, .pdf or .svg"),
        ({"out": Path("nowhere/curves.png")}, "no file can be written there"),
    ],
)
def test_a_flag_that_makes_no_sense(flags, message):
    with pytest.raises(ValueError, match=message):
        quickstart.Config(**flags)


def test_a_wrong_flag_is_refused_before_any_work(tmp_path):
    done = run("--seeds", 1, cwd=tmp_path)
    assert done.returncode == 2
    assert "an interval needs at least 2 seeds" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    done = run("--seeds", 2, "--epochs", 2, "--learning-rate", 1e9, cwd=tmp_path)
    assert done.returncode == 1
    assert "the loss is nan; try a lower --learning-rate" in done.stderr
    assert list(tmp_path.iterdir()) == []
