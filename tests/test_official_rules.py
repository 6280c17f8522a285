"""The optimizers agree with the authors' numbers and with each rule written in NumPy."""

import json
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_gc

OFFICIAL = pathlib.Path(__file__).parent / "data" / "official_torch"
INDEX = json.loads((OFFICIAL / "index.json").read_text())
CASES = {case["id"]: case for case in INDEX["cases"]}
FOLLOWED = [id for id, case in CASES.items() if case["optimizer"] in ("sgd", "sgdw", "adam")]
GC = {
    "conv+fc": optax_gc.centralize(),
    "conv_only": optax_gc.centralize(mask=optax_gc.conv_kernels),
    "off": optax.identity(),
}


def load_inputs(dtype):
    """Loads parameters and 20 steps of gradients, as {layer: {kind: array}} in Flax's layout."""
    arrays = np.load(OFFICIAL / "inputs_P.npz")
    return tuple(
        {
            name: {kind: arrays[f"{what}/flax/{name}"].astype(dtype)}
            for name, kind in LEAF_KINDS.items()
        }
        for what in ("init", "grads")
    )


LEAF_KINDS = {
    "conv": "kernel",
    "dwconv": "kernel",
    "fc": "kernel",
    "conv1x1": "kernel",
    "bias": "bias",
    "bn_scale": "scale",
}


def load_trajectory(case):
    """Loads the authors' parameters after each step, in the form of the gradients."""
    arrays = np.load(OFFICIAL / case["file"])
    return {name: {kind: arrays[f"traj/{name}"][1:]} for name, kind in LEAF_KINDS.items()}


def follow(tx, params, grads):
    """Returns the parameters after each step of `tx` along a fixed sequence of gradients.

    It does not use jit, because compiling so many optimizers is slow, and they share operations.
    """
    state, trajectory = tx.init(params), []
    for step in range(len(jax.tree.leaves(grads)[0])):
        updates, state = tx.update(jax.tree.map(lambda g, t=step: g[t], grads), state, params)
        params = optax.apply_updates(params, updates)
        trajectory.append(params)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trajectory)


def largest_difference(one, other):
    differences = jax.tree.map(lambda a, b: np.max(np.abs(np.asarray(a) - b)), one, other)
    return max(jax.tree.leaves(differences))


# The rules in NumPy, for one array. `phi` is the projection, or the identity for a bias.


def phi(x):
    return x - x.mean(axis=tuple(range(x.ndim - 1)), keepdims=True)


def sgd_rule(w, g, state, t, phi, lr, wd=0.0, momentum=0.0, nesterov=False):
    d = phi(g + wd * w)
    m = momentum * state["m"] + d
    return w - lr * (d + momentum * m if nesterov else m), {"m": m}


def sgdw_rule(w, g, state, t, phi, lr, wd=0.0, momentum=0.0, nesterov=False):
    d = phi(g)
    m = momentum * state["m"] + d
    return w - lr * (d + momentum * m if nesterov else m) - lr * wd * w, {"m": m}


def adam_direction(g, state, t, b1, b2, eps):
    m = b1 * state["m"] + (1 - b1) * g
    v = b2 * state["v"] + (1 - b2) * g * g
    return m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps), {"m": m, "v": v}


def adam_rule(w, g, state, t, phi, lr, wd=0.0, b1=0.9, b2=0.999, eps=1e-8, gc_on="gradient"):
    g = g + wd * w
    u, state = adam_direction(phi(g) if gc_on == "gradient" else g, state, t, b1, b2, eps)
    return w - lr * (phi(u) if gc_on == "update" else u), state


def adamw_rule(w, g, state, t, phi, lr, wd=1e-4, b1=0.9, b2=0.999, eps=1e-8, gc_on="gradient"):
    u, state = adam_direction(phi(g) if gc_on == "gradient" else g, state, t, b1, b2, eps)
    u = u + wd * w
    return w - lr * (phi(u) if gc_on == "update" else u), state


def adagrad_rule(w, g, state, t, phi, lr, wd=0.0, eps=1e-7, gc_on="gradient"):
    d = g + wd * w
    d = phi(d) if gc_on == "gradient" else d
    v = state["v"] + d * d
    u = d / np.sqrt(v + eps)
    return w - lr * (phi(u) if gc_on == "update" else u), {"v": v}


RULES = {
    "sgd": sgd_rule,
    "sgdw": sgdw_rule,
    "adam": adam_rule,
    "adamw": adamw_rule,
    "adagrad": adagrad_rule,
}


