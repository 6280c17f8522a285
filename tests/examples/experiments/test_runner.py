"""The runner makes the right runs in the right order, and can stop and continue."""

import dataclasses
import json
import re
import subprocess
import sys

import pytest

from examples.classification.presets import PRESETS
from examples.classification.task import Trainer
from examples.classification.weights import digest_net
from examples.experiments import run
from examples.experiments.columns import Column, Experiment
from examples.experiments.outcomes import gather
from examples.experiments.runner import Plan, make_runs, plan_runs
from examples.experiments.store import ResultsError, Store
from examples.training.errors import SettingError, StoppedError
from examples.training.sharding import make_mesh

TINY = dataclasses.replace(
    PRESETS["digits"][1],
    width=4,
    epochs=2,
    batch_size=48,
    train_images=96,
    evaluate_every=2,
    norm="bn",
)
COLUMN = Column(
    "toy",
    TINY,
    arms=("off", "conv+fc"),
    seeds=2,
    rates=(0.01, 0.1),
    validation=500,
)
TOY = Experiment("A toy", {"cpu": (COLUMN,)})
SOURCE = Column("net", dataclasses.replace(TINY, classes=(0, 1, 2)), arms=("off",), seeds=1)
TUNED = Column(
    "tuned", dataclasses.replace(TINY, pretrained="net", head_learning_rate=0.2), seeds=1
)


@pytest.fixture(scope="module")
def trainer():
    """One trainer for all tests, so that they share what they compile."""
    return Trainer(make_mesh(1))


class Folder:
    """A folder with results and with unfinished runs, and a way to make runs in it."""

    def __init__(self, path, trainer):
        self.results, self.work, self.trainer = path / "results", path / "work", trainer

    def make(self, starts=None, **experiments):
        """Makes the missing runs, and returns what was shown meanwhile."""
        shown = self.shown = []
        plan = Plan("cpu", experiments, {"classifier": self.trainer}, starts or {})
        make_runs(
            plan, results=self.results, work=self.work, show=lambda *values: shown.append(values)
        )
        return shown

    def path(self, name="toy"):
        return self.results / "cpu" / f"{name}.jsonl"

    def lines(self, name="toy"):
        return [json.loads(line) for line in self.path(name).read_text().splitlines()]


@pytest.fixture
def folder(tmp_path, trainer):
    return Folder(tmp_path, trainer)


class Recorder:
    """A trainer that records what it prepares, and may stop at a run."""

    config_type = Trainer.config_type

    def __init__(self, trainer, stop_at=None):
        self.trainer, self.stop_at, self.prepared = trainer, stop_at, []

    def prepare(self, config, *, diagnose=False):
        self.prepared.append(config)
        if len(self.prepared) == self.stop_at:
            raise StoppedError("Ctrl-C")
        return self.trainer.prepare(config, diagnose=diagnose)


def test_the_runner_makes_grid_and_arms_once_and_shows_its_progress(folder):
    shown = folder.make(toy=TOY)
    seen = folder.lines()
    # The grid of both arms, by rate, seed and arm, and then what is reported.
    assert [line["config"]["validation"] for line in seen] == [500] * 8 + [0] * 4
    assert [line["config"]["gc"] for line in seen] == list(COLUMN.arms) * 6
    assert [line["config"]["seed"] for line in seen[8:]] == [100, 100, 101, 101]
    grid = {
        (c["gc"], c["seed"], c["learning_rate"]): line["test_accuracy"]
        for line in seen[:8]
        for c in [line["config"]]
    }
    for config in (line["config"] for line in seen[8:]):
        # Of two seeds, the other one chooses.
        other = 201 - config["seed"]
        low, high = (grid[config["gc"], other, rate] for rate in COLUMN.rates)
        assert config["learning_rate"] == COLUMN.rates[high > low]
    assert shown[0] == ("toy toy off seed 100; time left: not known yet", 0, 12)
    assert re.fullmatch(r"toy toy conv\+fc seed 101; time left: about 0 h \d min", shown[-2][0])
    assert shown[-1] == ("done", 12, 12)
    assert not list(folder.work.iterdir()), "only results are kept"

    line = seen[-1]
    assert line["curves"]["train"]["epoch"] == [1, 2]
    assert line["curves"]["test"]["epoch"] == [2]
    assert line["curves"]["test"]["accuracy"][-1] == pytest.approx(line["test_accuracy"], rel=1e-4)
    assert line["versions"]["optax"]
    assert line["seconds"] > 0
    assert {"commit", "devices"} <= line.keys()

    outcome = gather(COLUMN, Store(folder.path()))
    assert outcome.seeds == 2
    assert folder.make(toy=TOY) == [("done", 12, 12)], "nothing is missing"
    assert folder.lines() == seen


