"""A small Mask R-CNN learns from pretrained weights, on any devices, and leaves scores."""

import contextlib
import csv
import dataclasses
import json
import re
from typing import Any, cast

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from rich.console import Console
from safetensors.numpy import save_file

from examples.datasets.outlines import draw_mask, encode_mask
from examples.detection.rcnn import RCNN
from examples.detection.results import write_scores
from examples.detection.task import Trainer, create_model, read_backbone
from examples.models.pretrained import WeightsError, find_places
from examples.training.checkpoints import read_variables
from examples.training.errors import DivergedError
from examples.training.loop import train
from examples.training.sharding import make_mesh, put_batch, put_state
from tests.examples.detection.tiny import CONFIG, flags_of
from tests.examples.killing import kill_and_continue
from tests.examples.programs import ENVIRONMENT, PYTHON
from tests.helpers import run_pair

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
def trainer(scenes_folder):
    """Returns what prepares runs on one device, and keeps their compiled steps."""
    return Trainer(make_mesh(1), data_dir=scenes_folder)


@pytest.fixture(scope="module")
def whole(trainer, config, compiled_once, tmp_path_factory):
    """Returns a finished run on one device, with its folder."""
    folder = tmp_path_factory.mktemp("whole")
    task = trainer.prepare(config)
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


def train_until(job, folder, *, steps, every):
    """Trains for some steps. Then an error stands for the end of the process."""
    left = steps

    def step(state, batch):
        nonlocal left
        if not left:
            raise KilledError
        left -= 1
        return job.train_step(state, batch)

    with pytest.raises(KilledError):
        train(
            job._replace(train_step=step),
            folder,
            checkpoint_every=every,
            log_every=1,
            console=QUIET,
        )


def test_a_run_that_is_killed_anywhere_continues_with_the_same_numbers(whole, tmp_path):
    task, _, finished = whole
    for every, steps in ((4, 2), (5, 11), (6, 17)):
        train_until(task.job, tmp_path, steps=steps, every=every)
    continued = train(task.job, tmp_path, log_every=1, console=QUIET)
    assert numbers(continued.lines) == numbers(finished.lines)


def test_a_program_killed_twice_ends_like_one_that_was_not(
    config, compiled_once, scenes_folder, tmp_path
):
    lines = kill_and_continue(
        tmp_path,
        "examples.train_detector",
        [*flags_of(config), "--data-dir", str(scenes_folder), "--data-parallel", "1"],
        kills=2,
        every=4,
        steps=8,
        imports=[
            "absl.logging",
            "examples.detection.results",
            "examples.detection.task",
            "examples.training.curves",
            "examples.training.program",
        ],
        environment=compiled_once | {"JAX_NUM_CPU_DEVICES": "8"},
    )
    assert [line["step"] for line in lines if line["kind"] == "step"] == [*range(1, 31)]
    assert lines[-1]["kind"] == "test"


@pytest.mark.eight_devices
def test_four_devices_make_the_losses_of_one_and_continue_with_the_same_numbers(
    whole, config, scenes_folder, tmp_path
):
    job = Trainer(make_mesh(4), data_dir=scenes_folder).prepare(config).job
    # The same schedule, but only its first steps, because rounding grows. Two processes evaluate.
    job = job._replace(epochs=4, evaluate=lambda state: {"box_AP": 0.0})
    finished = train(job, tmp_path / "whole", log_every=1, console=QUIET)
    compare_losses(finished.lines, whole[2].lines)
    train_until(job, tmp_path / "killed", steps=3, every=2)
    continued = train(job, tmp_path / "killed", log_every=1, console=QUIET)
    assert numbers(continued.lines) == numbers(finished.lines)


@pytest.mark.eight_devices
def test_two_devices_find_the_objects_that_one_finds(whole, config, scenes_folder):
    task, _, finished = whole
    other = Trainer(make_mesh(2), data_dir=scenes_folder).prepare(config)
    task.job.evaluate(finished.state)
    other.job.evaluate(put_state(finished.state, other.steps.shardings))
    one, two = task.scores(), other.scores()
    assert one
    assert two
    assert len(one.results) == len(two.results) > 0
    for name in ("image_id", "category_id"):
        assert [entry[name] for entry in one.results] == [entry[name] for entry in two.results]
    for name in ("bbox", "score"):
        ours, theirs = ([entry[name] for entry in each.results] for each in (one, two))
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    assert one.metrics == pytest.approx(two.metrics, abs=1e-3)


