"""Every optimizer of Optax runs after centralize() as it runs on gradients centralized by hand.

One of each kind is trained. The others are only traced, because an optimizer sees nothing but the
updates that centralize() returns.
"""

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import optax_gc


class Case(NamedTuple):
    """How an optimizer is built, and what its `update` needs besides gradients and parameters."""

    build: Callable[[], Any]
    extra_args: tuple[str, ...] = ()
    wrap: Callable[[Any], Any] = lambda params: params
    unwrap: Callable[[Any], Any] = lambda params: params
    per_example: bool = False


def plain(module, name, *extra_args):
    return Case(lambda: getattr(module, name)(learning_rate=0.1), extra_args)


def without_warning(build):
    def quiet():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return build()

    return quiet


SGD = optax.sgd(0.1)
PLAIN = """
    adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb lars lion
    novograd optimistic_adam_v2 optimistic_gradient_descent radam rmsprop rprop sgd sign_sgd
    signum sm3 yogi
"""
PLAIN_CONTRIB = """
    acprop ademamix adopt cocob dadapt_adamw dog dowg galore madgrad muon prodigy
    schedule_free_adamw schedule_free_sgd simplified_ademamix
"""
CASES = {
    **{name: plain(optax, name) for name in PLAIN.split()},
    **{name: plain(optax.contrib, name) for name in PLAIN_CONTRIB.split()},
    "lbfgs": plain(optax, "lbfgs", "value", "grad", "value_fn"),
    "momo": plain(optax.contrib, "momo", "value"),
    "momo_adam": plain(optax.contrib, "momo_adam", "value"),
    "noisy_sgd": Case(lambda: optax.noisy_sgd(0.1, key=jax.random.key(0))),
    "optimistic_adam": Case(without_warning(lambda: optax.optimistic_adam(0.1))),
    "polyak_sgd": Case(lambda: optax.polyak_sgd(max_learning_rate=0.1), ("value",)),
    "sophia": plain(optax.contrib, "sophia", "obj_fn"),
    # This clips the gradient of each example, so that examples are a batch axis of the kernels. It
    # has no argument but the seed of which newer versions of Optax warn.
    "dpsgd": Case(without_warning(lambda: optax.contrib.dpsgd(0.1, 1.0, 0.1, 0)), per_example=True),
    # These wrap another optimizer.
    "lookahead": Case(
        lambda: optax.lookahead(SGD, sync_period=2, slow_step_size=0.5),
        wrap=optax.LookaheadParams.init_synced,
        unwrap=lambda params: params.fast,
    ),
    "mechanize": Case(lambda: optax.contrib.mechanize(SGD)),
    "sam": Case(lambda: optax.contrib.sam(SGD, SGD)),
    "schedule_free": Case(lambda: optax.contrib.schedule_free(SGD, 0.1)),
    "selective_transform": Case(
        lambda: optax.selective_transform(SGD, freeze_mask={"kernel": False, "bias": True})
    ),
}

TRAINED = [
    "adafactor", "adam", "dpsgd", "lbfgs", "lion", "lookahead", "mechanize", "momo", "muon", "sam",
    "schedule_free", "sgd",
]  # fmt: skip


def optimizers_of(module):
    """Returns the public functions that make optimizers, without their parts (`scale_by_…`)."""
    return {
        name
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith(("_", "scale_by_"))
        and any(
            argument.endswith(("learning_rate", "optimizer"))
            for argument in inspect.signature(function).parameters
        )
    }


DISCOVERED = sorted(optimizers_of(optax) | optimizers_of(optax.contrib))

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(8, 16)).astype(np.float32)
PARAMS = {
    "kernel": RNG.normal(size=(16, 4)).astype(np.float32),
    "bias": RNG.normal(size=4).astype(np.float32),
}


def loss(params, inputs=INPUTS):
    return jnp.mean((jnp.tanh(inputs @ params["kernel"]) + params["bias"][None]) ** 2)


value_and_grad = jax.jit(jax.value_and_grad(loss))
per_example_gradients = jax.jit(
    lambda params: jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, INPUTS[:, None])
)
apply_updates = jax.jit(optax.apply_updates)


