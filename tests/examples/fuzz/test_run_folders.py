"""If anything happens to the folder of a run, it is refused or the run continues as before."""

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import grain
import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from examples.classification.presets import PRESETS
from examples.training.checkpoints import CheckpointError, Checkpoints, read_variables
from examples.training.errors import StoppedError
from examples.training.folder import open_folder
from examples.training.log import Log
from examples.training.stream import Stream
from tests.examples.fuzz.mutations import check_message, damage, limits, search

CONFIG = PRESETS["digits"][1]
STEPS = (3, 5)


def make_state(step):
    rng = np.random.default_rng(step)
    params = {"fc": {"kernel": rng.standard_normal((40, 30), np.float32), "bias": np.ones(30)}}
    state = {"params": params, "rest": {"key": jax.random.key(step)}, "count": np.int32(step)}
    return jax.tree.map(jax.numpy.asarray, state)


def batches(taken=0):
    iterator = iter(Stream(grain.MapDataset.range(10).repeat()))
    for _ in range(taken):
        next(iterator)
    return iterator


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder of a run with two checkpoints, as the training loop writes it, and what it holds."""
    folder = tmp_path_factory.mktemp("run") / "run"
    with (
        open_folder(folder, CONFIG),
        Log(folder) as log,
        Checkpoints(folder / "checkpoints") as checkpoints,
    ):
        for step in range(1, max(STEPS) + 2):
            log.write({"kind": "step", "step": step, "epoch": 1, "loss": 1 / step})
            if step in STEPS:
                record = {"log": log.place(), "means": {"loss": 1 / step}}
                checkpoints.save(step, make_state(step), batches(step), record)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return SimpleNamespace(folder=folder, files=files)


def continue_run(folder):
    """Opens a folder as the training loop does. Returns the step and the state it goes on from."""
    with open_folder(folder, CONFIG), Checkpoints(folder / "checkpoints") as checkpoints:
        restored = checkpoints.restore(make_state(0), batches())
        if restored is None:
            with Log(folder) as log:
                assert log.lines() == []
            return 0, make_state(0)
        step, state, record = restored
        assert record["means"] == {"loss": 1 / step}
        with Log(folder, step=step, place=record["log"]) as log:
            assert [line["step"] for line in log.lines()] == [*range(1, step + 1)]
        return step, state


def assert_equal(state, expected):
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for seen, other in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert seen.dtype == other.dtype
        if jax.numpy.issubdtype(seen.dtype, jax.dtypes.prng_key):
            seen, other = jax.random.key_data(seen), jax.random.key_data(other)
        np.testing.assert_array_equal(seen, other)


def lines_in(folder):
    """Returns all lines that the folder holds, whatever their file is called."""
    return {
        line for path in folder.glob("metrics*.jsonl") for line in path.read_bytes().splitlines()
    }


# A read that ends late, after the error of another, would fail some later test.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@hypothesis.given(data=st.data())
@search(percent=40)
def test_a_damaged_folder_is_refused_or_continues_the_same(run, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy") / "run"
    shutil.copytree(run.folder, folder)
    name = data.draw(st.sampled_from(run.files))
    path = folder / name
    match data.draw(st.sampled_from(["damage", "remove", "swap", "folder"])):
        case "damage":
            path.write_bytes(data.draw(damage(path.read_bytes())))
        case "remove":
            path.unlink()
        case "swap":  # with the file of the same place in the other checkpoint, or with any other
            other = Path(
                *("5" if part == "3" else "3" if part == "5" else part for part in name.parts)
            )
            if other == name or not (folder / other).exists():
                other = data.draw(st.sampled_from(run.files))
            content = path.read_bytes()
            path.write_bytes((folder / other).read_bytes())
            (folder / other).write_bytes(content)
        case "folder":
            path.unlink()
            path.mkdir()
    before = lines_in(folder)
    step = None
    try:
        with limits():
            step, state = continue_run(folder)
    except (CheckpointError, StoppedError, OSError) as error:
        check_message(error)
    else:
        assert step in (0, *STEPS)
        assert_equal(state, make_state(step))
    if not step:
        assert lines_in(folder) == before, "lines that no checkpoint covers are kept"
    with contextlib.suppress(CheckpointError):
        variables = read_variables(folder)
        assert any(
            np.array_equal(variables["fc/kernel"], make_state(step)["params"]["fc"]["kernel"])
            for step in STEPS
        )
    shutil.rmtree(folder)


@hypothesis.given(data=st.data())
@search(percent=100)
def test_settings_that_were_changed_are_refused_or_are_the_same(run, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy")
    content = (run.folder / "config.json").read_bytes()
    (folder / "config.json").write_bytes(data.draw(damage(content)))
    try:
        with open_folder(folder, CONFIG):
            kept = json.loads((folder / "config.json").read_bytes())
    except StoppedError as error:
        check_message(error)
        return
    # A setting that is left out has its default, as in a folder from before it existed.
    expected = json.loads(json.dumps(dataclasses.asdict(CONFIG)))
    assert all(value == expected.get(name) for name, value in kept.items())
