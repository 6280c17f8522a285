"""A checkpoint restores exactly what was saved, or is refused."""

import json
import shutil

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.training.checkpoints import CheckpointError, Checkpoints, read_variables
from examples.training.digest import digest_of
from examples.training.sharding import make_mesh, state_shardings
from examples.training.stream import Stream


def data(taken=0):
    """Returns an iterator that `taken` batches were taken from."""
    iterator = iter(Stream(grain.MapDataset.range(1000).seed(0).shuffle().repeat()))
    for _ in range(taken):
        next(iterator)
    return iterator


def save(folder, *steps):
    """Saves checkpoints whose arrays hold the number of the step."""
    with Checkpoints(folder) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), data(step), {"mean": step / 3})


def kernel(value):
    """Returns numbers that do not compress well, so that most bytes of a checkpoint are theirs."""
    return np.random.default_rng(0).standard_normal((64, 16), np.float32) + np.float32(value)


def make_state(value=1.0, mesh=None):
    state = {
        "params": {"fc": {"kernel": jnp.asarray(kernel(value))}},
        "rest": {"key": jax.random.key(3)},
    }
    return jax.device_put(state, state_shardings(state, mesh or make_mesh(1)))


def test_a_save_holds_the_state_and_the_place_of_its_moment(tmp_path):
    """While it is written, training continues in the same buffers."""
    step = jax.jit(lambda state: jax.tree.map(lambda x: x * 2, state), donate_argnums=0)
    batches = data(5)
    params = make_state()["params"]
    with Checkpoints(tmp_path) as checkpoints:
        state = {"params": params, "rest": {"key": jax.random.key(3)}}
        checkpoints.save(5, state, batches, {"offset": 7, "mean": 1 / 3})
        following = [int(next(batches)) for _ in range(20)]
        for _ in range(20):
            params = step(params)
    again = data()
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(make_state(0.0), again)
    assert restored is not None
    assert restored.step == 5
    assert restored.record == {"offset": 7, "mean": 1 / 3}
    np.testing.assert_array_equal(restored.state["params"]["fc"]["kernel"], kernel(1))
    assert restored.state["rest"]["key"] == jax.random.key(3)
    assert [int(next(again)) for _ in range(20)] == following


def test_an_empty_folder_is_the_start(tmp_path):
    with Checkpoints(tmp_path / "new") as checkpoints:
        assert checkpoints.restore(make_state(), data()) is None
        assert checkpoints.last_good() == "there is no checkpoint yet"


def test_two_checkpoints_are_kept_and_the_last_is_named(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (2, 4, 6):
            checkpoints.save(step, make_state(step), data(step), {})
        checkpoints.save(6, make_state(9), data(6), {})  # there already: nothing to do
        checkpoints.wait()
        assert checkpoints.last_good() == f"the last good checkpoint is {tmp_path / '6'}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4", "6"]
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(make_state(), data())
    assert restored is not None
    np.testing.assert_array_equal(restored.state["params"]["fc"]["kernel"], kernel(6))


@pytest.mark.eight_devices
def test_a_checkpoint_goes_to_other_devices(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(3.0, make_mesh(2, 4)), data(1), {})
    target = make_state(0.0, make_mesh(4, 2))
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(target, data())
    assert restored is not None
    seen = restored.state["params"]["fc"]["kernel"]
    assert seen.sharding == target["params"]["fc"]["kernel"].sharding
    np.testing.assert_array_equal(seen, kernel(3))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    path.write_bytes(content)


def largest(folder):
    return max(
        (file for file in folder.rglob("*") if file.is_file()), key=lambda f: f.stat().st_size
    )


def other_record(checkpoint):
    path = checkpoint / "record/metadata"
    path.write_text(path.read_text().replace("1.", "2."))


def other_place(number):
    return lambda checkpoint: (checkpoint / "data/process_0-of-1.json").write_text(
        json.dumps({"batches": number})
    )


