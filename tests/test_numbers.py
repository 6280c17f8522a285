"""For every dtype, sums and the subtraction are precise enough and are rounded once."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from optax_gc import centralize
from optax_gc.diagnostics import gradient_stats
from tests.helpers import apply

SHAPES = [
    ((4608, 64), (0,)),
    ((3, 3, 512, 32), (0, 1, 2)),
    ((64, 4608), (1,)),
    ((20000, 3), (0,)),
    ((7, 2000, 5), (1,)),
    ((2, 3, 5, 7, 11, 13), (0, 2, 4)),
]


@jax.jit
def dense(gradient):
    return apply(centralize((0,)), gradient)


def gradient_of(shape, mean, dtype, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) + mean).astype(dtype)


@pytest.mark.parametrize("mean", [0.0, 1.0, 100.0, -100.0])
@pytest.mark.parametrize(("shape", "axes"), SHAPES)
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
def test_the_error_is_one_rounding(dtype, shape, axes, mean):
    """The error against float64 is at most 1 ulp of the result + 2⁻²² max|g| of the neuron.

    A float32 gradient is summed in float32, and older releases of XLA add the numbers one by one.
    There the error can be eight times as large.
    """
    gradient = gradient_of(shape, mean, dtype)
    result = jax.jit(lambda g: apply(centralize(axes), g))(gradient)
    assert result.dtype == dtype
    wide = gradient.astype(np.float64)
    exact = wide - wide.mean(axes, keepdims=True)
    ulp = np.float64(np.spacing(np.abs(exact).astype(np.float32))) * 2.0 ** (
        23 - ml_dtypes.finfo(dtype).nmant
    )
    of_the_sum = 2.0**-19 if dtype == np.float32 else 2.0**-22
    allowed = ulp + of_the_sum * np.abs(wide).max(axes, keepdims=True)
    assert np.all(np.abs(np.asarray(result).astype(np.float64) - exact) <= allowed)


def test_the_mean_of_a_reduced_precision_gradient_is_really_removed():
    """The mean is 100 times the spread. The naive form leaves 25 times as much of it."""
    gradient = jnp.asarray(gradient_of((4608, 512), 100.0, np.float32)).astype(jnp.bfloat16)

    def residual(result):
        return np.abs(np.asarray(result.astype(jnp.float32)).mean(0)).max()

    assert residual(dense(gradient)) < 2e-3
    naive = jax.jit(lambda g: g - jnp.mean(g, axis=0, keepdims=True))(gradient)
    assert residual(naive) > 2e-2


def test_sums_in_half_precision_do_not_overflow():
    gradient = jnp.full((4096, 2), 60000.0, jnp.float16).at[0].set(-60000.0)
    assert np.isfinite(dense(gradient)[1:]).all()
    np.testing.assert_allclose(dense(gradient)[1:], 60000 * 2 / 4096, rtol=1e-3)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_gradients_of_eight_bits_are_centralized(name):
    dtype = getattr(jnp, name)
    gradient = jnp.array([[1.0, 16.0], [2.0, 16.0], [3.0, 40.0]]).astype(dtype)
    result = dense(gradient)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result.astype(jnp.float32), [[-1, -8], [0, -8], [1, 16]])


def test_float64_of_numpy_becomes_float32_where_jax_does_not_enable_it():
    gradient = gradient_of((50, 3), 2.0, np.float64)
    result = apply(centralize(), {"kernel": gradient})["kernel"]  # without a warning
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, gradient - gradient.mean(0, keepdims=True), atol=1e-6)
    assert gradient_stats({"kernel": gradient})["kernel"].norm_before.dtype == jnp.float32


def test_float64_stays_float64(x64):
    gradient = jnp.asarray(gradient_of((4608, 32), 1e8, np.float64))
    result = dense(gradient)
    assert result.dtype == jnp.float64
    # This is a few ulp of 1e8. In float32, whose ulp at 1e8 is 8, a spread of 1 would be lost.
    assert np.abs(result.mean(0)).max() < 1e-7
    np.testing.assert_allclose(result.std(0), 1.0, atol=0.05)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex_gradients_are_centralized(dtype, x64):
    real, imaginary = (
        gradient_of((50, 3), 2.0, np.float64),
        gradient_of((50, 3), -5.0, np.float64, 1),
    )
    gradient = jnp.asarray((real + 1j * imaginary).astype(dtype))
    result = dense(gradient)
    assert result.dtype == dtype
    expected = (real - real.mean(0)) + 1j * (imaginary - imaginary.mean(0))
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_a_tree_of_mixed_dtypes_keeps_each(x64):
    dtypes = [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64, jnp.complex64]
    grads = {np.dtype(dtype).name: jnp.ones((4, 3), dtype) for dtype in dtypes}
    with jax.numpy_dtype_promotion("strict"):
        out = jax.jit(lambda g: apply(centralize(), g))(grads)
    assert {name: leaf.dtype.name for name, leaf in out.items()} == {name: name for name in grads}
