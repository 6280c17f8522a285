"""What is saved is what is restored, whatever happens meanwhile and to the disk."""

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.training.checkpoints import CheckpointError, Checkpoints, read_variables
from examples.training.sharding import make_mesh, state_shardings


def data():
    return iter(grain.MapDataset.range(1000).seed(0).shuffle().repeat().to_iter_dataset())


def make_state(value=1.0, mesh=None):
    state = {
        "params": {"fc": {"kernel": jnp.full((64, 16), value)}},
        "rest": {"key": jax.random.key(3)},
    }
    return jax.device_put(state, state_shardings(state, mesh or make_mesh(1)))


def test_a_save_holds_the_state_and_the_place_of_its_moment(tmp_path):
    """Training goes on while it is written, in the same buffers."""
    step = jax.jit(lambda state: jax.tree.map(lambda x: x * 2, state), donate_argnums=0)
    batches = data()
    for _ in range(5):
        next(batches)
    params = make_state()["params"]
    with Checkpoints(tmp_path) as checkpoints:
        state = {"params": params, "rest": {"key": jax.random.key(3)}}
        checkpoints.save(5, state, batches, {"offset": 7, "mean": 1 / 3})
        following = [int(next(batches)) for _ in range(20)]
        for _ in range(20):
            params = step(params)
    again = data()
    with Checkpoints(tmp_path) as checkpoints:
        done, restored, record = checkpoints.restore(make_state(0.0), again)
    assert done == 5
    assert record == {"offset": 7, "mean": 1 / 3}
    np.testing.assert_array_equal(restored["params"]["fc"]["kernel"], 1.0)
    assert restored["rest"]["key"] == jax.random.key(3)
    assert [int(next(again)) for _ in range(20)] == following


def test_an_empty_folder_is_the_start(tmp_path):
    state = make_state()
    with Checkpoints(tmp_path / "new") as checkpoints:
        assert checkpoints.restore(state, data()) == (0, state, {})
        assert checkpoints.last_good() == "there is no checkpoint yet"


def test_two_checkpoints_are_kept_and_the_last_is_named(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (2, 4, 6):
            checkpoints.save(step, make_state(step), data(), {})
        checkpoints.save(6, make_state(9), data(), {})  # there already: nothing to do
        checkpoints.wait()
        assert checkpoints.last_good() == f"the last good checkpoint is {tmp_path / '6'}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4", "6"]
    with Checkpoints(tmp_path) as checkpoints:
        _, restored, _ = checkpoints.restore(make_state(), data())
    np.testing.assert_array_equal(restored["params"]["fc"]["kernel"], 6.0)


def test_a_checkpoint_goes_to_other_devices(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(3.0, make_mesh(2, 4)), data(), {})
    target = make_state(0.0, make_mesh(4, 2))
    with Checkpoints(tmp_path) as checkpoints:
        _, restored, _ = checkpoints.restore(target, data())
    kernel = restored["params"]["fc"]["kernel"]
    assert kernel.sharding == target["params"]["fc"]["kernel"].sharding
    np.testing.assert_array_equal(kernel, 3.0)


def test_what_cannot_be_read_is_named(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(), data(), {})
    (tmp_path / "1/data/process_0-of-1.json").unlink()
    message = f"{tmp_path / '1'} cannot be read"
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError, match=message):
        checkpoints.restore(make_state(), data())


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="file/x: no checkpoint can be kept here"):
        Checkpoints(tmp_path / "file/x")


def test_the_net_alone_is_read_by_the_names_of_its_variables(tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, make_state(2.0), data(), {})
    variables = read_variables(tmp_path)
    np.testing.assert_array_equal(variables["fc/kernel"], 2.0)


def test_a_folder_without_a_checkpoint_has_no_net(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint of a run is here"):
        read_variables(tmp_path)
