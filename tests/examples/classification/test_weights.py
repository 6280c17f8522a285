"""Weights of a net of grey images fit a net of colours."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from examples import models
from examples.classification import weights
from examples.models.resnet import ResNet
from examples.training.checkpoints import CheckpointError
from examples.training.steps import path_name

make = functools.partial(models.create, "resnet8", num_classes=None, stem="cifar", width=4)


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """Returns the folder of a run whose last checkpoint is that of a net of grey images."""
    grey = make(in_channels=1, rngs=nnx.Rngs(0))
    leaves = jax.tree_util.tree_flatten_with_path(nnx.state(grey, (nnx.Param, nnx.BatchStat)))[0]
    stored = {path_name(path): np.asarray(leaf) for path, leaf in leaves}
    monkeypatch.setattr(weights, "read_variables", lambda path: stored)
    return tmp_path, grey


def test_a_grey_image_has_the_same_features_in_a_net_of_colours(folder):
    path, grey = folder
    assert isinstance(grey, ResNet)
    colour = make(in_channels=3, rngs=nnx.Rngs(1))
    assert isinstance(colour, ResNet)
    weights.read_weights(path)(colour)
    kernel = grey.conv1.kernel[...]
    np.testing.assert_allclose(colour.conv1.kernel[...].sum(2, keepdims=True), kernel, rtol=1e-6)
    image = jax.random.normal(jax.random.key(0), (1, 8, 8, 1))
    for net in (grey, colour):
        net.eval()
    ours, theirs = colour.features(jnp.repeat(image, 3, -1)), grey.features(image)
    np.testing.assert_allclose(ours[-1], theirs[-1], atol=1e-5)


def test_another_number_of_channels_is_another_net(folder):
    with pytest.raises(CheckpointError, match=r"it differs in conv1/kernel$"):
        weights.read_weights(folder[0])(make(in_channels=4, rngs=nnx.Rngs(1)))
