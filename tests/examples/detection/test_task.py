"""A small Mask R-CNN learns from pretrained weights, on any devices, and leaves scores."""

import contextlib
import csv
import dataclasses
import json
from typing import Any, cast

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from rich.console import Console
from safetensors.numpy import save_file

from examples.datasets.coco import draw_mask, encode_mask
from examples.datasets.types import DatasetError
from examples.detection.config import Config
from examples.detection.rcnn import RCNN
from examples.detection.results import write_scores
from examples.detection.splits import load_data
from examples.detection.task import Trainer, create_model, net_settings, read_backbone
from examples.models.pretrained import WeightsError, find_places
from examples.training.checkpoints import CheckpointError, read_variables
from examples.training.loop import train
from examples.training.sharding import make_mesh, put_batch
from tests.examples.detection.tiny import CONFIG, flags_of
from tests.examples.killing import kill_and_continue

QUIET = Console(quiet=True)


class KilledError(Exception):
    """Stands for the end of the process."""


def numbers(lines):
    """Returns the lines without how long things took."""
    return [{k: v for k, v in line.items() if "second" not in k} for line in lines]


@pytest.fixture(scope="module")
def mixed_folder(scenes_folder, tmp_path_factory):
    """Returns four scenes, of which two are made higher by black rows at the bottom."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "annotations").mkdir()
    (folder / "train").mkdir()
    name = "annotations/instances_train.json"
    content = json.loads((scenes_folder / name).read_text())
    images = content["images"] = content["images"][:4]
    higher = {image["id"] for image in images[1::2]}
    for image in images:
        picture = np.asarray(Image.open(scenes_folder / "train" / image["file_name"]))
        if image["id"] in higher:
            picture = np.pad(picture, ((0, 32), (0, 0), (0, 0)))
            image["height"] += 32
        Image.fromarray(picture).save(folder / "train" / image["file_name"])
    kept = {image["id"] for image in images}
    content["annotations"] = [e for e in content["annotations"] if e["image_id"] in kept]
    for entry in content["annotations"]:
        if entry["image_id"] in higher:
            mask = draw_mask(entry["segmentation"], (128, 128))
            entry["segmentation"] = encode_mask(np.pad(mask, ((0, 32), (0, 0))))
    (folder / name).write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Returns a file with random weights of a classifier, by torchvision's names."""
    backbone = nnx.eval_shape(lambda: create_model(CONFIG, 2, 0)).backbone
    rng = np.random.default_rng(0)
    state = {"fc.weight": np.ones((10, 64), np.float32), "fc.bias": np.ones(10, np.float32)}
    for key, place in find_places(backbone).items():
        drawn = rng.standard_normal(place.shape) / np.sqrt(np.prod(place.shape[1:]))
        state[key] = np.float32(drawn if len(place.shape) == 4 else 1 + 0.1 * abs(drawn))
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(state, path)
    return path, state


@pytest.fixture(scope="module")
def config(weights):
    return dataclasses.replace(CONFIG, pretrained=str(weights[0]))


@pytest.fixture(scope="module")
def whole(scenes_folder, config, fast, tmp_path_factory):
    """Returns a finished run on one device, with its folder."""
    folder = tmp_path_factory.mktemp("whole")
    task = Trainer(make_mesh(1), data_dir=scenes_folder).prepare(config)
    return task, folder, train(task.job, folder, checkpoint_every=30, log_every=1, console=QUIET)


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
    assert whole[0].guess.keys() <= {f"test_{name}" for name in tested}


def test_steps_are_traced_once_for_each_bucket(mixed_folder, config, monkeypatch):
    """What is traced once is compiled once."""
    traced = []
    losses = RCNN.losses

    def count(model, batch, key):
        traced.append(batch["image"].shape[1:3])
        return losses(model, batch, key)

    monkeypatch.setattr(RCNN, "losses", count)
    # Images of two shapes, from which two buckets follow.
    mixed = dataclasses.replace(config, long_side=96, train_images=4, eval_images=4)
    task = Trainer(make_mesh(1), data_dir=mixed_folder).prepare(mixed)
    with contextlib.closing(iter(task.job.batches)) as batches:
        for _ in range(6):
            batch = put_batch(next(batches), task.job.mesh)
            cast(Any, task.steps.train_step).trace(task.steps.state, batch)
    assert sorted(traced) == [(64, 96), (96, 64)]


def test_a_run_that_is_killed_anywhere_continues_with_the_same_numbers(whole, tmp_path):
    """A step that raises an error stands for the end of the process."""
    task, _, finished = whole
    for number, killed in enumerate((2, 11, 17)):
        left = killed

        def step(state, batch):
            nonlocal left
            if not left:
                raise KilledError
            left -= 1
            return task.job.train_step(state, batch)

        with pytest.raises(KilledError):
            train(
                task.job._replace(train_step=step),
                tmp_path,
                checkpoint_every=4 + number,
                log_every=1,
                console=QUIET,
            )
    continued = train(task.job, tmp_path, log_every=1, console=QUIET)
    assert numbers(continued.lines) == numbers(finished.lines)


def test_a_program_killed_three_times_ends_like_one_that_was_not(
    config, fast, scenes_folder, tmp_path
):
    lines = kill_and_continue(
        tmp_path,
        "examples.train_detector",
        [*flags_of(config), "--data-dir", str(scenes_folder), "--data-parallel", "1"],
        kills=3,
        every=4,
        steps=8,
        imports=[
            "absl.logging",
            "examples.detection.results",
            "examples.detection.task",
            "examples.training.curves",
            "examples.training.program",
        ],
        environment=fast | {"JAX_NUM_CPU_DEVICES": "8"},
    )
    assert [line["step"] for line in lines if line["kind"] == "step"] == [*range(1, 31)]
    assert lines[-1]["kind"] == "test"