def test_two_processes_with_two_images_each_make_the_losses_of_one(
    whole, config, compiled_once, scenes_folder, tmp_path
):
    command = [*PYTHON, "-m", "examples.train_detector", *flags_of(config)]
    command += ["--data-dir", str(scenes_folder), "--log-every", "1", "--checkpoint-every", "30"]
    command += ["--out", str(tmp_path / "run"), "--distributed", "--processes", "2"]
    done = run_pair(
        lambda address, index: [*command, "--coordinator", address, "--process", str(index)],
        environment=ENVIRONMENT | compiled_once,
    )
    assert [each.returncode for each in done] == [0, 0], [each.stderr for each in done]
    (told,), silent = (re.findall(r'\{"run".*\}', each.stdout) for each in done)
    assert silent == [], "one process tells the result"
    result = json.loads(told)
    assert (result["processes"], result["devices"]) == (2, "2 x cpu")
    log = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    compare_losses(map(json.loads, log), whole[2].lines)


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
    task, folder, finished = whole
    write_scores(task, finished.state, folder)
    results = json.loads((folder / "results.json").read_text())
    assert all({"image_id", "category_id", "score"} <= entry.keys() for entry in results)
    rows = list(csv.reader((folder / "classes.csv").read_text().splitlines()))
    assert rows[0] == ["class", "box_AP", "mask_AP"]
    assert [row[0] for row in rows[1:]] == list("0123456789")
    assert (folder / "predictions.png").stat().st_size > 1000


def test_a_finished_run_that_lacks_a_file_is_evaluated_again(whole, trainer, config, compiled_once):
    """A run can be stopped between its last checkpoint and these files."""
    task, folder, finished = whole
    write_scores(task, finished.state, folder)
    names = ("results.json", "classes.csv", "predictions.png")
    written = {name: (folder / name).read_bytes() for name in names}
    for name in names:
        (folder / name).unlink()
        again = trainer.prepare(config)
        write_scores(again, train(again.job, folder, console=QUIET).state, folder)
        assert {name: (folder / name).read_bytes() for name in names} == written
    whole_again = trainer.prepare(config)
    write_scores(whole_again, train(whole_again.job, folder, console=QUIET).state, folder)
    assert whole_again.scores() is None, "nothing is missing, so nothing is evaluated"


def test_weights_of_another_net_are_refused(config):
    wider = dataclasses.replace(config, width=16)
    model = nnx.eval_shape(lambda: create_model(wider, 11, 0))
    with pytest.raises(WeightsError, match=r"of another shape: bn1\.bias \(8,\), not \(16,\)"):
        read_backbone(wider)(model)
    deeper = dataclasses.replace(config, backbone="resnet34")
    model = nnx.eval_shape(lambda: create_model(deeper, 11, 0))
    with pytest.raises(
        WeightsError, match=r"missing: layer1\.2\.bn1\.bias.* is a resnet34 of width"
    ):
        read_backbone(deeper)(model)


def test_weights_that_are_not_finite_are_refused_by_name(weights, config, tmp_path):
    state = weights[1] | {"layer2.0.bn1.bias": np.full(16, np.nan, np.float32)}
    save_file(state, tmp_path / "nan.safetensors")
    broken = dataclasses.replace(config, pretrained=str(tmp_path / "nan.safetensors"))
    model = nnx.eval_shape(lambda: create_model(broken, 11, 0))
    with pytest.raises(
        WeightsError, match=r"nan\.safetensors: .*layer2\.0\.bn1\.bias holds numbers"
    ):
        read_backbone(broken)(model)


def test_an_evaluation_that_is_not_finite_is_named_with_the_step(trainer, config, tmp_path):
    job = trainer.prepare(dataclasses.replace(config, evaluate_every=1)).job

    def evaluate(state):
        raise DivergedError("the net computes numbers that are not finite for image 3")

    message = r"^step 1 .*: in the evaluation the net computes .* image 3; .*--learning-rate"
    with pytest.raises(DivergedError, match=message):
        train(job._replace(evaluate=evaluate), tmp_path, console=QUIET)


def test_a_loss_that_is_not_finite_is_named_with_what_may_help(
    trainer, config, compiled_once, tmp_path
):
    job = trainer.prepare(dataclasses.replace(config, learning_rate=1e30)).job
    message = r"^step \d .*loss_mask is .*lower --learning-rate, in proportion to a smaller --batch"
    with pytest.raises(DivergedError, match=message):
        train(job, tmp_path, console=QUIET)
