"""Tests each claim of Section 4 of the paper, Properties of GC."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import optax_gc

STEPS = 20
RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(16, 6))
TARGETS = RNG.normal(size=(16, 3))
# The initial weights do not have a mean of zero, because GC must work with any initialization.
PARAMS = {
    "hidden": {"kernel": RNG.normal(size=(6, 5)) + 0.3, "bias": np.zeros(5)},
    "head": {"kernel": RNG.normal(size=(5, 3)) - 0.2, "bias": np.zeros(3)},
}

pytestmark = pytest.mark.usefixtures("x64")


def network(params, inputs):
    hidden = jnp.tanh(inputs @ params["hidden"]["kernel"] + params["hidden"]["bias"][None])
    return hidden @ params["head"]["kernel"] + params["head"]["bias"][None]


def loss(params):
    return jnp.mean((network(params, INPUTS) - TARGETS) ** 2)


gradient = jax.jit(jax.grad(loss))


def train(tx, params=PARAMS, gradient=gradient, steps=STEPS):
    """Returns the initial parameters, and those after each step."""
    state, trajectory = tx.init(params), [params]
    for _ in range(steps):
        updates, state = tx.update(gradient(params), state, params)
        params = optax.apply_updates(params, updates)
        trajectory.append(params)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trajectory)


def unit_vector(fan_in):
    """Returns the paper's e, which has 1/√M in each of its M components."""
    return np.ones(fan_in) / np.sqrt(fan_in)


def projections(trajectory):
    """Returns eᵀw of every weight vector, at the start and after each step."""
    kernels = [layer["kernel"] for layer in trajectory.values()]
    return np.concatenate([unit_vector(k.shape[1]) @ k for k in kernels], axis=1)


def gc(kernel_gradient) -> Any:
    tx = optax_gc.centralize()
    return tx.update(kernel_gradient, tx.init(kernel_gradient))[0]


def apply_gc(kernel_gradient):
    return np.asarray(gc(kernel_gradient))


# Section 3.3: the matrix form of GC, equation 2


fans = st.sampled_from([(2, 1), (3, 4), (7, 2), (27, 5)])
seeds = st.integers(0, 2**32 - 1)
# There is no deadline, because the first example of a shape compiles, which is slow.
no_deadline = settings(deadline=None, max_examples=50)


@no_deadline
@given(fans, seeds)
def test_gc_is_the_multiplication_by_p(fan, seed):
    matrix_of_gc = apply_gc(np.eye(fan[0]))
    e = unit_vector(fan[0])
    np.testing.assert_allclose(matrix_of_gc, np.eye(fan[0]) - np.outer(e, e), atol=1e-15)
    g = np.random.default_rng(seed).normal(size=fan)
    np.testing.assert_allclose(apply_gc(g), matrix_of_gc @ g, atol=1e-13)


@no_deadline
@given(seeds)
def test_a_convolutions_weight_vector_is_all_that_reaches_one_output(seed):
    g = np.random.default_rng(seed).normal(size=(3, 3, 4, 5))
    as_matrix = apply_gc(g.reshape(36, 5)).reshape(g.shape)
    np.testing.assert_allclose(apply_gc(g), as_matrix, atol=1e-14)


# Section 4.1, weight space regularization


@pytest.mark.parametrize("fan_in", [2, 3, 27])
def test_p_is_a_projection(fan_in):
    p = apply_gc(np.eye(fan_in))
    np.testing.assert_allclose(p @ p, p, atol=1e-15)
    np.testing.assert_array_equal(p, p.T)


@no_deadline
@given(fans, seeds)
def test_the_projected_gradient_lies_in_the_hyperplane_with_normal_e(fan, seed):
    g = np.random.default_rng(seed).normal(size=fan)
    np.testing.assert_allclose(unit_vector(fan[0]) @ apply_gc(g), 0, atol=1e-14)