def test_four_devices_with_an_image_each_make_the_losses_of_one(
    whole, config, scenes_folder, tmp_path
):
    job = Trainer(make_mesh(4), data_dir=scenes_folder).prepare(config).job
    # The same schedule, but only its first steps: rounding grows.
    finished = train(job._replace(epochs=4), tmp_path, log_every=1, console=QUIET)
    compare_losses(finished.lines, whole[2].lines)


def compare_losses(lines, expected):
    """Checks that two runs have the same first losses, up to rounding."""
    ours, theirs = (
        [line["loss"] for line in each if line["kind"] == "step"][:4] for each in (lines, expected)
    )
    assert len(ours) == 4
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)


def test_frozen_layers_keep_their_weights_and_have_no_momentum(whole, weights):
    task, folder, _ = whole
    trained, given = read_variables(folder), weights[1]

    def is_kept(name, key):
        ours = trained[f"backbone/{name}"]
        return np.array_equal(
            ours, given[key].transpose(2, 3, 1, 0) if ours.ndim > 1 else given[key]
        )

    assert is_kept("conv1/kernel", "conv1.weight")
    assert is_kept("norm1/scale", "bn1.weight")
    assert is_kept("stages/0/1/conv2/kernel", "layer1.1.conv2.weight")
    assert not is_kept("stages/1/0/conv1/kernel", "layer2.0.conv1.weight")
    assert is_kept("stages/3/1/norm2/mean", "layer4.1.bn2.running_mean")
    assert not is_kept("stages/3/1/norm2/scale", "layer4.1.bn2.weight")
    state = task.steps.state
    shapes = [leaf.shape for leaf in jax.tree.leaves(state.params)]
    momenta = [leaf.shape for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert momenta == shapes


def test_a_run_leaves_results_a_table_and_a_picture(whole):
    task, folder, _ = whole
    write_scores(task, folder)
    results = json.loads((folder / "results.json").read_text())
    assert all({"image_id", "category_id", "score"} <= entry.keys() for entry in results)
    rows = list(csv.reader((folder / "classes.csv").read_text().splitlines()))
    assert rows[0] == ["class", "box_AP", "mask_AP"]
    assert [row[0] for row in rows[1:]] == list("0123456789")
    assert (folder / "predictions.png").stat().st_size > 1000


# Another value of every setting, and whether a run with it shares the compiled steps.
OTHER = {
    "epochs": (16, False),
    "batch_size": (2, False),
    "learning_rate": (0.2, True),
    "weight_decay": (0.1, True),
    "gc": ("off", False),
    "seed": (1, True),
    "optimizer": ("adam", False),
    "momentum": (0.5, False),
    "clip_norm": (1.0, False),
    "schedule": ("constant", False),
    "milestones": ((5,), False),
    "warmup_epochs": (2, False),
    "warmup_steps": (2, False),
    "warmup_from": (0.5, False),
    "pretrained": ("weights.safetensors", True),
    "evaluate_every": (3, True),
    "dataset": ("coco", True),
    "train_split": ("other", True),
    "eval_split": ("other", True),
    "backbone": ("resnet34", False),
    "masks": (False, False),
    "norm": ("gn", False),
    "weight_standardization": (True, False),
    "box_head": ("4conv1fc", False),
    "frozen_stages": (2, False),
    "width": (4, False),
    "fpn_channels": (4, False),
    "fc_units": (4, False),
    "rules": ("torchvision", False),
    "aligned": (False, False),
    "proposals": (20, False),
    "anchor_samples": (8, False),
    "roi_samples": (8, False),
    "detections": (4, False),
    "pixels": ("bgr", True),
    "short_side": (32, True),
    "long_side": (128, True),
    "max_objects": (9, True),
    "mask_cells": (14, True),
    "mirror": (False, True),
    "train_images": (3, True),
    "eval_images": (3, True),
    "empty_images": (True, True),
    "dtype": ("bfloat16", False),
}
# What must change with a setting.
WITH = {"milestones": {"schedule": "step"}, "warmup_epochs": {"warmup_steps": 0}}


def test_runs_share_steps_if_no_setting_differs_that_the_steps_depend_on():
    assert OTHER.keys() == {field.name for field in dataclasses.fields(Config)}
    for name, (value, shared) in OTHER.items():
        changes = {name: value}
        changes |= WITH.get(name, {})
        config = dataclasses.replace(CONFIG, **changes)
        assert (net_settings(config) == net_settings(CONFIG)) == shared, name


def test_weights_of_another_net_are_refused(weights, mixed_folder):
    path, _ = weights
    wider = dataclasses.replace(CONFIG, width=16)
    model = nnx.eval_shape(lambda: create_model(wider, 11, 0))
    with pytest.raises(WeightsError, match=r"of another shape: bn1\.bias \(8,\), not \(16,\)"):
        read_backbone(path)(model)
    with pytest.raises(CheckpointError, match="no checkpoint of a run"):
        read_backbone(mixed_folder)


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
    with pytest.raises(DatasetError, match=r"other categories .*2 are only .*4 'another'"):
        load_data(config, tmp_path)
