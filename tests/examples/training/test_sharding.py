"""Eight devices compute what one does, and each holds its part of the state."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from examples.classification import task as task_module
from examples.classification.presets import PRESETS
from examples.classification.task import Trainer
from examples.training.errors import SettingError
from examples.training.sharding import make_mesh, put_batch, state_shardings

pytestmark = pytest.mark.eight_devices

# Batch normalization uses the statistics of the whole batch, over all devices.
CONFIG = dataclasses.replace(PRESETS["digits"][1], width=8, batch_size=48, norm="bn", epochs=2)


def train(data, fsdp, steps=4):
    loss, traces = task_module.make_loss(0.0), []

    def counted(*args):
        traces.append(args)
        return loss(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_module, "make_loss", lambda _: counted)
        job = Trainer(make_mesh(data, fsdp)).prepare(CONFIG).job
    state, values = job.init(), {}
    for _, batch in zip(range(steps), job.batches, strict=False):
        state, values = job.train_step(state, put_batch(batch, job.mesh))
    assert len(traces) == 1, "shardings that change from step to step compile it again"
    return jax.device_get(values), state


@pytest.fixture(scope="module")
def one_device():
    return train(1, 1)


@pytest.mark.parametrize(("data", "fsdp"), [(None, 1), (2, 4)])
def test_a_mesh_computes_the_result_of_one_device(data, fsdp, one_device):
    values, state = train(data, fsdp)
    assert len(jax.tree.leaves(state)[0].sharding.device_set) == 8
    np.testing.assert_allclose(values["loss"], one_device[0]["loss"], rtol=1e-4)
    for seen, expected in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(one_device[1].params), strict=True
    ):
        np.testing.assert_allclose(seen, expected, atol=1e-4)


def test_kernels_and_their_momenta_are_split_by_output():
    mesh = make_mesh(2, 4)
    tree = {"kernel": np.zeros((3, 3, 4, 8)), "odd": np.zeros((5, 6)), "bias": np.zeros(8)}
    shardings = state_shardings(tree, mesh)
    assert shardings["kernel"].spec == P(None, None, None, "fsdp")
    assert shardings["odd"].spec == P()
    assert shardings["bias"].spec == P()


def test_the_momentum_is_on_the_devices_of_its_kernel():
    state = Trainer(make_mesh(2, 4)).prepare(CONFIG).job.init()
    split = [x.sharding.spec for x in jax.tree.leaves(state.opt_state) if x.ndim == 4]
    assert split
    assert set(split) == {P(None, None, None, "fsdp")}


def test_a_batch_is_split_over_all_devices():
    batch = put_batch({"label": np.arange(16)}, make_mesh(2, 4))
    assert {shard.data.shape for shard in batch["label"].addressable_shards} == {(2,)}
    np.testing.assert_array_equal(batch["label"], np.arange(16))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((None, 3), "--fsdp 3 does not divide the 8 devices"),
        ((4, 4), "a mesh of 4 x 4 devices: there are 8"),
        ((0, 1), "both must be at least 1"),
    ],
)
def test_an_impossible_mesh_is_refused(sizes, message):
    with pytest.raises(SettingError, match=message):
        make_mesh(*sizes)