halving = optax.exponential_decay(0.2, transition_steps=5, decay_rate=0.5)
rising = optax.linear_schedule(0.0, 0.5, STEPS)
CONSTRAINED = {
    "SGD": optax_gc.sgd(0.2),
    "SGDM": optax_gc.sgd(0.2, momentum=0.9),
    "SGDM, Nesterov": optax_gc.sgd(0.2, momentum=0.9, nesterov=True),
    "SGD with decay": optax_gc.sgd(0.2, weight_decay=0.5),
    "SGDM with decay": optax_gc.sgd(0.2, momentum=0.9, weight_decay=0.5),
    "SGDM with schedules": optax_gc.sgd(halving, momentum=0.9, weight_decay=rising),
    "SGDW without decay": optax_gc.sgdw(0.2, momentum=0.9),
    "late Adam": optax_gc.adam(0.05, gc_on="update"),
    "late Adam with decay": optax_gc.adam(0.05, weight_decay=0.5, gc_on="update"),
    "late AdamW": optax_gc.adamw(0.05, weight_decay=0.5, gc_on="update"),
    "late Adagrad with decay": optax_gc.adagrad(0.2, weight_decay=0.5, gc_on="update"),
}
UNCONSTRAINED = {
    "early Adam": optax_gc.adam(0.05),
    "early AdamW": optax_gc.adamw(0.05, weight_decay=0.0),
    "early Adagrad": optax_gc.adagrad(0.2),
    "SGD without GC": optax_gc.sgd(0.2, gc=optax.identity()),
    "SGD with GC before an added decay": optax.chain(
        optax_gc.centralize(), optax.add_decayed_weights(0.5), optax.sgd(0.2)
    ),
}


@pytest.mark.parametrize("name", CONSTRAINED)
def test_e_w_is_constant_during_training(name):
    trajectory = train(CONSTRAINED[name])
    constant = projections(trajectory)
    np.testing.assert_allclose(constant, np.broadcast_to(constant[0], constant.shape), atol=1e-13)
    moved = trajectory["hidden"]["kernel"][-1] - PARAMS["hidden"]["kernel"]
    assert np.max(np.abs(moved)) > 0.1
    assert np.max(np.abs(trajectory["head"]["bias"][-1])) > 0.1, "biases are not constrained"


@pytest.mark.parametrize("name", UNCONSTRAINED)
def test_e_w_is_not_constant_where_the_section_does_not_speak(name):
    """The section is about SGD and SGDM. An adaptive scaling after Φ leaves the hyperplane."""
    projected = projections(train(UNCONSTRAINED[name]))
    assert np.max(np.abs(projected - projected[:1])) > 0.01