def numpy_training(rule, params, gradient_at, steps, lr, **options):
    """Returns the parameters after each step. Every rule's state starts as a dictionary of zeros.

    `params` is {layer: {kind: array}}; `lr` is a function of the 0-based step.
    """
    kinds = [(name, kind) for name, leaves in params.items() for kind in leaves]
    states = {key: {"m": 0.0, "v": 0.0} for key in kinds}
    trajectory = []
    for step in range(steps):
        grads = gradient_at(step, params)
        new = {name: {} for name in params}
        for name, kind in kinds:
            new[name][kind], states[name, kind] = rule(
                params[name][kind],
                np.asarray(grads[name][kind]),
                states[name, kind],
                step + 1,
                phi if kind == "kernel" else lambda x: x,
                lr(step),
                **options,
            )
        params = new
        trajectory.append(params)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trajectory)


# The authors' trajectories


def matching_optimizer(case):
    options = {"weight_decay": case["weight_decay"], "gc": GC[case["gc_mode"]]}
    if case["optimizer"] == "adam":
        b1, b2 = case["betas"]
        if case["gc_position"] == "update":
            options["gc_on"] = "update"
        return optax_gc.adam(case["lr"], b1, b2, case["eps"], **options)
    optimizer = {"sgd": optax_gc.sgd, "sgdw": optax_gc.sgdw}[case["optimizer"]]
    return optimizer(case["lr"], case["momentum"], case["nesterov"], **options)


def test_all_runs_of_the_authors_are_there():
    assert len(FOLLOWED) == 21
    assert {CASES[id]["optimizer"] for id in CASES if id not in FOLLOWED} == {
        "adamw_gccode",
        "adamw_alggc",
        "adagrad",
    }


@pytest.mark.parametrize("id", FOLLOWED)
def test_follows_the_authors_code(id, x64):
    case = CASES[id]
    params, grads = load_inputs(case["dtype"])
    ours = follow(matching_optimizer(case), params, grads)
    tolerance = {"float64": 1e-12, "float32": 2e-6}[case["dtype"]]
    assert largest_difference(ours, load_trajectory(case)) < tolerance


@pytest.mark.parametrize("id", FOLLOWED)
def test_follows_the_authors_code_in_single_precision(id):
    case = CASES[id]
    params, grads = load_inputs("float32")
    ours = follow(matching_optimizer(case), params, grads)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(ours))
    assert largest_difference(ours, load_trajectory(case)) < 2e-6


def test_authors_adamw_is_ours_with_a_decay_that_is_larger_at_the_start(x64):
    params, grads = load_inputs("float64")
    ours = follow(optax_gc.adamw(1e-3, weight_decay=5e-4), params, grads)
    official = load_trajectory(CASES["P_adamwB_gc_locT_wd0.0005"])

    first_step = jax.tree.map(lambda a, b: a[0] - b[0], ours, official)
    expected = jax.tree.map(lambda w: 1e-3 * 5e-4 * (1 / (1 - 0.9) - 1) * w, params)
    assert largest_difference(first_step, expected) < 1e-15
    assert largest_difference(ours, official) > 1e-5

    corrected = optax_gc.adamw(1e-3, weight_decay=lambda count: 5e-4 / (1 - 0.9 ** (count + 1)))
    assert largest_difference(follow(corrected, params, grads), official) < 1e-12


def test_authors_other_adamw_has_also_another_eps(x64):
    def decay(count):
        return 5e-4 * jnp.sqrt(1 - 0.999 ** (count + 1)) / (1 - 0.9 ** (count + 1))

    params, grads = load_inputs("float64")
    official = load_trajectory(CASES["P_adamwA_gc_locT_wd0.0005"])
    ours = follow(optax_gc.adamw(1e-3, weight_decay=5e-4), params, grads)
    assert largest_difference(ours, official) > 1e-7

    # Their step multiplies both the moments' quotient and the decay by
    # sqrt(1 - b2^t) / (1 - b1^t), and adds eps before the bias correction.
    corrected = optax.inject_hyperparams(optax_gc.adamw)(
        1e-3, eps=lambda count: 1e-8 / jnp.sqrt(1 - 0.999 ** (count + 1)), weight_decay=decay
    )
    assert largest_difference(follow(corrected, params, grads), official) < 1e-12


def test_authors_adagrad_steps_further_where_gradients_are_small(x64):
    params, grads = load_inputs("float64")
    official = load_trajectory(CASES["P_adagrad_gc_wd0.0005"])
    ours = follow(optax_gc.adagrad(0.01, weight_decay=5e-4), params, grads)

    for start, a, b in zip(*map(jax.tree.leaves, (params, ours, official)), strict=True):
        assert np.all(np.abs(a[0] - start) < np.abs(b[0] - start))
    assert largest_difference(ours, official) > 1e-6

    tiny_eps = follow(optax_gc.adagrad(0.01, eps=1e-20, weight_decay=5e-4), params, grads)
    assert largest_difference(tiny_eps, official) < 1e-8


