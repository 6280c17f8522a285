"""The runner as a program: what it makes, in which order, how it stops and goes on."""

import dataclasses
import functools
import json
import re
import subprocess
import sys

import pytest

from examples import train_classifier
from examples.experiments import definitions, records, run, tables
from examples.experiments.cells import Cell, Experiment
from examples.experiments.records import Records, outcome
from examples.runs import RUNS

TINY = dataclasses.replace(
    RUNS["digits"][1],
    width=4,
    epochs=2,
    batch_size=48,
    train_images=96,
    evaluate_every=2,
    norm="bn",
)
CELL = Cell(
    "toy",
    TINY,
    arms=("off", "conv+fc", "optax.centralize"),
    seeds=2,
    rates=(0.01, 0.1),
    decays=(1e-4,),
)
SOURCE = Cell("net", dataclasses.replace(TINY, classes=(0, 1, 2)), arms=("off",), seeds=1)
TUNED = Cell("tuned", dataclasses.replace(TINY, pretrained="net", head_learning_rate=0.2), seeds=1)


TASKS = []


def prepare_once(config, data, mesh, **kwargs):
    """Compiles for all tests what would be compiled for each; what a task serves, it serves alike."""
    for task in TASKS:
        if task.serves(config):
            return task
    TASKS.append(train_classifier.prepare(config, data, mesh, **kwargs))
    return TASKS[-1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Results and runs under way in a folder of the test's, experiments that take seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    for name, cell in {"toy": CELL, "sources": SOURCE, "tuned": TUNED}.items():
        experiment = Experiment("A toy", {"cpu": (cell,)})
        monkeypatch.setitem(definitions.EXPERIMENTS, name, experiment)
    # Eight virtual devices on a few cores would take their time.
    monkeypatch.setattr(run.meshes, "make_mesh", functools.partial(run.meshes.make_mesh, 1))
    monkeypatch.setattr(run, "prepare", prepare_once)
    monkeypatch.setattr(run, "SOURCES", {"net": next(SOURCE.runs(0.1, 5e-4))})
    return tmp_path


def lines(folder, name="toy"):
    text = (folder / "results" / "cpu" / f"{name}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def make(*names, **settings):
    """Makes what is missing; gives what was shown on the way."""
    shown = []
    run.make(run.Settings(names, **settings), lambda *values: shown.append(values))
    return shown


def test_it_makes_grid_and_arms_once_and_says_how_far_it_is(folder, monkeypatch):
    prepared = []

    def prepare(config, *args, **kwargs):
        prepared.append(config)
        return prepare_once(config, *args, **kwargs)

    monkeypatch.setattr(run, "prepare", prepare)
    shown = make("toy")
    assert [task.gc for task in prepared] == ["off", "conv+fc", "optax.centralize"], (
        "one compiled step an arm serves its grid and all of its seeds"
    )
    seen = lines(folder)
    assert [line["config"]["validation"] for line in seen] == [500] * 4 + [0] * 6
    assert [line["config"]["gc"] for line in seen[4:]] == list(CELL.arms) * 2
    assert [line["config"]["seed"] for line in seen] == [1000, 1001] * 2 + [0] * 3 + [1] * 3
    low, high = ([line["test_accuracy"] for line in seen[i : i + 2]] for i in (0, 2))
    best = CELL.rates[sum(high) > sum(low)]
    assert {line["config"]["learning_rate"] for line in seen[4:]} == {best}
    assert shown[0] == ("toy toy off seed 1000", 0, 10)
    assert shown[-1] == ("done", 10, 10)
    assert not list((folder / "runs" / "experiments").iterdir()), "what is kept is the results"

    line = seen[-1]
    assert line["curves"]["train"]["epoch"] == [1, 2]
    assert line["curves"]["test"]["epoch"] == [2]
    assert line["curves"]["test"]["accuracy"][-1] == pytest.approx(line["test_accuracy"], rel=1e-4)
    assert line["versions"]["optax"]
    assert line["seconds"] > 0
    assert {"commit", "devices"} <= line.keys()

    found = outcome(CELL, Records("toy", "cpu"))
    assert found.seeds == 2
    table = next(tables.make_tables("toy", "cpu", Records("toy", "cpu")))
    assert table.row_count == 13

    assert make("toy") == [("done", 10, 10)], "nothing is missing"
    assert lines(folder) == seen


def metrics(line):
    return {k: line[k] for k in ("config", "train_loss", "test_accuracy", "curves")}


def test_stopped_and_started_again_it_ends_with_the_same_results(folder, monkeypatch):
    make("toy", seeds=1)
    whole = [metrics(line) for line in lines(folder)]
    (folder / "results" / "cpu" / "toy.jsonl").unlink()

    original, count = run.train, 0

    def interrupted(*args):
        nonlocal count
        count += 1
        if count == 6:
            raise train_classifier.StoppedError("by Ctrl-C")
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(run, "train", interrupted)
        with pytest.raises(train_classifier.StoppedError):
            make("toy", seeds=1)
    assert [metrics(line) for line in lines(folder)] == whole[:5]
    make("toy", seeds=1)
    assert [metrics(line) for line in lines(folder)] == whole


def test_arms_of_a_seed_start_alike(folder):
    one_step = dataclasses.replace(TINY, epochs=1, train_images=48)
    cell = Cell("toy", one_step, arms=("off", "conv+fc"), seeds=1)
    definitions.EXPERIMENTS["toy"] = Experiment("A toy", {"cpu": (cell,)})
    make("toy")
    losses = [line["train_loss"] for line in lines(folder)]
    assert losses == pytest.approx([losses[0]] * 2, rel=1e-5), "the first step's, in front of GC"
    assert len({line["test_loss"] for line in lines(folder)}) == 2


def test_a_run_that_diverges_is_a_result(folder):
    cell = dataclasses.replace(
        CELL, config=dataclasses.replace(TINY, learning_rate=1e30), rates=(), seeds=1
    )
    definitions.EXPERIMENTS["toy"] = Experiment("A toy", {"cpu": (cell,)})
    make("toy")
    assert [line["diverged"][:5] for line in lines(folder)] == ["step "] * 3
    assert outcome(cell, Records("toy", "cpu")).diverged["conv+fc"] == 1


def test_the_nets_to_start_from_are_made_first_and_again_where_they_are_gone(folder):
    make("tuned")
    assert len(lines(folder, "sources")) == 1
    tuned = lines(folder, "tuned")
    assert {line["config"]["pretrained"] for line in tuned} == {"net"}, "no folder of this machine"
    kept = folder / "runs" / "experiments"
    assert len(list(kept.iterdir())) == 1

    for weights in kept.iterdir():
        weights.rename(folder / "elsewhere")
    (folder / "results" / "cpu" / "tuned.jsonl").unlink()
    make("tuned")
    assert [metrics(line) for line in lines(folder, "tuned")] == [metrics(line) for line in tuned]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tabel1",), "no experiment is called 'tabel1'; there are table1,"),
        ((), "name an experiment: table1,"),
        (("rates", "--scale", "paper"), "rates is not in the paper"),
        (("table1", "--seeds", "0"), "--seeds 0: at least 1"),
        (("table1", "--scale", "paper"), "stopped: .*cifar-100-python"),
    ],
)
def test_bad_input_is_one_clear_error(folder, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["run", *arguments])
    with pytest.raises((SystemExit, ValueError)) as error:
        run.main()
    text = capsys.readouterr().err + str(error.value)
    assert re.search(message, " ".join(text.split()))


def test_help_names_the_experiments():
    command = [sys.executable, "-m", "examples.experiments.run", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for name in ("table1", "figure5", "curvature", "rates", "images", "--scale"):
        assert name in done.stdout
