"""The trainer as a program: what it writes, how it stops, how it goes on."""

import dataclasses
import json
import resource
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from examples import train_classifier
from examples.classifier import evaluate, load_data, prepare
from examples.datasets import pipeline
from examples.runs import RUNS
from examples.train_classifier import Options, StoppedError, train
from examples.training import mesh as meshes
from examples.training.checkpoints import CheckpointError, read_variables
from examples.training.step import path_name

CONFIG = dataclasses.replace(RUNS["digits"][1], width=4, epochs=3, norm="bn")
QUIET = Console(quiet=True)
STEPS = 75


@pytest.fixture(scope="module")
def data():
    return load_data(CONFIG, None)


@pytest.fixture(scope="module")
def task(data):
    return prepare(CONFIG, data, meshes.make_mesh(1))


def options(out, **changes):
    return Options(out=out, checkpoint_every=10, log_every=1, **changes)


@pytest.fixture(scope="module")
def whole(task, data, tmp_path_factory):
    """The folder of a run that nothing disturbed, and what it gave back."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, train(CONFIG, task, data, options(folder), QUIET)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def at_step(task, number, act):
    """The task, with something that happens in front of one step."""
    count = 0

    def train_step(state, batch):
        nonlocal count
        count += 1
        if count == number:
            batch = act(batch) or batch
        return task.train_step(state, batch)

    return task._replace(train_step=train_step)


def assert_ends_as(whole, folder, task, data):
    """Started again, the run in the folder ends as the one that nothing disturbed."""
    train(CONFIG, task, data, options(folder), QUIET)
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
    assert result["config"]["seed"] == 0
    assert result["versions"]["jax"] == jax.__version__
    assert result["steps"] == STEPS
    assert 0 < result["waiting_for_data"] < 1
    assert result["images_per_second"] > 0
    assert {"commit", "devices", "seconds"} <= result.keys()
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_evaluation_counts_every_image_once(task, data):
    """500 images in batches of 70: the last is padded."""
    state = task.init(CONFIG)
    batches = pipeline.eval_batches(data.test, data.test_transform, batch_size=70)
    whole_batch = next(iter(pipeline.eval_batches(data.test, data.test_transform, batch_size=500)))
    sums = task.eval_step(state, whole_batch)
    seen = evaluate(task, state, batches)
    assert seen["accuracy"] == pytest.approx(float(sums["accuracy"]) / 500)
    assert seen["loss"] == pytest.approx(float(sums["loss"]) / 500, rel=1e-5)


def test_a_finished_run_started_again_gives_the_same(whole, task, data, tmp_path):
    again = train(CONFIG, task, data, options(whole[0]), QUIET)
    for key in ("train_loss", "test_loss", "test_accuracy", "steps", "config"):
        assert again[key] == whole[1][key]


def test_arms_share_weights_and_batches_and_differ_in_gc(whole, data, tmp_path):
    config = dataclasses.replace(CONFIG, gc="off", epochs=1, schedule="constant")
    train(config, prepare(config, data, meshes.make_mesh(1)), data, options(tmp_path), QUIET)
    off, on = lines(tmp_path), lines(whole[0])
    assert off[0]["loss"] == pytest.approx(on[0]["loss"], rel=1e-5)
    assert off[5]["loss"] != pytest.approx(on[5]["loss"], rel=1e-5)


def test_a_seed_changes_weights_and_order_and_compiles_nothing(whole, task, data, tmp_path):
    config = dataclasses.replace(CONFIG, seed=1)
    compiled = task.train_step._cache_size()
    train(config, task, data, options(tmp_path), QUIET)
    assert lines(tmp_path)[0]["loss"] != lines(whole[0])[0]["loss"]
    assert task.train_step._cache_size() == compiled
    with pytest.raises(ValueError, match="prepared for another config"):
        train(dataclasses.replace(CONFIG, gc="off"), task, data, options(tmp_path), QUIET)


def test_rates_and_decay_compile_nothing_and_are_obeyed(whole, task, data, tmp_path):
    """One compiled step serves a whole grid, and gives what a step made for one point gives."""
    compiled = task.train_step._cache_size()
    config = dataclasses.replace(CONFIG, learning_rate=0.02, weight_decay=0.01, epochs=3)
    train(config, task, data, options(tmp_path / "shared"), QUIET)
    assert task.train_step._cache_size() == compiled
    own = prepare(config, data, meshes.make_mesh(1))
    train(config, own, data, options(tmp_path / "own"), QUIET)
    assert lines(tmp_path / "shared") == lines(tmp_path / "own")
    assert lines(tmp_path / "own")[0]["learning_rate"] == pytest.approx(0.02)
    assert lines(tmp_path / "own")[9]["loss"] != pytest.approx(lines(whole[0])[9]["loss"], rel=1e-3)


def test_ctrl_c_saves_at_the_end_of_the_step(whole, task, data, tmp_path):
    stopping = at_step(task, 33, lambda batch: signal.raise_signal(signal.SIGINT))
    message = rf"by Ctrl-C at step 33 of {STEPS}; the last good checkpoint is .*/33\."
    with pytest.raises(StoppedError, match=message):
        train(CONFIG, stopping, data, options(tmp_path), QUIET)
    assert_ends_as(whole, tmp_path, task, data)


def test_ctrl_c_pressed_twice_stops_at_once(whole, task, data, tmp_path):
    def twice(batch):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, at_step(task, 33, twice), data, options(tmp_path), QUIET)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert_ends_as(whole, tmp_path, task, data)


def test_a_loss_that_is_not_finite_names_step_batch_and_checkpoint(whole, task, data, tmp_path):
    breaking = at_step(task, 33, lambda batch: batch | {"image": batch["image"] * np.inf})
    with pytest.raises(StoppedError) as stopped:
        train(CONFIG, breaking, data, options(tmp_path), QUIET)
    assert "step 33 (batch 8 of epoch 2): loss is nan" in str(stopped.value)
    assert f"the last good checkpoint is {tmp_path / 'checkpoints/30'}" in str(stopped.value)
    assert_ends_as(whole, tmp_path, task, data)


def test_an_evaluation_that_is_not_finite_stops_the_run(task, data, tmp_path):
    """Training normalizes by the batch's statistics; with the stored ones a net can overflow."""

    def eval_step(state, batch):
        sums = task.eval_step(state, batch)
        return {**sums, "loss": sums["loss"] * np.inf}

    breaking = task._replace(eval_step=eval_step)
    with pytest.raises(train_classifier.DivergedError) as stopped:
        train(CONFIG, breaking, data, options(tmp_path), QUIET)
    assert "step 25 (batch 25 of epoch 1): on test images the loss is inf" in str(stopped.value)
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert "Infinity" not in (tmp_path / "metrics.jsonl").read_text()


