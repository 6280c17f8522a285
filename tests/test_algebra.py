"""Φ is a projection for any shape and any axes (Section 4.1).

Shapes come from a pool, so that each property compiles only a few functions and then tests them with
two hundred gradients.
"""

import functools

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from optax_gc import centralize
from tests.helpers import apply

settings = hypothesis.settings(max_examples=200, deadline=None, derandomize=True, database=None)

POOL = [
    ((5,), (0,)),
    ((5,), ()),
    ((1,), (0,)),
    ((4, 3), (0,)),
    ((4, 3), (1,)),
    ((4, 3), (0, 1)),
    ((1, 3), (0,)),
    ((3, 4, 2), (0, 1)),
    ((3, 4, 2), (0,)),
    ((2, 4, 3), (-2,)),
    ((3, 3, 2, 4), (0, 1, 2)),
    ((3, 3, 4, 2), (0, 1, 3)),
    ((2, 5, 2, 3), (1, 2, 3)),
    ((3, 2, 2, 2, 3), (0, 1, 2, 3)),
    ((2, 3, 2, 2, 3), (1, -2)),
    ((2, 2, 3, 2, 2, 2), (0, 2, 4)),
    ((2, 1, 3, 1, 2, 2), (1, 3)),
    ((0, 3), (0,)),
]
# The magnitudes cover nine decades, without subnormal numbers, which a CPU may flush to zero.
VALUES = st.floats(-1e5, 1e5, width=32, allow_subnormal=False).filter(
    lambda x: x == 0 or abs(x) > 1e-4
)
EPS = float(np.finfo(np.float32).eps)


@functools.cache
def phi(axes):
    return jax.jit(lambda gradient: apply(centralize(axes), gradient))


@st.composite
def problems(draw, gradients=1):
    shape, axes = draw(st.sampled_from(POOL))
    arrays = [draw(hnp.arrays(np.float32, shape, elements=VALUES)) for _ in range(gradients)]
    return axes, *arrays


def removes_something(gradient, axes):
    return gradient.size > 0 and np.prod([gradient.shape[axis] for axis in axes]) > 1


def scale(*arrays) -> float:
    return max([1e-30, *(float(np.abs(array).max(initial=0)) for array in arrays)])


@settings
@hypothesis.given(problems())
def test_phi_is_the_identity_minus_the_mean(problem):
    axes, gradient = problem
    wide = gradient.astype(np.float64)
    expected = wide - wide.mean(axes, keepdims=True) if removes_something(gradient, axes) else wide
    np.testing.assert_allclose(phi(axes)(gradient), expected, atol=4 * EPS * scale(gradient))


@settings
@hypothesis.given(problems())
def test_phi_is_idempotent(problem):
    """P² = P."""
    axes, gradient = problem
    once = phi(axes)(gradient)
    np.testing.assert_allclose(phi(axes)(once), once, atol=4 * EPS * scale(gradient))


@settings
@hypothesis.given(problems(gradients=2), st.floats(-3, 3, width=32), st.floats(-3, 3, width=32))
def test_phi_is_linear(problem, a, b):
    """P(ag + bh) = aPg + bPh."""
    axes, g, h = problem
    a, b = np.float32(a), np.float32(b)
    together = phi(axes)(a * g + b * h)
    apart = a * phi(axes)(g) + b * phi(axes)(h)
    np.testing.assert_allclose(together, apart, atol=32 * EPS * scale(g, h))


@settings
@hypothesis.given(problems(gradients=2))
def test_phi_is_symmetric(problem):
    """⟨Pg, h⟩ = ⟨g, Ph⟩: P = Pᵀ."""
    axes, g, h = problem
    left = np.vdot(np.float64(phi(axes)(g)), np.float64(h))
    right = np.vdot(np.float64(g), np.float64(phi(axes)(h)))
    assert abs(left - right) <= 8 * EPS * scale(g) * scale(h) * max(1, g.size)


@settings
@hypothesis.given(problems())
def test_the_mean_over_the_inputs_is_zero(problem):
    """eᵀPg = 0, so the result is orthogonal to the all-ones direction."""
    axes, gradient = problem
    if removes_something(gradient, axes):
        along_ones = np.float64(phi(axes)(gradient)).sum(axes)
        fan_in = np.prod([gradient.shape[axis] for axis in axes])
        assert np.abs(along_ones).max() <= 4 * EPS * fan_in * scale(gradient)


@settings
@hypothesis.given(problems())
def test_what_is_removed_is_orthogonal_to_what_is_left(problem):
    """‖g‖² = ‖Pg‖² + ‖g - Pg‖²."""
    axes, gradient = problem
    kept = np.float64(phi(axes)(gradient))
    removed = np.float64(gradient) - kept
    lost = np.vdot(gradient, np.float64(gradient)) - np.vdot(kept, kept) - np.vdot(removed, removed)
    assert abs(lost) <= 16 * EPS * scale(gradient) ** 2 * max(1, gradient.size)


@settings
@hypothesis.given(problems())
def test_the_norm_never_grows(problem):
    """The first inequality of equation 5, ‖Φ(g)‖ ≤ ‖g‖, holds for each weight vector."""
    axes, gradient = problem
    kept = np.float64(phi(axes)(gradient))
    before, after = (np.sqrt((np.float64(x) ** 2).sum(axes)) for x in (gradient, kept))
    assert np.all(after <= before * (1 + 4 * EPS) + 8 * EPS * scale(gradient))


@settings
@hypothesis.given(problems(), st.floats(-1e4, 1e4, width=32))
def test_a_shift_of_a_whole_weight_vector_is_invisible(problem, shift):
    axes, gradient = problem
    if removes_something(gradient, axes):
        shifted = phi(axes)(gradient + np.float32(shift))
        tolerance = 8 * EPS * (scale(gradient) + abs(shift))
        np.testing.assert_allclose(shifted, phi(axes)(gradient), atol=tolerance)


@settings
@hypothesis.given(problems(gradients=3))
def test_phi_commutes_with_vmap_and_jit(problem):
    axes, *gradients = problem
    batch = jnp.stack(gradients)
    mapped = batched_phi(axes)(batch)
    for gradient, row in zip(gradients, mapped, strict=True):
        plain = phi(axes)(gradient)
        np.testing.assert_allclose(row, plain, atol=4 * EPS * scale(gradient))


@functools.cache
def batched_phi(axes):
    return jax.jit(jax.vmap(phi(axes)))


@settings
@hypothesis.given(problems(), st.randoms(use_true_random=False))
def test_the_order_of_the_inputs_does_not_matter(problem, random):
    """Φ commutes with a permutation of the inputs, so all inputs are treated alike."""
    axes, gradient = problem
    for axis in axes:
        order = list(range(gradient.shape[axis]))
        random.shuffle(order)
        permuted = phi(axes)(np.take(gradient, order, axis))
        expected = np.take(phi(axes)(gradient), order, axis)
        np.testing.assert_allclose(permuted, expected, atol=4 * EPS * scale(gradient))


def test_eager_and_jitted_results_agree():
    rng = np.random.default_rng(0)
    for shape, axes in POOL:
        gradient = rng.standard_normal(shape, np.float32)
        eager = apply(centralize(axes), gradient)
        np.testing.assert_allclose(eager, phi(axes)(gradient), atol=4 * EPS * 5)