def test_one_compiled_step_serves_all_runs_of_an_arm(folder, trainer):
    before = len(trainer._steps)
    folder.make(toy=TOY)
    compiled = list(trainer._steps)
    assert {spec.optimizer.gc for spec in compiled} == set(COLUMN.arms)
    again = Folder(folder.results.parent / "again", trainer)
    again.make(toy=TOY)
    assert len(trainer._steps) == len(compiled) >= before


def metrics(line):
    return {k: line[k] for k in ("config", "train_loss", "test_accuracy", "curves")}


def test_a_stopped_runner_ends_with_the_same_results_when_started_again(folder, trainer):
    fewer = Experiment("A toy", {"cpu": (dataclasses.replace(COLUMN, rates=(0.1,)),)})
    folder.make(toy=fewer)
    whole = [metrics(line) for line in folder.lines()]
    folder.path().unlink()

    stopping = Folder(folder.results.parent, Recorder(trainer, stop_at=6))
    with pytest.raises(StoppedError):
        stopping.make(toy=fewer)
    assert [metrics(line) for line in folder.lines()] == whole[:5]
    folder.make(toy=fewer)
    assert [metrics(line) for line in folder.lines()] == whole


def test_all_arms_of_a_seed_start_from_the_same_weights(folder):
    one_step = dataclasses.replace(TINY, epochs=1, evaluate_every=1, train_images=48)
    column = Column("toy", one_step, arms=("off", "conv+fc"), seeds=1)
    folder.make(toy=Experiment("A toy", {"cpu": (column,)}))
    losses = [line["train_loss"] for line in folder.lines()]
    assert losses == pytest.approx([losses[0]] * 2, rel=1e-5), "that of the first step, before GC"
    assert len({line["test_loss"] for line in folder.lines()}) == 2


def test_a_run_that_diverges_is_a_result(folder):
    column = dataclasses.replace(
        COLUMN, config=dataclasses.replace(TINY, learning_rate=1e30), rates=(), seeds=1
    )
    folder.make(toy=Experiment("A toy", {"cpu": (column,)}))
    assert [line["diverged"][:5] for line in folder.lines()] == ["step "] * 2
    assert {line["test_accuracy"] for line in folder.lines()} == {10.0}, (
        "as guessing among ten digits"
    )
    assert gather(column, Store(folder.path())).diverged["conv+fc"] == 1


def test_the_nets_to_start_from_are_made_first_and_again_if_they_are_missing(folder):
    experiments = {
        "sources": Experiment("Nets", {"cpu": (SOURCE,)}),
        "tuned": Experiment("Tuned", {"cpu": (TUNED,)}),
    }
    sources = {"net": next(SOURCE.configs(None))}
    folder.make(sources, **experiments)
    assert len(folder.lines("sources")) == 1
    tuned = folder.lines("tuned")
    assert {line["config"]["pretrained"] for line in tuned} == {"net"}, "no folder of this machine"
    (weights,) = folder.work.iterdir()

    weights.rename(folder.work.parent / "elsewhere")
    folder.path("tuned").unlink()
    folder.make(sources, **experiments)
    assert [metrics(line) for line in folder.lines("tuned")] == [metrics(line) for line in tuned]
    assert len(folder.lines("sources")) == 1, "a net that is trained again has its result already"
    (start,) = {line["start"] for line in folder.lines("tuned")}

    # Results that start from another net are not continued.
    lines = folder.lines("tuned")
    lines[0]["start"] = "another"
    folder.path("tuned").write_text(json.dumps(lines[0]) + "\n")
    with pytest.raises(ResultsError, match=r"tuned\.jsonl: results start from another net"):
        folder.make(sources, **experiments)
    assert start == digest_net(weights)