def test_weights_that_are_not_finite_are_not_saved(task, data, tmp_path):
    """The loss of the last step before the save is fine, the weights behind it are not."""

    def train_step(state, batch):
        state, values = task.train_step(state, batch)
        return state._replace(params=jax.tree.map(lambda x: x * np.nan, state.params)), values

    with pytest.raises(StoppedError, match=r"step 1 .*weights that are not finite; there is no"):
        train(
            CONFIG,
            task._replace(train_step=train_step),
            data,
            Options(out=tmp_path, checkpoint_every=1),
            QUIET,
        )


def test_a_full_disk_stops_the_run_and_keeps_the_last_good_checkpoint(whole, task, data, tmp_path):
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
            train(CONFIG, at_step(task, 25, fill), data, options(tmp_path), QUIET)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_ends_as(whole, tmp_path, task, data)


def test_another_config_does_not_go_on_in_an_old_folder(whole, data):
    with pytest.raises(StoppedError) as stopped:
        train_classifier.open_folder(whole[0], dataclasses.replace(CONFIG, gc="conv", epochs=9))
    assert "epochs was 3 and is 9, gc was 'conv+fc' and is 'conv'" in str(stopped.value)
    assert "Give another --out" in str(stopped.value)


def test_a_folder_of_others_is_left_alone(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("mine")
    with pytest.raises(StoppedError, match=r"has no config\.json: give another --out"):
        train_classifier.open_folder(tmp_path, CONFIG)
    assert (tmp_path / "metrics.jsonl").read_text() == "mine"


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoppedError, match=r"file/run: no run can be kept here"):
        train_classifier.open_folder(tmp_path / "file/run", CONFIG)


@pytest.mark.parametrize(
    ("name", "value"), [("workers", -1), ("checkpoint_every", 0), ("log_every", 0)]
)
def test_options_that_make_no_sense(name, value):
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} {value}: at least"):
        Options(**{name: value})


def main(patch, *flags):
    patch.setattr(sys, "argv", ["train_classifier", *map(str, flags)])
    train_classifier.main()


SMALL = ("digits", "--width", 4, "--epochs", 1, "--data-parallel", 1)


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


def test_pretrained_weights_are_all_but_the_head(whole, task, data):
    """And come with the statistics of batch normalization."""
    config = dataclasses.replace(CONFIG, pretrained=str(whole[0]))
    other = dataclasses.replace(CONFIG, seed=5)
    state = prepare(config, data, meshes.make_mesh(1)).init(other)
    fresh, trained = task.init(other), read_variables(whole[0])
    for tree, untrained in ((state.params, fresh.params), (state.rest, fresh.rest)):
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        for (path, seen), other in zip(leaves, jax.tree.leaves(untrained), strict=True):
            name = path_name(path)
            np.testing.assert_array_equal(seen, other if name[:2] == "fc" else trained[name])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("table1-vgg11",), "cannot start: .*cifar-100-python"),
        ((*SMALL, "--batch-size", 2000), "--batch-size 2000: there are 1297 training images"),
        ((*SMALL[:-2], "--batch-size", 50), "--batch-size 50 does not divide among 8 devices"),
        ((*SMALL, "--fsdp", 16), "a mesh of 1 x 16 devices: there are 8"),
        ((*SMALL, "--head-learning-rate", 0.1), "for fine-tuning: --pretrained FILE"),
        ((*SMALL, "--pretrained", "gone.safetensors"), "cannot start: .*gone.safetensors"),
        ((*SMALL, "--pretrained", "."), "no checkpoint of a run is here"),
        ((*SMALL, "--validation", 5000), "cannot start: validation 5000"),
    ],
)
def test_bad_input_is_one_error_before_any_work(flags, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        main(monkeypatch, *flags)
    assert list(tmp_path.iterdir()) == []


def test_the_weights_of_another_net_are_refused(whole, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"holds another net: it differs in .*norm1/mean"):
        main(monkeypatch, *SMALL, "--norm", "gn", "--pretrained", whole[0])


def test_a_wrong_flag_and_the_list_of_runs(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        main(monkeypatch, "digits", "--learning-rate", -1)
    seen = capsys.readouterr()
    assert "--learning-rate -1.0: a positive" in seen.out + seen.err
    with pytest.raises(SystemExit):
        main(monkeypatch, "--help")
    shown = capsys.readouterr().out
    assert all(name in shown for name in RUNS)
