"""The optimizers are those of Optax with a few more arguments, and the paper's decay and order."""

import functools
import inspect
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_gc

OPTIMIZERS = {
    "sgd": functools.partial(optax_gc.sgd, momentum=0.9),
    "sgdw": functools.partial(optax_gc.sgdw, momentum=0.9),
    "adam": optax_gc.adam,
    "adamw": optax_gc.adamw,
    "adagrad": optax_gc.adagrad,
}
ADAPTIVE = ("adam", "adamw", "adagrad")


def follow(tx, params, grads):
    """Returns the parameters after each step of `tx` along a fixed sequence of gradients."""
    state, trajectory = tx.init(params), []
    for step in range(len(jax.tree.leaves(grads)[0])):
        updates, state = tx.update(jax.tree.map(lambda g, t=step: g[t], grads), state, params)
        params = optax.apply_updates(params, updates)
        trajectory.append(params)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trajectory)


def first_update(tx, grads, params=None) -> Any:
    params = PARAMS if params is None else params
    return tx.update(grads, tx.init(params), params)[0]


# They replace Optax's optimizers

halving = optax.exponential_decay(0.1, transition_steps=1, decay_rate=0.5)
DROP_INS = [
    ("sgd", (0.1,), {}),
    ("sgd", (0.1, None), {}),
    ("sgd", (0.1, 0.0), {}),
    ("sgd", (0.1, 0.0, True), {}),
    ("sgd", (0.1, 0.9), {}),
    ("sgd", (0.1, 0.9, True, jnp.bfloat16), {}),
    ("sgd", (halving, 0.9), {}),
    ("adam", (0.1,), {}),
    ("adam", (halving, 0.5, 0.9, 1e-3, 1e-4, jnp.bfloat16), {}),
    ("adam", (0.1,), {"nesterov": True}),
    ("adamw", (0.1,), {}),
    ("adamw", (0.1,), {"weight_decay": 0.0}),
    (
        "adamw",
        (halving, 0.5, 0.9, 1e-3, 1e-4, jnp.bfloat16, 0.1, {"kernel": True, "bias": False}),
        {},
    ),
    ("adamw", (0.1,), {"nesterov": True, "weight_decay": 0.1, "mask": optax_gc.dense_kernels}),
    ("adagrad", (0.1, 0.1), {}),
    ("adagrad", (halving, 0.5, 1e-3), {}),
]


@pytest.mark.parametrize(("name", "args", "kwargs"), DROP_INS)
def test_is_optax_itself_without_gc(name, args, kwargs):
    params = {"kernel": jnp.arange(6.0).reshape(3, 2), "bias": jnp.ones(2)}
    grads = jax.tree.map(lambda p: jax.random.normal(jax.random.key(p.size), (6, *p.shape)), params)
    ours = getattr(optax_gc, name)(*args, **kwargs, gc=optax.identity())
    theirs = getattr(optax, name)(*args, **kwargs)
    chex.assert_trees_all_equal(follow(ours, params, grads), follow(theirs, params, grads))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_takes_optaxs_arguments_by_the_same_names_and_new_ones_by_keyword_only(name):
    ours = inspect.signature(getattr(optax_gc, name)).parameters
    theirs = inspect.signature(getattr(optax, name.replace("sgdw", "sgd"))).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    for argument in theirs.values():
        assert ours[argument.name].kind == argument.kind
        if (name, argument.name) != ("adagrad", "initial_accumulator_value"):
            assert ours[argument.name].default == argument.default
    added = [argument for argument in ours if argument not in theirs]
    assert all(ours[argument].kind is inspect.Parameter.KEYWORD_ONLY for argument in added)
    assert set(added) <= {"weight_decay", "gc", "gc_on"}


@pytest.mark.parametrize(("name", "args", "kwargs"), DROP_INS)
@pytest.mark.parametrize("gc", [optax.identity(), optax_gc.centralize()], ids=["identity", "gc"])
@pytest.mark.parametrize("gc_on", ["gradient", "update"])
def test_the_state_is_optaxs_with_and_without_gc(name, args, kwargs, gc, gc_on):
    where = {} if name == "sgd" else {"gc_on": gc_on}
    params = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}
    ours = getattr(optax_gc, name)(*args, **kwargs, gc=gc, **where)
    theirs = getattr(optax, name)(*args, **kwargs)
    chex.assert_trees_all_equal(ours.init(params), theirs.init(params))
    assert jax.tree.structure(ours.init(params)) == jax.tree.structure(theirs.init(params))

    # So a run without GC can continue with GC, and the other way round.
    _, state = theirs.update(params, theirs.init(params), params)
    _, state = ours.update(params, state, params)
    theirs.update(params, state, params)


