"""The trainer as a program writes, stops and continues as it should."""

import contextlib
import dataclasses
import json
import resource
import signal
import time
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import pytest
from rich.console import Console

from examples.classification.presets import PRESETS
from examples.classification.task import Trainer, evaluate
from examples.classification.weights import HEAD
from examples.datasets import pipeline
from examples.training import loop
from examples.training.checkpoints import CheckpointError, read_variables
from examples.training.errors import DivergedError, StoppedError
from examples.training.folder import open_folder, write_result
from examples.training.sharding import make_mesh, put_batch
from examples.training.steps import path_name
from tests.examples.trainer_program import SMALL, main

CONFIG = dataclasses.replace(PRESETS["digits"][1], width=4, epochs=3, norm="bn")
STEPS = 75


@pytest.fixture(scope="module")
def trainer():
    return Trainer(make_mesh(1))


@pytest.fixture(scope="module")
def task(trainer):
    return trainer.prepare(CONFIG)


def train(job, folder, **options):
    """Makes the run of CONFIG in a folder, or the part of it that is missing."""
    options = {"checkpoint_every": 10, "log_every": 1, "console": Console(quiet=True)} | options
    folder.mkdir(exist_ok=True)
    return loop.train(job, folder, **options)


@pytest.fixture(scope="module")
def whole(task, tmp_path_factory):
    """Returns the folder of a run that was not disturbed, and its result."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with open_folder(folder, CONFIG):
        finished = train(task.job, folder)
        return folder, write_result(folder, CONFIG, finished)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def at_step(job, number, act):
    """Returns the job, with something that happens before one step."""
    count = 0

    def train_step(state, batch):
        nonlocal count
        count += 1
        if count == number:
            batch = act(batch) or batch
        return job.train_step(state, batch)

    return job._replace(train_step=train_step)


def assert_ends_as(whole, folder, job):
    """Starts the run in the folder again, and checks that it ends like the undisturbed one."""
    train(job, folder)
    assert (folder / "metrics.jsonl").read_bytes() == (whole[0] / "metrics.jsonl").read_bytes()


def test_a_run_learns_and_says_so_line_by_line(whole):
    seen = lines(whole[0])
    assert [line["step"] for line in seen if line["kind"] == "step"] == [*range(1, STEPS + 1)]
    for kind in ("train", "test"):
        assert [line["epoch"] for line in seen if line["kind"] == kind] == [1, 2, 3]
    steps = [line for line in seen if line["kind"] == "step"]
    train_line = next(line for line in seen if line["kind"] == "train")
    assert train_line["loss"] == pytest.approx(np.mean([line["loss"] for line in steps[:25]]))
    assert steps[0]["learning_rate"] == pytest.approx(0.1)
    assert whole[1]["test_accuracy"] > 90


def test_the_result_holds_config_versions_and_the_last_metrics(whole):
    folder, result = whole
    assert json.loads((folder / "result.json").read_text()) == json.loads(json.dumps(result))
    last = {line["kind"]: line for line in lines(folder)}
    assert result["test_accuracy"] == last["test"]["accuracy"]
    assert result["train_loss"] == last["train"]["loss"]
    named = {key for key in result if key.startswith(("train_", "test_"))}
    assert named == {"train_loss", "train_accuracy", "test_loss", "test_accuracy"}
    assert result["config"]["seed"] == 0
    assert result["versions"]["jax"] == jax.__version__
    assert result["steps"] == STEPS
    assert 0 < result["waiting_for_data"] < 1
    assert result["images_per_second"] > 0
    assert {"commit", "devices", "seconds"} <= result.keys()


def test_evaluation_counts_every_image_once(task):
    """There are 500 images in batches of 70, so the last batch is padded."""
    state, data, eval_step = task.job.init(), task.data, task.steps.eval_step
    batches = pipeline.eval_batches(data.test, data.test_transform, batch_size=70)
    whole_batch = next(iter(pipeline.eval_batches(data.test, data.test_transform, batch_size=500)))
    sums = eval_step(state, whole_batch)
    seen = evaluate(eval_step, state, batches, task.job.mesh)
    assert seen["accuracy"] == pytest.approx(float(sums["accuracy"]) / 500)
    assert seen["loss"] == pytest.approx(float(sums["loss"]) / 500, rel=1e-5)


def test_a_finished_run_started_again_ends_the_same(whole, task):
    again = train(task.job, whole[0])
    assert again.lines == lines(whole[0])
    assert again.steps == STEPS


def test_a_run_goes_on_with_the_data_it_began_with(whole, trainer, task, tmp_path):
    stopping = at_step(task.job, 33, lambda batch: signal.raise_signal(signal.SIGINT))
    with pytest.raises(StoppedError, match="Ctrl-C"):
        train(stopping, tmp_path)
    others = {
        "training": dataclasses.replace(CONFIG, train_images=1290),
        "evaluation": dataclasses.replace(CONFIG, validation=100),
    }
    for kind, config in others.items():
        other = trainer.prepare(config).job.data
        changed = task.job._replace(data={**task.job.data, kind: other[kind]})
        with pytest.raises(StoppedError, match=rf"other data for {kind}\. Pass another --out"):
            train(changed, tmp_path)
    assert_ends_as(whole, tmp_path, task.job)


def test_arms_share_weights_and_batches_and_differ_in_gc(whole, trainer, tmp_path):
    config = dataclasses.replace(CONFIG, gc="off", epochs=1, schedule="constant")
    train(trainer.prepare(config).job, tmp_path)
    off, on = lines(tmp_path), lines(whole[0])
    assert off[0]["loss"] == pytest.approx(on[0]["loss"], rel=1e-5)
    assert off[5]["loss"] != pytest.approx(on[5]["loss"], rel=1e-5)


def test_a_seed_changes_weights_and_order_and_compiles_nothing(whole, trainer, task, tmp_path):
    compiled = task.steps.train_step._cache_size()
    train(trainer.prepare(dataclasses.replace(CONFIG, seed=1)).job, tmp_path)
    assert lines(tmp_path)[0]["loss"] != lines(whole[0])[0]["loss"]
    assert task.steps.train_step._cache_size() == compiled


def test_rates_and_decay_compile_nothing_and_are_obeyed(whole, trainer, task, tmp_path):
    """A shared step has the same numbers as a step that was made for one learning rate."""
    compiled = task.steps.train_step._cache_size()
    config = dataclasses.replace(CONFIG, learning_rate=0.02, weight_decay=0.01)
    train(trainer.prepare(config).job, tmp_path / "shared")
    assert task.steps.train_step._cache_size() == compiled
    train(Trainer(make_mesh(1)).prepare(config).job, tmp_path / "own")
    assert lines(tmp_path / "shared") == lines(tmp_path / "own")
    assert lines(tmp_path / "own")[0]["learning_rate"] == pytest.approx(0.02)
    assert lines(tmp_path / "own")[9]["loss"] != pytest.approx(lines(whole[0])[9]["loss"], rel=1e-3)


def test_ctrl_c_saves_at_the_end_of_the_step(whole, task, tmp_path):
    stopping = at_step(task.job, 33, lambda batch: signal.raise_signal(signal.SIGINT))
    message = rf"Ctrl-C at step 33 of {STEPS}; the last good checkpoint is .*/33\."
    with pytest.raises(StoppedError, match=message):
        train(stopping, tmp_path)
    assert_ends_as(whole, tmp_path, task.job)


def test_ctrl_c_pressed_twice_stops_at_once(whole, task, tmp_path):
    def twice(batch):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(at_step(task.job, 33, twice), tmp_path)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert_ends_as(whole, tmp_path, task.job)


def test_a_loss_that_is_not_finite_names_step_batch_and_checkpoint(whole, task, tmp_path):
    breaking = at_step(task.job, 33, lambda batch: batch | {"image": batch["image"] * np.inf})
    with pytest.raises(StoppedError) as stopped:
        train(breaking, tmp_path)
    assert "step 33 (batch 8 of epoch 2): loss is nan" in str(stopped.value)
    assert f"the last good checkpoint is {tmp_path / 'checkpoints/30'}" in str(stopped.value)
    assert_ends_as(whole, tmp_path, task.job)


def test_an_evaluation_that_is_not_finite_stops_the_run(task, tmp_path):
    """Evaluation uses stored statistics, with which a net can overflow although it trains well."""

    breaking = task.job._replace(evaluate=lambda state: {"loss": float("inf"), "accuracy": 10.0})
    with pytest.raises(DivergedError) as stopped:
        train(breaking, tmp_path)
    assert "step 25 (batch 25 of epoch 1): in the evaluation the loss is inf" in str(stopped.value)
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert "Infinity" not in (tmp_path / "metrics.jsonl").read_text()


def test_weights_that_are_not_finite_are_not_saved(task, tmp_path):
    """The loss of the last step before the save is finite, but the weights after it are not."""

    def train_step(state, batch):
        state, values = task.job.train_step(state, batch)
        return state._replace(params=jax.tree.map(lambda x: x * np.nan, state.params)), values

    with pytest.raises(StoppedError, match=r"step 1 .*weights that are not finite; there is no"):
        train(task.job._replace(train_step=train_step), tmp_path, checkpoint_every=1)


def test_a_full_disk_stops_the_run_and_keeps_the_last_good_checkpoint(whole, task, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(batch):
        until = time.monotonic() + 60
        while not (tmp_path / "checkpoints/20").exists() and time.monotonic() < until:
            time.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))

    try:
        with pytest.raises(
            (StoppedError, CheckpointError), match=r"the last good checkpoint is .*/20"
        ):
            train(at_step(task.job, 25, fill), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_ends_as(whole, tmp_path, task.job)


def test_the_whole_program(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    main(monkeypatch, *SMALL, "--gc", "conv", "--dtype", "bfloat16", "--diagnose", "--seed", 3)
    result = json.loads(capsys.readouterr().out)
    assert result["run"] == "digits"
    assert result["config"]["dtype"] == "bfloat16"
    folder = Path("runs/digits-conv-3")
    assert {path.name for path in folder.iterdir()} == {
        "checkpoints",
        "config.json",
        "curves.png",
        "lock",
        "metrics.jsonl",
        "result.json",
        "tensorboard",
    }
    measured = lines(folder)[-2]
    assert 0 < measured["gc/share_removed"] < 1
    before, after = (measured[f"gc/conv1/kernel/norm_{when}"] for when in ("before", "after"))
    assert 0 < after < before


def test_fine_tuning_starts_from_a_run_and_trains_the_head_faster(
    whole, monkeypatch, capsys, tmp_path
):
    flags = ("digits", "--width", 4, "--norm", "bn", "--data-parallel", 1, "--epochs", 1)
    rates = ("--learning-rate", 0.001, "--head-learning-rate", 0.1)
    main(
        monkeypatch,
        *flags,
        *rates,
        "--pretrained",
        whole[0],
        "--classes",
        3,
        1,
        8,
        "--out",
        tmp_path,
    )
    result = json.loads(capsys.readouterr().out)
    assert result["test_accuracy"] > 95


def test_pretrained_weights_are_all_but_the_last_layer(whole, trainer):
    """The statistics of batch normalization are included."""
    config = dataclasses.replace(CONFIG, seed=5)
    fresh = trainer.prepare(config).job.init()
    state = trainer.prepare(dataclasses.replace(config, pretrained=str(whole[0]))).job.init()
    trained = read_variables(whole[0])
    for tree, untrained in ((state.params, fresh.params), (state.rest, fresh.rest)):
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        for (path, seen), other in zip(leaves, jax.tree.leaves(untrained), strict=True):
            name = path_name(path)
            from_head = name.startswith(f"{HEAD}/")
            np.testing.assert_array_equal(seen, other if from_head else trained[name])


def test_the_first_step_is_traced_when_the_run_is_prepared(monkeypatch, tmp_path):
    """So settings that do not fit each other fail before work begins, and nothing is traced twice."""
    traced = []
    original = jax.nn.one_hot
    monkeypatch.setattr("jax.nn.one_hot", lambda *args: traced.append(1) or original(*args))
    task = Trainer(make_mesh(1)).prepare(dataclasses.replace(CONFIG, width=2))
    assert len(traced) == 1
    state = task.job.init()
    with contextlib.closing(iter(task.job.batches)) as batches:
        # As the first step of the run would, but without the compilation.
        cast(Any, task.steps.train_step).trace(state, put_batch(next(batches), task.job.mesh))
    assert len(traced) == 1


def test_the_weights_of_another_net_are_refused(whole, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"holds another net: it differs in .*norm1/mean"):
        main(monkeypatch, *SMALL, "--norm", "gn", "--pretrained", whole[0])