def test_an_experiment_of_which_nothing_is_known_comes_last(folder):
    first = dataclasses.replace(COLUMN, rates=(), seeds=2)
    folder.make(b=Experiment("Known", {"cpu": (dataclasses.replace(first, seeds=1),)}))
    other = dataclasses.replace(first, config=dataclasses.replace(TINY, width=5), seeds=1)
    shown = folder.make(
        a=Experiment("Unknown", {"cpu": (other,)}), b=Experiment("Known", {"cpu": (first,)})
    )
    assert [text.split()[0] for text, *_ in shown] == ["b", "b", "a", "a", "done"]
    assert "time left: more than 0 h" in shown[0][0]


def test_a_plan_has_the_nets_that_its_runs_start_from():
    plan = plan_runs(("table4",), "cpu", seeds=3, mesh=make_mesh(1))
    assert list(plan.experiments) == ["sources", "table4"]
    assert {column.seeds for column in plan.columns("table4")} == {3}
    assert {column.config.pretrained for column in plan.columns("table4")} == plan.sources.keys()
    assert all(
        len({c.seed for c in column.grid_configs()}) == 3 for column in plan.columns("table4")
    )
    assert list(plan_runs(("table1",), "cpu", mesh=make_mesh(1)).experiments) == ["table1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tabel1",), "no experiment is called 'tabel1'; there are table1,"),
        (("sources", "--scale", "paper"), "sources is not in the paper"),
        (("table1", "--seeds", "1"), "--seeds 1: it must be at least 2, because the other seeds"),
        (("figure4", "--seeds", "0"), "--seeds 0: it must be at least 1"),
        (("table1", "--scale", "paper", "--allow-dirty"), "stopped: .*cifar-100-python"),
    ],
)
def test_bad_input_is_one_clear_error(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("examples.experiments.store.RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["run", *arguments])
    with pytest.raises((SystemExit, SettingError)) as error:
        run.main()
    text = capsys.readouterr().err + str(error.value)
    assert re.search(message, " ".join(text.split()))


def test_the_shortest_experiment_comes_first_and_a_bad_line_is_found_before(folder, trainer):
    recorder = Recorder(trainer, stop_at=1)
    one = Folder(folder.results.parent, recorder)
    short, long = (
        Experiment("A toy", {"cpu": (dataclasses.replace(COLUMN, rates=(), seeds=seeds),)})
        for seeds in (1, 3)
    )
    for name, experiment in {"long": long, "short": short}.items():
        store = Store(folder.path(name))
        store.path.parent.mkdir(parents=True, exist_ok=True)
        first, *_ = experiment.columns["cpu"][0].configs(None)
        store.add(first, {"test_accuracy": 50.0, "train_accuracy": 50.0, "seconds": 60.0})
    with pytest.raises(StoppedError):
        one.make(long=long, short=short)
    ((text, *_),) = one.shown
    # 5 runs of a minute are missing in one, and 1 in the other.
    assert text == "short toy conv+fc seed 0; time left: about 0 h 6 min"
    folder.path("long").write_text("{}\n")
    with pytest.raises(ResultsError, match=r"long\.jsonl, line 1"):
        one.make(short=short, long=long)
    assert len(recorder.prepared) == 1


def test_runs_of_uncommitted_code_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("examples.training.provenance.commit", lambda: "0123-dirty")
    monkeypatch.setattr(sys, "argv", ["run", "table1"])
    with pytest.raises(SystemExit, match="Commit them, or pass --allow-dirty"):
        run.main()
    assert not list(tmp_path.iterdir())


def test_help_names_the_experiments():
    command = [sys.executable, "-m", "examples.experiments.run", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for name in ("table1", "figure5", "curvature", "sources", "--scale"):
        assert name in done.stdout


@pytest.mark.parametrize("scale", ["cpu", "paper"])
def test_all_tables_are_made_without_being_named(scale):
    assert {f"table{number}" for number in range(1, 7)} <= {*run.default_names(scale)}