@pytest.mark.parametrize("decay", [0.5, rising])
@pytest.mark.parametrize("rate", [0.2, halving])
def test_e_w_follows_a_decoupled_decay_alone(rate, decay):
    values = [
        np.array([value(jnp.int32(t)) if callable(value) else value for t in range(STEPS)])
        for value in (rate, decay)
    ]
    shrinking = np.concatenate([[1.0], np.cumprod(1 - values[0] * values[1])])
    followed = projections(train(optax_gc.sgdw(rate, momentum=0.9, weight_decay=decay)))
    np.testing.assert_allclose(followed, followed[0][None] * shrinking[:, None], atol=1e-13)
    assert shrinking[-1] < 0.9


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_gc_solves_the_constrained_problem(decay):
    """SGD with GC on w is plain SGD on v in w = w⁰ + P v, which fulfils eᵀ(w - w⁰) = 0 (equation 3)."""

    def reparameterized(v):
        kernels = {
            name: jnp.asarray(PARAMS[name]["kernel"])
            + v[name]["kernel"]
            - v[name]["kernel"].mean(axis=0, keepdims=True)
            for name in v
        }
        return {name: {"kernel": kernels[name], "bias": v[name]["bias"]} for name in v}

    def objective(v):
        w = reparameterized(v)
        return loss(w) + decay / 2 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(w))

    # The biases start at 0, so that v = 0 stands for the initial parameters.
    start = jax.tree.map(np.zeros_like, PARAMS)
    v = train(optax.sgd(0.2), start, jax.jit(jax.grad(objective)))
    w = train(optax_gc.sgd(0.2, weight_decay=decay))
    last_v, last_w = (jax.tree.map(lambda leaf: leaf[-1], tree) for tree in (v, w))
    expected = reparameterized(last_v)
    for ours, theirs in zip(*map(jax.tree.leaves, (last_w, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-13)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_before_or_after_gc_is_the_same(nesterov):
    before = optax_gc.sgd(0.2, momentum=0.9, nesterov=nesterov)
    after = optax.chain(optax.trace(0.9, nesterov), optax_gc.centralize(), optax.sgd(0.2))
    for one, other in zip(*map(jax.tree.leaves, (train(before), train(after))), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-14)


def standardize(weights):
    mean = weights.mean(axis=(0, 1, 2), keepdims=True)
    variance = weights.var(axis=(0, 1, 2), keepdims=True)
    return (weights - mean) / jnp.sqrt(variance + 1e-5)


def test_gc_does_nothing_to_a_weight_standardized_convolution():
    """Weight standardization reparameterizes to eᵀw = 0, so its gradient has no mean to remove."""

    def output(weights):
        convolved = jax.lax.conv_general_dilated(
            jnp.asarray(images), weights, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.sum(jnp.sin(convolved))

    images = RNG.normal(size=(4, 6, 6, 3))
    weights = RNG.normal(size=(3, 3, 3, 5))
    standardized = jax.grad(lambda w: output(standardize(w)))(weights)
    assert np.max(np.abs(standardized)) > 0.1
    np.testing.assert_allclose(apply_gc(standardized), standardized, atol=1e-14)
    plain = jax.grad(output)(weights)
    assert np.max(np.abs(apply_gc(plain) - plain)) > 0.1


# Section 4.1, output feature space regularization: Corollary 4.1


@pytest.mark.parametrize("name", [*CONSTRAINED])
@pytest.mark.parametrize("gamma", [-2.0, 0.5])
def test_the_answer_to_an_intensity_change_depends_on_the_initial_weights_alone(name, gamma):
    """Equation 4 is wᵀx - wᵀ(x + c1) = -c 1ᵀw⁰. The paper prints it without the minus sign."""
    kernel = final_kernel(name)
    initial = PARAMS["hidden"]["kernel"]
    difference = INPUTS @ kernel - (INPUTS + gamma) @ kernel
    expected = -gamma * np.ones(6) @ initial
    np.testing.assert_allclose(difference, np.broadcast_to(expected, difference.shape), atol=1e-12)
    assert np.min(np.abs(expected)) > 0.01, "the sign would not matter"


@functools.cache
def final_kernel(name):
    return train(CONSTRAINED[name])["hidden"]["kernel"][-1]


# Section 4.2, accelerating training: Proposition 4.2


@no_deadline
@given(fans, seeds)
def test_gc_never_makes_a_gradient_longer(fan, seed):
    g = np.random.default_rng(seed).normal(size=fan)
    shorter = np.linalg.norm(apply_gc(g), axis=0)
    assert np.all(shorter <= np.linalg.norm(g, axis=0) * (1 + 1e-14))
    # It removes the part along e, so Pythagoras' theorem gives the length of the rest.
    along_e = unit_vector(fan[0]) @ g
    np.testing.assert_allclose(shorter**2 + along_e**2, np.sum(g**2, axis=0), rtol=1e-12)


@pytest.mark.parametrize("layer", ["hidden", "head"])
def test_gc_never_makes_a_hessian_larger(layer):
    kernel = jnp.asarray(PARAMS[layer]["kernel"])

    def loss_of_weight_vector(w, neuron):
        changed = {**PARAMS[layer], "kernel": kernel.at[:, neuron].set(w)}
        return loss({**PARAMS, layer: changed})

    def gc_gradient(w, neuron):
        return gc(jax.grad(loss_of_weight_vector)(w, neuron)[:, None])[:, 0]

    def spectral_norms(matrices):
        return np.linalg.norm(matrices, ord=2, axis=(1, 2))

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(1, 0))
    def hessians_of_every_neuron(w, neuron):
        return jax.hessian(loss_of_weight_vector)(w, neuron), jax.jacobian(gc_gradient)(w, neuron)

    plain, with_gc = hessians_of_every_neuron(kernel, jnp.arange(kernel.shape[1]))
    p = apply_gc(np.eye(kernel.shape[0]))
    np.testing.assert_allclose(with_gc, p @ plain, atol=1e-14)
    assert np.all(spectral_norms(with_gc) < spectral_norms(plain))
    # The loss as a function of v in w⁰ + P v has the Hessian PHP, which is not larger either.
    assert np.all(spectral_norms(p @ plain @ p) <= spectral_norms(with_gc) * (1 + 1e-12))