def test_a_gc_with_a_state_of_its_own_keeps_it():
    measured = optax.chain(optax.snapshot("seen", optax.tree.norm), optax_gc.centralize())
    tx = optax_gc.adam(0.1, gc=measured)
    _, state = tx.update({"w": jnp.ones((3, 2))}, tx.init({"w": jnp.ones((3, 2))}))
    np.testing.assert_allclose(optax.tree.get(state, "seen"), np.sqrt(6), rtol=1e-6)


@pytest.mark.parametrize("gc_on", ["gradient", "update"])
def test_a_stateless_gc_gets_the_parameters_and_the_extra_arguments(gc_on):
    def update(updates, state, params=None, **extra):
        return jax.tree.map(lambda g, w: extra["scale"] * g + w, updates, params), state

    gc = optax.GradientTransformationExtraArgs(optax.identity().init, update)
    tx = optax_gc.adagrad(1.0, eps=0.0, gc=gc, gc_on=gc_on)
    params = {"w": jnp.full((2, 2), 2.0)}
    updates: Any = tx.update(params, tx.init(params), params, scale=3.0)[0]
    # On the gradient, 3 · 2 + 2 = 8 is divided by its own size. On the update it is 3 · 1 + 2 = 5.
    np.testing.assert_allclose(updates["w"], -1.0 if gc_on == "gradient" else -5.0)


# Weight decay

PARAMS = {"kernel": jnp.arange(6.0).reshape(3, 2) - 2, "bias": jnp.ones(2)}
GRADS = jax.tree.map(lambda p: jax.random.normal(jax.random.key(p.size), (6, *p.shape)), PARAMS)


