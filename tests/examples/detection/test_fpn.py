"""The feature pyramid equals torchvision's, at sizes that halve evenly and at others."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from examples.detection.conv_norm import ConvNorm
from examples.detection.fpn import FPN, resize_nearest
from examples.models.layers import num_groups
from tests.examples.detection.nets import NETS, make_weight, to_nhwc
from tests.examples.detection.references import load_arrays, make_input

REFERENCE = NETS["op_fpn"]


@functools.cache
def make_fpn():
    conv = functools.partial(ConvNorm, norm=None, weight_standardization=False, dtype=None)
    fpn = FPN([8, 16, 32, 64], 16, conv=conv, rngs=nnx.Rngs(0))
    for key, *rest in REFERENCE["keys"]:
        blocks, i, _, leaf = key.split(".")
        layer = getattr(fpn, blocks)[int(i)].conv
        value = make_weight(key, *rest)
        if leaf == "weight":
            layer.kernel[...] = jnp.asarray(value.transpose(2, 3, 1, 0))
        else:
            layer.bias[...] = jnp.asarray(value)
    return fpn


@nnx.jit
def run(fpn, levels):
    return fpn(levels)


@pytest.mark.parametrize("case", ["even", "odd"])
def test_pyramid_equals_torchvisions(case):
    levels = [to_nhwc(make_input(name, tuple(s))) for name, s in REFERENCE["inputs"][case].values()]
    pyramid = run(make_fpn(), levels)
    expected = load_arrays("op_fpn")
    for name, level in zip(("p2", "p3", "p4", "p5", "p6"), pyramid, strict=True):
        np.testing.assert_allclose(level, to_nhwc(expected[f"{case}/{name}"]), atol=1e-4, rtol=0)


def test_resizing_repeats_and_leaves_out_pixels():
    x = jnp.arange(3.0)[None, :, None, None]
    assert resize_nearest(x, (5, 2))[0, :, :, 0].T.tolist() == 2 * [[0, 0, 1, 1, 2]]
    assert resize_nearest(x, (2, 1))[0, :, 0, 0].tolist() == [0, 1]


def test_one_pixel_has_a_pyramid():
    levels = [jnp.ones((1, 1, 1, c)) for c in (8, 16, 32, 64)]
    assert [level.shape for level in run(make_fpn(), levels)] == 5 * [(1, 1, 1, 16)]


def test_normalized_pyramid_has_no_bias_and_the_groups_of_other_nets():
    conv = functools.partial(ConvNorm, norm="gn", weight_standardization=True, dtype=None)
    block = conv(4, 12, 3, kernel_init=nnx.initializers.ones, rngs=nnx.Rngs(0))
    assert block.conv.bias is None
    assert isinstance(block.norm, nnx.GroupNorm)
    assert block.norm.num_groups == num_groups(12) == 4
