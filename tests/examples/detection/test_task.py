"""A small Mask R-CNN learns, continues where it was stopped, and leaves its scores."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from rich.console import Console

from examples.datasets.types import DatasetError
from examples.detection.presets import PRESETS
from examples.detection.results import write_scores
from examples.detection.splits import load_data
from examples.detection.task import Trainer
from examples.training.loop import train
from examples.training.sharding import make_mesh

# A net of a few thousand parameters on scenes of half the size.
CONFIG = dataclasses.replace(
    PRESETS["scenes-overfit"][1],
    width=8,
    fpn_channels=8,
    fc_units=32,
    proposals=40,
    roi_samples=16,
    anchor_samples=32,
    detections=8,
    short_side=64,
    long_side=64,
    mask_cells=28,
    train_images=2,
    eval_images=2,
    batch_size=2,
    epochs=30,
    evaluate_every=30,
    warmup_steps=5,
)
QUIET = Console(quiet=True)


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def trainer(scenes_folder):
    return Trainer(make_mesh(1), data_dir=scenes_folder)


@pytest.fixture(scope="module")
def whole(trainer, tmp_path_factory):
    """Returns a run that was never stopped, with its folder."""
    folder = tmp_path_factory.mktemp("whole")
    task = trainer.prepare(CONFIG)
    finished = train(task.job, folder, checkpoint_every=7, log_every=1, console=QUIET)
    return task, folder, finished


def numbers(lines):
    """Returns the lines without how long things took."""
    return [{k: v for k, v in line.items() if "second" not in k} for line in lines]


def test_all_parts_of_the_loss_are_logged_and_it_falls(whole):
    _, _, finished = whole
    steps = [line for line in finished.lines if line["kind"] == "step"]
    assert len(steps) == 30
    parts = [name for name in steps[0] if name.startswith("loss_")]
    assert len(parts) == 5
    for line in steps:
        assert sum(line[name] for name in parts) == pytest.approx(line["loss"], rel=1e-5)
    losses = [line["loss"] for line in steps]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    tested = finished.lines[-1]
    assert tested["kind"] == "test"
    assert {"box_AP", "box_AP50", "mask_AP", "mask_AP50"} <= tested.keys()


def test_a_killed_run_continues_with_the_same_numbers(trainer, whole, tmp_path):
    task, _, finished = whole
    left = 17

    def step(state, batch):
        nonlocal left
        if not left:
            raise KilledError
        left -= 1
        return task.job.train_step(state, batch)

    again = trainer.prepare(CONFIG)
    assert again.steps is task.steps
    with pytest.raises(KilledError):
        train(
            again.job._replace(train_step=step),
            tmp_path,
            checkpoint_every=7,
            log_every=1,
            console=QUIET,
        )
    continued = train(
        trainer.prepare(CONFIG).job, tmp_path, checkpoint_every=7, log_every=1, console=QUIET
    )
    assert numbers(continued.lines) == numbers(finished.lines)


def test_a_run_leaves_results_a_table_and_a_picture(whole):
    task, folder, _ = whole
    write_scores(task, folder)
    results = json.loads((folder / "results.json").read_text())
    assert all({"image_id", "category_id", "score"} <= entry.keys() for entry in results)
    rows = list(csv.reader((folder / "classes.csv").read_text().splitlines()))
    assert rows[0] == ["class", "box_AP", "mask_AP"]
    assert [row[0] for row in rows[1:]] == list("0123456789")
    assert (folder / "predictions.png").stat().st_size > 1000


def test_the_other_splits_categories_must_be_the_same(scenes_folder, tmp_path):
    (tmp_path / "annotations").mkdir()
    for split in ("train", "test"):
        (tmp_path / split).symlink_to(scenes_folder / split)
        name = f"instances_{split}.json"
        content = json.loads((scenes_folder / "annotations" / name).read_text())
        if split == "test":
            content["categories"][3]["name"] = "another"
        (tmp_path / "annotations" / name).write_text(json.dumps(content))
    config = dataclasses.replace(CONFIG, eval_split="test")
    with pytest.raises(DatasetError, match=r"other categories .*\(4, 'another'\)"):
        load_data(config, tmp_path)
