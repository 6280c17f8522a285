"""Properties of GC with optimizers, layers and ways of training that the paper does not cover."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import optax_gc
from optax_gc import centralize, diagnostics

pytestmark = pytest.mark.usefixtures("x64")

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(32, 12)), RNG.normal(size=(32, 5))
PARAMS = {
    "in": {"kernel": RNG.normal(size=(12, 8)) + 0.2},
    "out": {"kernel": RNG.normal(size=(8, 5))},
}


def loss(params):
    return jnp.mean((jnp.tanh(X @ params["in"]["kernel"]) @ params["out"]["kernel"] - Y) ** 2)


def drift_after(tx, steps=10):
    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(steps):
        params, state = step(params, state)
    return max(
        float(jnp.max(each)) for each in diagnostics.constraint_drift(params, PARAMS).values()
    )


def muon():
    return optax.contrib.muon(0.02, muon_weight_dimension_numbers=optax_gc.muon_dimension_numbers())


def test_muon_keeps_e_w_as_sgd_does():
    """A Newton-Schulz iteration is G p(GᵀG), so eᵀG stays 0."""
    assert drift_after(optax.chain(centralize(), muon())) < 1e-12
    assert drift_after(muon()) > 1e-3


@pytest.mark.parametrize(
    "make", [optax.adam, optax.lion, optax.rmsprop], ids=lambda make: make.__name__
)
def test_elementwise_scaling_does_not_keep_e_w(make):
    assert drift_after(optax.chain(centralize(), make(0.02))) > 1e-3
    # With GC after the scaling, every optimizer keeps it.
    assert drift_after(optax.chain(make(0.02), centralize())) < 1e-12


class Block(nnx.Module):
    def __init__(self, before, rngs):
        self.before = before
        self.linear = nnx.Linear(12, 5, rngs=rngs, param_dtype=jnp.float64)

    def __call__(self, x):
        return self.linear(self.before(x))


BEFORE = {
    "layer_norm": lambda rngs: nnx.LayerNorm(12, rngs=rngs, param_dtype=jnp.float64, epsilon=0.0),
    "rms_norm": lambda rngs: nnx.RMSNorm(12, rngs=rngs, param_dtype=jnp.float64),
    "relu": lambda rngs: jax.nn.relu,
    "gelu": lambda rngs: jax.nn.gelu,
}


def share_removed_after(name, change=lambda model: None):
    rngs = nnx.Rngs(0)
    model = Block(BEFORE[name](rngs), rngs)
    change(model)
    grads = nnx.grad(lambda model: jnp.mean((model(jnp.asarray(X)) - Y) ** 2))(model)
    reports = diagnostics.describe(grads, optax_gc.nnx_kernel_axes(model))
    (share,) = (each.energy_removed for each in reports if each.path == "linear/kernel")
    assert share is not None
    return share


def test_gc_removes_nothing_after_a_layer_norm_with_its_initial_scale():
    """Its output is orthogonal to the vector of ones, so gradients sum to 0 over the inputs."""
    assert share_removed_after("layer_norm") < 1e-12


def test_gc_removes_something_once_the_scale_of_the_layer_norm_has_been_trained():
    def train(model):
        model.before.scale[...] = jnp.asarray(RNG.uniform(0.5, 1.5, 12))

    assert share_removed_after("layer_norm", train) > 1e-3


def test_gc_removes_much_after_an_activation_that_is_positive_on_average():
    for name in ("relu", "gelu"):
        assert 0.1 < share_removed_after(name) < 0.7
    assert 1e-4 < share_removed_after("rms_norm") < 0.3


def test_gc_of_the_first_factor_of_lora_is_gc_of_the_product_and_of_the_second_is_not():
    a, b = RNG.normal(size=(12, 3)), RNG.normal(size=(3, 5))
    step_a, step_b = RNG.normal(size=(12, 3)), RNG.normal(size=(3, 5))

    def phi(matrix):
        return matrix - matrix.mean(0, keepdims=True)

    np.testing.assert_allclose(phi(step_a) @ b, phi(step_a @ b), atol=1e-12)
    assert np.max(np.abs(a @ phi(step_b) - phi(a @ step_b))) > 0.1
    model = nnx.LoRA(12, 3, 5, rngs=nnx.Rngs(0))
    axes = optax_gc.nnx_kernel_axes(model)(nnx.to_pure_dict(nnx.state(model)))
    assert axes == {"lora_a": (0,), "lora_b": None}


def test_gc_commutes_with_the_mean_over_devices_and_not_with_clipping_of_each_example():
    each = {"kernel": jnp.asarray(RNG.normal(size=(6, 12, 5)) + 1)}

    def phi(grads) -> Any:
        return centralize().update(grads, optax.EmptyState())[0]

    def mean(grads) -> Any:
        return jax.tree.map(lambda g: g.mean(0), grads)

    def clip_each(grads):
        clip = optax.clip_by_global_norm(1.0)
        return jax.vmap(lambda g: clip.update(g, optax.EmptyState())[0])(grads)

    np.testing.assert_allclose(
        mean(jax.vmap(phi)(each))["kernel"], phi(mean(each))["kernel"], atol=1e-12
    )
    before = mean(clip_each(jax.vmap(phi)(each)))["kernel"]
    after = phi(mean(clip_each(each)))["kernel"]
    assert np.max(np.abs(before - after)) > 1e-3
