"""The layer that doubles a mask is the transposed convolution of Flax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from examples.detection.mask_head import DoublingConv
from optax_gc import nnx_kernel_axes

INIT = nnx.initializers.normal(1.0)


def make(dtype=None):
    layer = DoublingConv(5, 7, kernel_init=INIT, dtype=dtype, rngs=nnx.Rngs(0))
    assert layer.bias is not None
    layer.bias[...] = jnp.arange(7.0)
    return layer


@pytest.mark.parametrize("shape", [(3, 4, 6, 5), (2, 3, 4, 6, 5)])
def test_output_and_gradients_are_those_of_flax(shape):
    layer = make()
    x = jax.random.normal(jax.random.key(0), shape)
    weights = jax.random.normal(jax.random.key(1), (*shape[:-3], 8, 12, 7))

    def total(layer, x, call):
        return (call(layer, x) * weights).sum()

    expected = nnx.ConvTranspose.__call__(layer, x)
    theirs = nnx.grad(total, argnums=(0, 1))(layer, x, nnx.ConvTranspose.__call__)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)
    ours = nnx.grad(total, argnums=(0, 1))(layer, x, DoublingConv.__call__)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_dtype_of_the_computation_is_obeyed_and_parameters_stay():
    layer = make(jnp.bfloat16)
    assert layer(jnp.ones((1, 2, 2, 5))).dtype == jnp.bfloat16
    assert layer.kernel[...].dtype == jnp.float32


def test_gc_has_the_axes_of_a_transposed_convolution_with_strides():
    axes = nnx_kernel_axes(nnx.Dict(up=make()))
    plain = nnx.ConvTranspose(5, 7, (2, 2), (2, 2), padding="VALID", rngs=nnx.Rngs(0))
    params = nnx.state(nnx.Dict(up=plain), nnx.Param)
    assert axes(params) == nnx_kernel_axes(nnx.Dict(up=plain))(params)
