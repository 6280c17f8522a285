"""The properties that Optax tests for its own optimizers also hold for those of this library."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_gc

OPTIMIZERS = {
    "sgd": functools.partial(optax_gc.sgd, 1e-2),
    "sgdm": functools.partial(optax_gc.sgd, 1e-2, 0.9),
    "sgdw": functools.partial(optax_gc.sgdw, 1e-2, 0.9, weight_decay=1e-4),
    "adam": functools.partial(optax_gc.adam, 1e-1),
    "adam_on_update": functools.partial(optax_gc.adam, 1e-1, gc_on="update"),
    "adamw": functools.partial(optax_gc.adamw, 1e-1),
    "adagrad": functools.partial(optax_gc.adagrad, 1.0),
}
each_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def parabola(params):
    return jnp.sum(jnp.abs(params - jnp.array([1.0, -1.0, 1.0])) ** 2)


def rosenbrock(params):
    return jnp.square(1 - params[0]) + 100 * jnp.square(params[1] - params[0] ** 2)


@each_optimizer
@pytest.mark.parametrize(
    ("function", "start", "end"),
    [
        (parabola, jnp.array([-1.0, 10.0, 1.0]), [1, -1, 1]),
        (parabola, jnp.array([-1.0 + 2j, 10.0, 1.0], jnp.complex64), [1, -1, 1]),
        (rosenbrock, jnp.array([0.8, 0.7]), [1, 1]),
    ],
    ids=["parabola", "complex", "rosenbrock"],
)
def test_finds_the_minimum_of_functions_without_kernels(make, function, start, end):
    if function is rosenbrock and make.args[0] == 1e-2:
        make = functools.partial(make.func, 1e-3, *make.args[1:], **make.keywords)
    tx = make()

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            grads = jnp.conj(jax.grad(function)(params))
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=10_000)[0][0]

    np.testing.assert_allclose(train(start), end, rtol=3e-2, atol=3e-2)


@each_optimizer
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_updates_and_state_keep_their_dtypes_and_shapes(make, dtype):
    params = {"kernel": jnp.ones((4, 3), dtype), "bias": jnp.zeros(3, dtype)}
    tx = make()
    state = tx.init(params)
    updates, new_state = jax.jit(tx.update)(params, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)


@each_optimizer
def test_state_maps_over_its_parameters(make):
    """This lets sharding rules and copies to the host treat a state's moments like parameters."""
    params = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
    state = make().init(params)
    doubled = optax.tree.map_params(make(), lambda moment: moment + 1, state)
    assert jax.tree.structure(doubled) == jax.tree.structure(state)


@each_optimizer
def test_is_fit_for_gradient_accumulation_and_clipping_of_the_update(make):
    params = {"kernel": jnp.arange(12.0).reshape(4, 3)}
    tx = optax.MultiSteps(optax.chain(make(), optax.clip(1e-3)), every_k_schedule=2)
    state = tx.init(params)
    first: Any
    second: Any
    first, state = tx.update(params, state, params)
    second, _ = tx.update(params, state, params)
    assert not np.any(first["kernel"])
    assert np.any(second["kernel"])
    assert np.max(np.abs(second["kernel"])) <= 1e-3
