"""centralize() inside Optax's wrappers and combinations gives the same result as Φ by hand."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from optax_gc import centralize, conv_kernels, kernel_axes


def tree(seed):
    rng = np.random.default_rng(seed)
    shapes = {"conv": (3, 3, 2, 4), "dense": (4, 5), "bias": (5,)}
    return {
        name: jnp.asarray(rng.normal(1, 1, shape), jnp.float32) for name, shape in shapes.items()
    }


def phi(grads):
    """Computes Φ by hand, over the axes of `tree`."""
    means = {"conv": (0, 1, 2), "dense": (0,)}
    return {
        name: g - g.mean(means[name], keepdims=True) if name in means else g
        for name, g in grads.items()
    }


def run(tx, steps=5, gradient=lambda t: tree(t + 1)) -> tuple[Any, Any]:
    """Returns the parameters and the state after a few jitted steps, which are traced once."""
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = tree(0)
    state = tx.init(params)
    for t in range(steps):
        params, state = step(params, state, gradient(t))
    return params, state


def assert_same(tx, by_hand, gradient=lambda t: tree(t + 1)):
    """Checks that `tx` on the gradients equals `by_hand` on gradients that are already centralized."""
    actual, _ = run(tx, gradient=gradient)
    expected, _ = run(by_hand, gradient=lambda t: phi(gradient(t)))
    chex.assert_trees_all_close(actual, expected, atol=1e-5)


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), optax.sgd(0.1, 0.9), optax.adam(0.1)])
def test_it_works_inside_a_chain(optimizer):
    assert_same(optax.chain(centralize(), optimizer), optimizer)


def test_clipping_can_come_before_it():
    def clipped(t):
        grads = tree(t + 1)
        norm = jnp.sqrt(sum((g**2).sum() for g in grads.values()))
        return jax.tree.map(lambda g: g / jnp.maximum(1.0, norm), grads)

    actual, _ = run(optax.chain(optax.clip_by_global_norm(1.0), centralize(), optax.sgd(0.1)))
    expected, _ = run(optax.sgd(0.1), gradient=lambda t: phi(clipped(t)))
    chex.assert_trees_all_close(actual, expected, atol=1e-6)


@pytest.mark.parametrize("axes", [kernel_axes, kernel_axes(tree(0))], ids=["callable", "tree"])
def test_it_works_inside_masked(axes):
    mask = {"conv": True, "dense": False, "bias": False}
    tx = optax.chain(optax.masked(centralize(axes), mask), optax.sgd(0.1))
    expected, _ = run(
        optax.sgd(0.1), gradient=lambda t: tree(t + 1) | {"conv": phi(tree(t + 1))["conv"]}
    )
    chex.assert_trees_all_close(run(tx)[0], expected, atol=1e-6)
    same, _ = run(optax.chain(centralize(axes, mask=conv_kernels), optax.sgd(0.1)))
    chex.assert_trees_all_equal(run(tx)[0], same)


@pytest.mark.parametrize("axes", [kernel_axes, kernel_axes(tree(0))], ids=["callable", "tree"])
def test_it_works_inside_partition(axes):
    """Each group has its own optimizer, which sees the leaves of the other group as masked."""
    tx = optax.partition(
        {
            "gc": optax.chain(centralize(axes), optax.sgd(0.1, 0.9)),
            "plain": optax.chain(centralize(axes, mask=False), optax.adam(0.1)),
        },
        {"conv": "gc", "dense": "plain", "bias": "gc"},
    )
    by_hand = optax.partition(
        {"gc": optax.sgd(0.1, 0.9), "plain": optax.adam(0.1)},
        {"conv": "gc", "dense": "plain", "bias": "gc"},
    )
    expected, _ = run(
        by_hand, gradient=lambda t: phi(tree(t + 1)) | {"dense": tree(t + 1)["dense"]}
    )
    chex.assert_trees_all_close(run(tx)[0], expected, atol=1e-5)


def test_it_works_inside_multi_steps():
    """Φ is linear, so gradients may be accumulated before it or after."""
    every_two = optax.MultiSteps(optax.sgd(0.1, 0.9), 2).gradient_transformation()
    inside = optax.MultiSteps(optax.chain(centralize(), optax.sgd(0.1, 0.9)), 2)
    inside = inside.gradient_transformation()
    chex.assert_trees_all_close(
        run(inside)[0], run(optax.chain(centralize(), every_two))[0], atol=1e-5
    )
    assert_same(inside, every_two)


def test_it_works_inside_inject_hyperparams():
    """It takes functions for schedules unless they are named as static."""
    injected = optax.inject_hyperparams(centralize, static_args=("axes", "mask"))
    for tx in (injected(), injected(kernel_axes), injected(axes=kernel_axes(tree(0)))):
        assert_same(optax.chain(tx, optax.sgd(0.1)), optax.sgd(0.1))

    @optax.inject_hyperparams
    def with_rate(learning_rate):
        return optax.chain(centralize(), optax.sgd(learning_rate))

    rate = optax.linear_schedule(0.1, 0.01, 5)
    assert_same(with_rate(rate), optax.sgd(rate))
    _, state = run(with_rate(rate))
    np.testing.assert_allclose(state.hyperparams["learning_rate"], rate(4), rtol=1e-5)


def test_it_works_inside_apply_if_finite():
    """A gradient that is not finite is dropped, as without GC."""

    def gradient(t):
        return jax.tree.map(lambda g: g * (jnp.nan if t == 2 else 1), tree(t + 1))

    tx = optax.apply_if_finite(optax.chain(centralize(), optax.sgd(0.1)), 3)
    by_hand = optax.apply_if_finite(optax.sgd(0.1), 3)
    assert_same(tx, by_hand, gradient)
    assert run(tx, gradient=gradient)[1].total_notfinite == 1


def test_it_works_inside_lookahead():
    def make(fast):
        return optax.lookahead(fast, sync_period=2, slow_step_size=0.5)

    def run_lookahead(tx, gradient):
        params = optax.LookaheadParams.init_synced(tree(0))
        state = tx.init(params)
        for t in range(5):
            updates, state = jax.jit(tx.update)(gradient(t), state, params)
            params = optax.apply_updates(params, updates)
        return params

    actual = run_lookahead(make(optax.chain(centralize(), optax.sgd(0.1))), lambda t: tree(t + 1))
    expected = run_lookahead(make(optax.sgd(0.1)), lambda t: phi(tree(t + 1)))
    chex.assert_trees_all_close(actual, expected, atol=1e-6)


def test_it_works_before_schedule_free_sgd():
    by_hand = optax.contrib.schedule_free_sgd(0.1)
    assert_same(optax.chain(centralize(), by_hand), by_hand)


def test_it_works_in_a_scan_over_steps():
    tx = optax.chain(centralize(), optax.sgd(0.1, 0.9))

    def step(carry, grads):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    grads = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[tree(t + 1) for t in range(5)])
    (scanned, _), _ = jax.lax.scan(step, (tree(0), tx.init(tree(0))), grads)
    chex.assert_trees_all_close(scanned, run(tx)[0], atol=1e-6)


def test_it_works_under_vmap_over_models():
    """Three models at once have the same result as three models one by one."""
    tx = optax.chain(centralize(), optax.adam(0.1))

    def update(grads):
        return tx.update(grads, tx.init(grads))[0]

    grads = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[tree(t) for t in range(3)])
    mapped = jax.jit(jax.vmap(update))(grads)
    for t in range(3):
        one = jax.tree.map(lambda leaf, t=t: leaf[t], mapped)
        chex.assert_trees_all_close(one, update(tree(t)), atol=1e-5)
