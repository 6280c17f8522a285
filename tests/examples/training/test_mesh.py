"""Eight devices do what one does, and hold what they should."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from examples import classifier
from examples.datasets import pipeline
from examples.runs import RUNS
from examples.training import mesh as meshes

# Statistics of batch normalization are those of the whole batch, over all devices.
CONFIG = dataclasses.replace(RUNS["digits"][1], width=8, batch_size=48, norm="bn", epochs=2)


def train(data, fsdp, steps=4):
    images = classifier.load_data(CONFIG, None)
    loss, traces = classifier.make_loss(0.0), []

    def counted(*args):
        traces.append(args)
        return loss(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "make_loss", lambda _: counted)
        task = classifier.prepare(CONFIG, images, meshes.make_mesh(data, fsdp))
    state, values = task.init(CONFIG), {}
    stream = pipeline.train_batches(
        images.train, images.train_transform, batch_size=48, seed=0, epochs=1
    )
    for _, batch in zip(range(steps), stream, strict=False):
        state, values = task.train_step(state, meshes.put_batch(batch, task.mesh))
    assert len(traces) == 1, "shardings that change from step to step compile it again"
    return jax.device_get(values), state


@pytest.fixture(scope="module")
def one_device():
    return train(1, 1)


@pytest.mark.parametrize(("data", "fsdp"), [(None, 1), (2, 4)])
def test_a_mesh_gives_the_result_of_one_device(data, fsdp, one_device):
    values, state = train(data, fsdp)
    assert len(jax.tree.leaves(state)[0].sharding.device_set) == 8
    np.testing.assert_allclose(values["loss"], one_device[0]["loss"], rtol=1e-4)
    for seen, expected in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(one_device[1].params), strict=True
    ):
        np.testing.assert_allclose(seen, expected, atol=1e-4)


def test_kernels_and_their_momenta_are_split_by_output():
    mesh = meshes.make_mesh(2, 4)
    tree = {"kernel": np.zeros((3, 3, 4, 8)), "odd": np.zeros((5, 6)), "bias": np.zeros(8)}
    shardings = meshes.state_shardings(tree, mesh)
    assert shardings["kernel"].spec == P(None, None, None, "fsdp")
    assert shardings["odd"].spec == P()
    assert shardings["bias"].spec == P()


def test_the_momentum_lies_where_its_kernel_does():
    images = classifier.load_data(CONFIG, None)
    state = classifier.prepare(CONFIG, images, meshes.make_mesh(2, 4)).init(CONFIG)
    split = [x.sharding.spec for x in jax.tree.leaves(state.opt_state) if x.ndim == 4]
    assert split
    assert set(split) == {P(None, None, None, "fsdp")}


def test_a_batch_is_split_over_all_devices():
    batch = meshes.put_batch({"label": np.arange(16)}, meshes.make_mesh(2, 4))
    assert {shard.data.shape for shard in batch["label"].addressable_shards} == {(2,)}
    np.testing.assert_array_equal(batch["label"], np.arange(16))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((None, 3), "fsdp=3 does not divide 8 devices"),
        ((4, 4), "a mesh of 4 x 4 devices: there are 8"),
        ((0, 1), "both must be at least 1"),
    ],
)
def test_a_mesh_that_cannot_be(sizes, message):
    with pytest.raises(ValueError, match=message):
        meshes.make_mesh(*sizes)
