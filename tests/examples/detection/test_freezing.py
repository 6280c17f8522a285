"""Frozen parts of a detector's backbone stay as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import optax_gc
from examples import detection
from examples.detection.backbone import Frozen
from tests.examples.detection.nets import create_tiny_net, make_tiny_net


def test_frozen_parameters_are_not_decayed_and_not_updated():
    model = nnx.clone(make_tiny_net())
    detection.freeze(model.backbone)
    before = jax.tree.map(np.array, nnx.state(model, Frozen))
    # The kernel and norm of the stem, and two of each in the two blocks of the first stage.
    assert len(jax.tree.leaves(before)) == 3 + 12
    gc = optax_gc.centralize(optax_gc.nnx_kernel_axes(model))
    optimizer = nnx.Optimizer(model, optax_gc.sgd(0.1, weight_decay=1e-4, gc=gc), wrt=nnx.Param)
    kernel = np.array(model.backbone.stages[1][0].conv1.kernel[...])

    @nnx.jit
    def update(model, optimizer):
        optimizer.update(model, jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param)))

    update(model, optimizer)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(model, Frozen), before)
    assert (model.backbone.stages[1][0].conv1.kernel[...] != kernel).any()


def test_more_stages_can_be_frozen():
    model = nnx.eval_shape(lambda: create_tiny_net(rngs=nnx.Rngs(0)))
    detection.freeze(model.backbone, stages=4)
    assert not jax.tree.leaves(nnx.state(model.backbone, nnx.Param))
    with pytest.raises(ValueError, match="stages must be from 0 to 4, not 5"):
        detection.freeze(model.backbone, stages=5)