def centralized_by_hand(grads):
    kernel = grads["kernel"]
    # The subtraction alone may leave its result less sharded than the gradient was.
    by_hand = jax.device_put(kernel - kernel.mean(axis=-2, keepdims=True), kernel.sharding)
    return {**grads, "kernel": by_hand}


def step_with(tx, extra_args, grads, state, params, value, grad):
    """Returns what the optimizer's update does, with those of the extra arguments that it takes."""
    available = {"value": value, "grad": grad, "value_fn": loss, "obj_fn": loss}
    extra = {name: available[name] for name in extra_args}
    return optax.with_extra_args_support(tx).update(grads, state, params, **extra)


class Run:
    """A training run under jit that counts how often the optimizer's update is traced."""

    def __init__(self, tx, params, extra_args):
        def update(*args):
            self.traces += 1
            return step_with(tx, extra_args, *args)

        self.traces = 0
        self.params, self.state = params, tx.init(params)
        # Each program runs only three times, so compiling it fast matters more than running it fast.
        self.update = jax.jit(update, compiler_options={"xla_backend_optimization_level": 0})

    def step(self, grads, value, gradient):
        updates, self.state = self.update(grads, self.state, self.params, value, gradient)
        self.params = apply_updates(self.params, updates)


def sharded_over_inputs_and_outputs(params):
    shape = (4, 2) if jax.device_count() >= 8 else (1, 1)
    mesh = jax.make_mesh(shape, ("in", "out"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    specs = {"kernel": PartitionSpec("in", "out"), "bias": PartitionSpec("out")}
    return {name: jax.device_put(params[name], NamedSharding(mesh, specs[name])) for name in params}


def test_every_optimizer_of_this_optax_has_a_case():
    assert set(DISCOVERED) <= set(CASES), "an optimizer is new in Optax: put it in the table"
    assert set(TRAINED) <= set(DISCOVERED)


def chains_of(name):
    """Returns an optimizer's case, and the optimizer after centralize() and after nothing."""
    case = CASES[name]
    gc = optax_gc.centralize(
        {"kernel": (-2,), "bias": None} if case.per_example else optax_gc.kernel_axes
    )
    return case, optax.chain(gc, case.build()), optax.chain(optax.identity(), case.build())


@pytest.mark.parametrize("name", sorted(set(DISCOVERED) - set(TRAINED)))
def test_state_and_updates_have_the_same_structure_shapes_and_dtypes_after_centralize(name):
    case, *chains = chains_of(name)

    def first_step(tx, params):
        params = case.wrap(params)
        value, gradient = value_and_grad(case.unwrap(params))
        state = tx.init(params)
        return state, step_with(tx, case.extra_args, gradient, state, params, value, gradient)

    ours, theirs = (jax.eval_shape(functools.partial(first_step, tx), PARAMS) for tx in chains)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    assert jax.tree.leaves(ours) == jax.tree.leaves(theirs)


@pytest.mark.parametrize("name", TRAINED)
def test_runs_after_centralize_as_on_gradients_centralized_by_hand(name):
    """The training is the same, and GC adds no retrace and changes no dtype, structure or sharding."""
    case, tx, plain_tx = chains_of(name)
    params = case.wrap(sharded_over_inputs_and_outputs(PARAMS))
    with_gc, without = Run(tx, params, case.extra_args), Run(plain_tx, params, case.extra_args)

    for _ in range(3):
        now = case.unwrap(with_gc.params)
        value, gradient = value_and_grad(now)
        gradient = jax.device_put(gradient, jax.tree.map(lambda leaf: leaf.sharding, now))
        grads = per_example_gradients(now) if case.per_example else gradient
        with_gc.step(grads, value, gradient)
        without.step(centralized_by_hand(grads), value, gradient)

    moved = np.abs(case.unwrap(with_gc.params)["kernel"] - PARAMS["kernel"])
    assert np.max(moved) > 0
    chex.assert_tree_all_finite(with_gc.params)
    chex.assert_trees_all_close(with_gc.params, without.params, rtol=1e-4, atol=1e-5)
    assert with_gc.traces == without.traces
    for ours, theirs in (with_gc.params, without.params), (with_gc.state, without.state):
        chex.assert_trees_all_equal_shapes_and_dtypes(ours, theirs)
        for one, other in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
            assert one.sharding.is_equivalent_to(other.sharding, one.ndim)
