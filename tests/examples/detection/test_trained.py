"""A detector that was trained here can be used on pictures, and finds what its evaluation found."""

import dataclasses
import re
import shutil
import sys

import pytest
from rich.console import Console

from examples import detect
from examples.detection.results import write_scores
from examples.detection.task import Trainer
from examples.training.folder import open_folder
from examples.training.loop import train
from examples.training.sharding import make_mesh
from tests.examples.detection.tiny import CONFIG


@pytest.fixture(scope="module")
def task(scenes_folder):
    config = dataclasses.replace(
        CONFIG, norm="gn", frozen_stages=None, epochs=6, eval_split="train", batch_size=4
    )
    return Trainer(make_mesh(1), data_dir=scenes_folder).prepare(config)


@pytest.fixture(scope="module")
def folder(task, tmp_path_factory):
    """Returns the folder of a run in which nothing was learned, which is as good for these tests."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    job = task.job._replace(train_step=lambda state, batch: (state, {"loss": 0.0}))
    with open_folder(folder, task.config):
        write_scores(task, train(job, folder, console=Console(quiet=True)).state, folder)
    return folder


def find(monkeypatch, capsys, folder, picture, *flags):
    """Returns the name, the score and the sides of each object that the program finds."""
    command = ["detect", str(picture), "--weights", str(folder), *flags]
    command += ["--out", str(folder.parent / "found.png")]
    monkeypatch.setattr(sys, "argv", command)
    detect.main()
    pattern = r"(.+) (0\.\d+) at x (\d+) to (\d+), y (\d+) to (\d+)"
    return re.findall(pattern, capsys.readouterr().out)


def test_objects_are_those_of_the_evaluation_of_the_run(
    task, folder, scenes_folder, monkeypatch, capsys
):
    expected = [entry for entry in task.scores().results if entry["image_id"] == 1]
    picture = scenes_folder / "train" / "000000.png"
    found = find(monkeypatch, capsys, folder, picture, "--score-threshold", "0.05")
    assert len(found) == len(expected) > 0
    for (name, score, *sides), entry in zip(found, expected, strict=True):
        assert name == str(entry["category_id"] - 1)
        assert float(score) == pytest.approx(entry["score"], abs=2e-3)
        x, y, width, height = entry["bbox"]
        assert [*map(int, sides)] == pytest.approx([x, x + width, y, y + height], abs=1)


def test_a_run_that_is_not_finished_has_numbers_as_names(
    folder, scenes_folder, monkeypatch, capsys, tmp_path
):
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run/classes.csv").unlink()
    picture = scenes_folder / "train" / "000000.png"
    found = find(monkeypatch, capsys, tmp_path / "run", picture, "--score-threshold", "0.05")
    assert {name for name, *_ in found} <= {f"class {i}" for i in range(1, 11)}
    assert found


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, r"config\.json: these are not the settings of a run of .*detector:"),
        ("config.json", "[1]", r"config\.json: these are not the settings"),
        ("config.json", '{"epochs": 3, "model": "resnet"}', r"config\.json: these are not the"),
        ("classes.csv", "class,box_AP\n0,1.0\n", r"classes\.csv: expected a table with 10 classes"),
        ("checkpoints", None, r"run/checkpoints: there is no checkpoint"),
    ],
)
def test_what_is_wrong_with_the_folder_is_one_line(
    folder, scenes_folder, monkeypatch, capsys, tmp_path, file, content, message
):
    run = tmp_path / "run"
    shutil.copytree(folder, run)
    if content is None:
        (run / file).rename(tmp_path / "away")
    else:
        (run / file).write_text(content)
    with pytest.raises(SystemExit, match=message) as stopped:
        find(monkeypatch, capsys, run, scenes_folder / "train" / "000000.png")
    assert "\n" not in str(stopped.value)


def test_an_epsilon_is_refused_because_the_run_has_its_own(
    folder, scenes_folder, monkeypatch, capsys
):
    with pytest.raises(SystemExit, match="--norm-epsilon is for a file of weights: leave it out"):
        find(monkeypatch, capsys, folder, scenes_folder / "train", "--norm-epsilon", "1e-5")