def other_state(checkpoint):
    shutil.rmtree(checkpoint / "state")
    shutil.copytree(checkpoint.parent / "2/state", checkpoint / "state")


def other_step(checkpoint):
    shutil.rmtree(checkpoint)
    shutil.copytree(checkpoint.parent / "2", checkpoint)


@pytest.mark.parametrize(
    "damage",
    [
        lambda checkpoint: flip(largest(checkpoint / "state/ocdbt.process_0/d")),
        lambda checkpoint: (checkpoint / "record/metadata").write_text("{}"),
        lambda checkpoint: (checkpoint / "record/metadata").write_text("[]"),
        lambda checkpoint: (checkpoint / "data/process_0-of-1.json").unlink(),
        lambda checkpoint: (checkpoint / "state/array_metadatas/process_0").unlink(),
        other_place(-1),
        other_place(5),
        other_place(10**9),
        other_record,
        other_state,
        other_step,
    ],
)
def test_a_changed_checkpoint_is_refused_and_the_newest_good_one_named(tmp_path, damage):
    save(tmp_path / "checkpoints", 2, 4)
    damage(tmp_path / "checkpoints/4")
    bad, good = tmp_path / "checkpoints/4", tmp_path / "checkpoints/2"
    message = (
        f"{bad} cannot be used: .*delete that folder, and the run will continue from .*{good}$"
    )
    with (
        Checkpoints(tmp_path / "checkpoints") as checkpoints,
        pytest.raises(CheckpointError, match=message) as error,
    ):
        checkpoints.restore(make_state(), data())
    assert "\n" not in str(error.value)
    shutil.rmtree(bad)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        restored = checkpoints.restore(make_state(), data())
    assert restored is not None
    assert restored.step == 2


def test_a_damaged_checkpoint_is_not_offered_instead_of_another(tmp_path):
    save(tmp_path / "checkpoints", 2, 4)
    for step in ("2", "4"):
        flip(largest(tmp_path / "checkpoints" / step / "state/ocdbt.process_0/d"))
    message = "no other checkpoint here is good, so delete the folder of the run"
    with (
        Checkpoints(tmp_path / "checkpoints") as checkpoints,
        pytest.raises(CheckpointError, match=message),
    ):
        checkpoints.restore(make_state(), data())


def test_the_net_of_a_changed_checkpoint_is_refused(tmp_path):
    save(tmp_path / "checkpoints", 2, 4)
    other_state(tmp_path / "checkpoints/4")
    with pytest.raises(CheckpointError, match=r"/4 cannot be used: .* good checkpoint .*/2$"):
        read_variables(tmp_path)


@pytest.mark.eight_devices
def test_the_digest_of_a_checkpoint_does_not_depend_on_its_sharding():
    expected = digest_of(3, {"a": 1}, make_state(1.0, make_mesh(1)))
    assert digest_of(3, {"a": 1}, make_state(1.0, make_mesh(2, 4))) == expected
    for step, record, value in ((4, {"a": 1}, 1.0), (3, {"a": 2}, 1.0), (3, {"a": 1}, 1.0000001)):
        assert digest_of(step, record, make_state(value)) != expected


def test_a_file_in_place_of_the_folder_is_refused_before_the_first_step(tmp_path):
    (tmp_path / "checkpoints").touch()
    with pytest.raises(CheckpointError, match="checkpoints: checkpoints cannot be saved here"):
        Checkpoints(tmp_path / "checkpoints")


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="file/x: checkpoints cannot be saved here"):
        Checkpoints(tmp_path / "file/x")


def test_only_the_net_can_be_read_by_the_names_of_its_variables(tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, make_state(2.0), data(1), {})
    variables = read_variables(tmp_path)
    np.testing.assert_array_equal(variables["fc/kernel"], kernel(2))


def test_a_folder_without_a_checkpoint_has_no_net(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint of a run here"):
        read_variables(tmp_path)