# The rules in NumPy

VARIANTS = [
    ("sgd", {"momentum": 0.0, "wd": 0.0}),
    ("sgd", {"momentum": 0.5, "wd": 0.1}),
    ("sgd", {"momentum": 0.9, "wd": 0.01, "nesterov": True}),
    ("sgdw", {"momentum": 0.0, "wd": 0.1}),
    ("sgdw", {"momentum": 0.9, "wd": 0.01, "nesterov": True}),
    ("adam", {"wd": 0.1}),
    ("adam", {"wd": 0.1, "gc_on": "update", "b1": 0.5, "b2": 0.9, "eps": 1e-3}),
    ("adamw", {"wd": 0.1}),
    ("adamw", {"wd": 0.1, "gc_on": "update"}),
    ("adagrad", {"wd": 0.0}),
    ("adagrad", {"wd": 0.1, "gc_on": "update", "eps": 1e-3}),
]


def with_options(name, learning_rate, wd, **options):
    return getattr(optax_gc, name)(learning_rate, weight_decay=wd, **options)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_follows_the_rule_in_numpy(name, options, x64):
    params, grads = load_inputs("float64")
    ours = follow(with_options(name, 0.01, **options), params, grads)
    expected = numpy_training(
        RULES[name],
        params,
        lambda step, params: jax.tree.map(lambda g: g[step], grads),
        steps=20,
        lr=lambda step: 0.01,
        **options,
    )
    assert largest_difference(ours, expected) < 1e-12


def conv_net_loss(params, images, labels):
    """The cross-entropy of a net of two convolutions (stride 2, depthwise) and a dense layer."""
    x = images
    for name, stride, groups in ("conv", 2, 1), ("dwconv", 1, 4):
        x = jax.lax.conv_general_dilated(
            x,
            params[name]["kernel"],
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
        x = jnp.tanh(x + params[name]["bias"][None, None, None])
    logits = x.mean(axis=(1, 2)) @ params["head"]["kernel"] + params["head"]["bias"][None]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


conv_net_gradient = jax.jit(jax.grad(conv_net_loss))


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_trains_a_small_conv_net_as_the_rule_does(name, options, x64):
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(5, 6, 8, 8, 3)), rng.integers(0, 4, size=(5, 6))
    params = {
        "conv": {"kernel": rng.normal(size=(3, 3, 3, 4)) / 5, "bias": np.zeros(4)},
        "dwconv": {"kernel": rng.normal(size=(3, 3, 1, 4)) / 3, "bias": np.zeros(4)},
        "head": {"kernel": rng.normal(size=(4, 4)) / 2, "bias": np.zeros(4)},
    }
    steps, rates = 40, np.where(np.arange(40) < 25, 0.05, 0.005)
    tx = with_options(name, lambda count: jnp.asarray(rates)[count], **options)
    ours, state, update = params, tx.init(params), jax.jit(tx.update)
    for step in range(steps):
        grads = conv_net_gradient(ours, images[step % 5], labels[step % 5])
        updates, state = update(grads, state, ours)
        ours = optax.apply_updates(ours, updates)
    expected = numpy_training(
        RULES[name],
        params,
        lambda step, params: conv_net_gradient(params, images[step % 5], labels[step % 5]),
        steps,
        lr=lambda step: rates[step],
        **options,
    )
    last = jax.tree.map(lambda leaf: leaf[-1], expected)
    assert largest_difference(last, params) > 0.01
    assert largest_difference(ours, last) < 1e-10


@pytest.mark.parametrize("name", RULES)
def test_a_weight_of_fan_in_1_is_trained_as_it_would_be_without_gc(name):
    # The authors' rule always gives such a weight a gradient of exactly 0.
    params = {"dwconv": {"kernel": np.ones((1, 1, 1, 3), np.float32)}}
    grads = {"dwconv": {"kernel": np.full((5, 1, 1, 1, 3), 2.0, np.float32)}}
    official = numpy_training(
        RULES[name],
        params,
        lambda step, _: jax.tree.map(lambda g: g[step], grads),
        5,
        lambda _: 0.1,
        wd=0.0,
    )
    assert largest_difference(official, jax.tree.map(lambda w: w[None], params)) == 0
    ours = follow(with_options(name, 0.1, wd=0.0), params, grads)
    without = follow(with_options(name, 0.1, wd=0.0, gc=optax.identity()), params, grads)
    assert np.all(ours["dwconv"]["kernel"] < 1)
    chex.assert_trees_all_equal(ours, without)
