"""The arms do to a gradient what PLAN.md says, on the axes of every layer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import optax_gc
from examples.experiments.sweep.arms import (
    ARMS,
    arm_transform,
    random_directions,
    share_removed,
    with_arm,
)
from examples.experiments.sweep.nets import NETS, NORMS, net
from examples.experiments.sweep.rates import rate, rate_number

SHAPES = {
    "mlp": (6,),
    "resnet8": (12, 12, 1),
    "resnet20": (12, 12, 1),
    "vit": (14, 14, 1),
    "lm": (5,),
}
KEY = jax.random.key(0)


class Small(nnx.Module):
    """A convolution and a linear layer, which have input axes of different kinds."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.linear = nnx.Linear(4, 5, rngs=rngs)


@pytest.fixture(scope="module")
def gradient():
    params = nnx.state(Small(nnx.Rngs(0)), nnx.Param)
    # Biases are not 0 here, so that a change of them is seen.
    return jax.tree.map(lambda leaf: leaf + 0.5, params)


AXES = optax_gc.nnx_kernel_axes(nnx.eval_shape(lambda: Small(nnx.Rngs(0))))


def apply(arm, gradient):
    tx = arm_transform(arm, AXES, gradient, KEY)
    updates: Any = tx.update(gradient, tx.init(gradient))[0]
    return nnx.to_pure_dict(updates)


def kernels(tree):
    """Returns the kernels as matrices (fan-in, neurons)."""
    tree = tree if isinstance(tree, dict) else nnx.to_pure_dict(tree)
    return [
        np.asarray(tree[name]["kernel"]).reshape(-1, n) for name, n in (("conv", 4), ("linear", 5))
    ]


def test_no_arm_changes_a_bias_and_none_changes_nothing(gradient):
    before = nnx.to_pure_dict(gradient)
    for arm in ARMS:
        after = apply(arm, gradient)
        for layer in ("conv", "linear"):
            np.testing.assert_array_equal(after[layer]["bias"], before[layer]["bias"])
    assert all(map(np.array_equal, kernels(apply("none", gradient)), kernels(gradient)))


def test_gc_leaves_every_neuron_a_mean_of_0(gradient):
    for kernel in kernels(apply("gc", gradient)):
        np.testing.assert_allclose(kernel.mean(0), 0, atol=1e-6)


def test_a_random_direction_is_removed_and_nothing_else(gradient):
    directions = [d for d in random_directions(gradient, AXES, KEY) if d is not None]
    for before, after, direction in zip(
        kernels(gradient), kernels(apply("random_direction", gradient)), directions, strict=True
    ):
        unit = np.asarray(direction).ravel()
        np.testing.assert_allclose(np.linalg.norm(unit), 1, rtol=1e-6)
        expected = before - np.outer(unit, unit @ before)
        np.testing.assert_allclose(after, expected, atol=1e-6)
        np.testing.assert_allclose(unit @ after, 0, atol=1e-6)
        # It is not the direction of GC.
        assert np.abs(after.mean(0)).max() > 1e-2


def test_a_random_direction_is_the_same_in_every_step_and_differs_by_key(gradient):
    first, again = (random_directions(gradient, AXES, KEY)[1] for _ in range(2))
    other = random_directions(gradient, AXES, jax.random.key(1))[1]
    assert first is not None
    assert other is not None
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_scaling_keeps_the_direction_and_takes_the_length_that_gc_leaves(gradient):
    rows = zip(
        kernels(gradient),
        kernels(apply("scaled_length", gradient)),
        kernels(apply("gc", gradient)),
        strict=True,
    )
    for before, after, centralized in rows:
        lengths = np.linalg.norm(after, axis=0)
        np.testing.assert_allclose(lengths, np.linalg.norm(centralized, axis=0), rtol=1e-5)
        cosine = (before * after).sum(0) / (np.linalg.norm(before, axis=0) * lengths)
        np.testing.assert_allclose(cosine, 1, rtol=1e-6)


def test_a_gradient_of_0_is_scaled_to_0_and_not_to_nan(gradient):
    zero = jax.tree.map(jnp.zeros_like, gradient)
    for kernel in kernels(apply("scaled_length", zero)):
        np.testing.assert_array_equal(kernel, 0)


def test_nothing_is_removed_from_a_gradient_of_0(gradient):
    assert float(share_removed(jax.tree.map(jnp.zeros_like, gradient), AXES)) == 0


def test_optax_centralize_averages_over_other_axes_than_gc(gradient):
    updates: Any = gradient
    expected, _ = optax.centralize().update(updates, optax.EmptyState())
    assert all(map(np.array_equal, kernels(apply("optax_centralize", gradient)), kernels(expected)))
    assert not np.allclose(kernels(expected)[1], kernels(apply("gc", gradient))[1])


@pytest.mark.parametrize("arm", ["none", "gc", "gc_update"])
def test_gc_acts_on_the_gradient_or_on_the_update(gradient, arm):
    tx = with_arm(arm, optax.scale_by_sign(), AXES, gradient, KEY)
    updates: Any = tx.update(gradient, tx.init(gradient))[0]
    for kernel, before in zip(kernels(updates), kernels(gradient), strict=True):
        if arm == "gc_update":
            np.testing.assert_allclose(kernel.mean(0), 0, atol=1e-6)
        else:
            centred = before - before.mean(0) * (arm == "gc")
            np.testing.assert_array_equal(kernel, np.sign(centred))


def test_the_share_removed_is_that_of_the_means(gradient):
    total = sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradient))
    means = sum(kernel.shape[0] * (kernel.mean(0) ** 2).sum() for kernel in kernels(gradient))
    assert float(share_removed(gradient, AXES)) == pytest.approx(means / total, rel=1e-4)


@pytest.mark.parametrize("kind", SHAPES)
def test_gc_knows_every_kernel_of_a_net(kind):
    assert {*SHAPES, "pretrained"} == NETS.keys()  # that one is a ResNet-8 that a run has trained
    for norm in NORMS:
        model = nnx.eval_shape(lambda norm=norm: net(kind, norm)(3, SHAPES[kind], nnx.Rngs(0)))
        params = nnx.state(model, nnx.Param)
        axes = jax.tree_util.tree_leaves_with_path(
            nnx.to_pure_dict(optax_gc.nnx_kernel_axes(model)(params)),
            is_leaf=lambda leaf: leaf is None or isinstance(leaf, tuple),
        )
        assert any(over for _, over in axes)
        for path, over in axes:
            assert (over is not None) == (path[-1].key == "kernel"), path


def test_rates_and_their_numbers_are_inverse():
    numbers = range(-10, 6)
    assert [rate_number(rate(number)) for number in numbers] == list(numbers)
    for value in (0.2, 0.1 + 1e-9, 2.0):
        with pytest.raises(ValueError, match="not 1 or 3 times a power of ten"):
            rate_number(value)