@pytest.mark.parametrize("zero", [None, 0, 0.0, np.float64(0)])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_plain_use_needs_no_params(name, zero):
    tx = OPTIMIZERS[name](0.1, weight_decay=zero)
    first = jax.tree.map(lambda g: g[0], GRADS)
    without_params, _ = tx.update(first, tx.init(PARAMS))
    chex.assert_trees_all_equal(without_params, first_update(tx, first))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_needs_params(name):
    for decay in 0.1, jnp.float32(0.0), optax.constant_schedule(0.1):
        tx = OPTIMIZERS[name](0.1, weight_decay=decay)
        with pytest.raises(ValueError, match="parameters"):
            tx.update(PARAMS, tx.init(PARAMS))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_scheduled_decay_is_the_decay_of_its_step(name):
    decays = jnp.array([0.1, 0.0, 0.3, 0.2, 0.2, 0.5])
    scheduled = OPTIMIZERS[name](0.1, weight_decay=lambda count: decays[count])
    ours = follow(scheduled, PARAMS, GRADS)

    params, state = PARAMS, OPTIMIZERS[name](0.1, weight_decay=decays[0]).init(PARAMS)
    for step in range(6):
        tx = OPTIMIZERS[name](0.1, weight_decay=decays[step])
        updates, state = tx.update(jax.tree.map(lambda g, t=step: g[t], GRADS), state, params)
        params = optax.apply_updates(params, updates)
    chex.assert_trees_all_close(jax.tree.map(lambda p: p[-1], ours), params, rtol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_scheduled_decay_keeps_every_dtype(name):
    # linear_schedule returns a float32 that is not weakly typed, and one leaf is bfloat16.
    params = {"a": jnp.ones((3, 2), jnp.bfloat16), "b": jnp.ones((3, 2)), "absent": None}
    tx = OPTIMIZERS[name](0.1, weight_decay=optax.linear_schedule(0.1, 0.2, 5))
    state = tx.init(params)
    updates, new_state = tx.update(params, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)


@pytest.mark.parametrize("decay", [0.5, optax.constant_schedule(0.5)])
@pytest.mark.parametrize("mask", [{"kernel": True, "bias": False}, optax_gc.dense_kernels])
def test_adamw_mask_chooses_what_is_decayed_and_not_what_is_centralized(mask, decay):
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    tx = optax_gc.adamw(1.0, weight_decay=decay, mask=mask)
    updates = first_update(tx, zeros)
    chex.assert_trees_all_close(updates, {"kernel": -0.5 * PARAMS["kernel"], "bias": zeros["bias"]})

    masked = {"kernel": False, "bias": False}
    tx = optax_gc.adamw(1.0, weight_decay=decay, mask=masked, gc_on="update")
    updates = first_update(tx, jax.tree.map(lambda g: g[0], GRADS))
    np.testing.assert_allclose(updates["kernel"].sum(axis=0), 0, atol=1e-6)
    assert np.all(updates["bias"] != 0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_takes_injected_hyperparameters(name):
    static = ("momentum",) if name in ("sgd", "sgdw") else ()
    decay = optax.linear_schedule(0.0, 0.1, 5)
    injected = optax.inject_hyperparams(OPTIMIZERS[name], static_args=static)(
        learning_rate=halving, weight_decay=decay
    )
    direct = OPTIMIZERS[name](halving, weight_decay=decay)
    chex.assert_trees_all_close(
        follow(injected, PARAMS, GRADS), follow(direct, PARAMS, GRADS), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", ["sgd", "sgdw", "adam", "adagrad"])
def test_injected_hyperparameters_need_no_params_if_no_decay_was_asked_for(name):
    tx = optax.inject_hyperparams(getattr(optax_gc, name))(learning_rate=0.1)
    infinite = jax.tree.map(lambda p: p * jnp.inf, PARAMS)  # 0 · inf would be NaN
    state: Any = tx.init(infinite)
    updates, state = tx.update(PARAMS, state, None)
    chex.assert_tree_all_finite(updates)
    assert "weight_decay" not in state.hyperparams
    np.testing.assert_allclose(optax.tree.get(state, "learning_rate"), 0.1, rtol=1e-6)
    half, _ = tx.update(PARAMS, optax.tree.set(state, learning_rate=0.05), None)
    chex.assert_tree_all_finite(half)


def test_an_injected_decay_of_0_can_be_raised_later():
    tx = optax.inject_hyperparams(optax_gc.sgdw)(learning_rate=1.0, weight_decay=0.0)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    update = jax.jit(tx.update)
    updates, state = update(zeros, tx.init(PARAMS), PARAMS)
    chex.assert_trees_all_equal(updates, zeros)
    state.hyperparams["weight_decay"] = jnp.float32(0.5)
    updates, _ = update(zeros, state, PARAMS)
    chex.assert_trees_all_close(updates, jax.tree.map(lambda p: -0.5 * p, PARAMS))


# Adagrad's start


@pytest.mark.parametrize("gc_on", ["gradient", "update"])
@pytest.mark.parametrize("eps", [1e-7, 0.0])
def test_adagrad_does_not_move_a_weight_whose_gradients_are_all_0(eps, gc_on):
    tx = optax_gc.adagrad(0.1, eps=eps, gc_on=gc_on)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, state = tx.update(zeros, tx.init(PARAMS))
    chex.assert_trees_all_equal(updates, zeros)
    updates, _ = tx.update(PARAMS, state)
    chex.assert_tree_all_finite(updates)


def test_adagrads_first_step_has_the_size_of_the_learning_rate():
    tx = optax_gc.adagrad(0.1)
    grads = {"bias": jnp.array([-3.0, 0.5])}
    updates = first_update(tx, grads, grads)
    np.testing.assert_allclose(updates["bias"], [0.1, -0.1], rtol=1e-6)


# The order in a chain


def test_clipping_before_gc_leaves_the_norm_under_its_bound():
    grads = jax.tree.map(lambda p: 100 * p, PARAMS)
    before = optax.chain(optax.clip_by_global_norm(1.0), optax_gc.sgd(1.0))
    behind = optax.chain(optax_gc.centralize(), optax.clip_by_global_norm(1.0), optax.sgd(1.0))
    assert optax.tree.norm(first_update(before, grads)) < 0.99
    assert optax.tree.norm(first_update(behind, grads)) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_accumulated_gradients_are_the_gradient_of_their_mean(name):
    tx = OPTIMIZERS[name](0.1)
    multi = optax.MultiSteps(tx, every_k_schedule=6)
    multi = optax.GradientTransformation(multi.init, jax.jit(multi.update))
    accumulated = jax.tree.map(lambda p: p[-1], follow(multi, PARAMS, GRADS))
    mean = jax.tree.map(lambda g: g.mean(axis=0), GRADS)
    expected = optax.apply_updates(PARAMS, first_update(tx, mean))
    chex.assert_trees_all_close(accumulated, expected, rtol=1e-5)


# Bad input


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("gc_on", ["late", "grad", "", None, True])
def test_an_unknown_gc_on_is_refused_with_the_two_that_are_known(name, gc_on):
    with pytest.raises(ValueError, match='gc_on must be "gradient" or "update"'):
        OPTIMIZERS[name](0.1, gc_on=gc_on)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("gc", [None, True, "conv", optax_gc.centralize, (0, 1)])
def test_a_gc_that_is_not_a_transformation_is_refused_with_what_to_pass(name, gc):
    with pytest.raises(TypeError, match=r"optax_gc\.centralize\(\).*optax\.identity\(\)"):
        OPTIMIZERS[name](0.1, gc=gc)
