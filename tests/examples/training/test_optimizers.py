"""Schedules are right at every step, and so are the optimizers and the two rates of fine-tuning."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import optax_gc
from examples import models
from examples.classification.presets import PRESETS
from examples.training.optimizers import (
    make_gc,
    make_optimizer,
    make_schedule,
    make_tx,
    optimizer_spec,
    with_head_rate,
)
from optax_gc import centralize, conv_kernels


def rates(schedule, steps):
    return np.array([float(schedule(step)) for step in range(steps)])


def test_a_step_schedule_drops_at_the_milestones_and_nowhere_else():
    seen = rates(make_schedule("step", 0.1, steps=10, milestones=(3, 7)), 10)
    np.testing.assert_allclose(seen, [0.1] * 3 + [0.01] * 4 + [0.001] * 3, rtol=1e-6)


def test_a_cosine_schedule_falls_from_its_peak_to_0():
    seen = rates(make_schedule("cosine", 0.2, steps=8), 9)
    expected = 0.1 * (1 + np.cos(np.pi * np.arange(9) / 8))
    np.testing.assert_allclose(seen, expected, atol=1e-7)


def test_a_constant_schedule_never_changes():
    assert set(rates(make_schedule("constant", 0.25, steps=4), 4)) == {0.25}


@pytest.mark.parametrize("warmup", [1, 4])
def test_a_warm_up_rises_in_equal_steps_to_the_peak(warmup):
    schedule = make_schedule("step", 0.8, steps=12, milestones=(6,), warmup=warmup)
    rise = 0.8 * np.arange(1, warmup + 1) / warmup
    expected = [*rise, *[0.8] * (6 - warmup), *[0.08] * 6]
    np.testing.assert_allclose(rates(schedule, 12), expected, rtol=1e-6)


def test_a_warm_up_can_begin_at_a_fraction_of_the_rate():
    """As detectors do: a third of the rate at step 0, and all of it at step 500 of 1000."""
    schedule = make_schedule("constant", 0.02, steps=1000, warmup=500, warmup_from=1 / 3)
    seen = rates(schedule, 502)
    expected = 0.02 * (1 - (1 - np.arange(500) / 500) * 2 / 3)
    np.testing.assert_allclose(seen[:500], expected, rtol=1e-5)
    np.testing.assert_allclose(seen[500:], 0.02, rtol=1e-6)


def test_after_a_warm_up_the_cosine_ends_with_the_run():
    seen = rates(make_schedule("cosine", 0.2, steps=12, warmup=4), 13)
    expected = 0.1 * (1 + np.cos(np.pi * np.arange(9) / 8))
    np.testing.assert_allclose(seen[4:], expected, atol=1e-7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "linear"}, "no schedule is called 'linear'"),
        ({"kind": "cosine", "warmup": 10}, "a warm-up of 10 steps does not fit into a run of 10"),
        ({"kind": "step", "milestones": (2, 5), "warmup": 3}, "begin during the warm-up"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(peak=0.1, steps=10, **settings)


@pytest.fixture(scope="module")
def net():
    return models.create("resnet8", num_classes=10, stem="cifar", width=4, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def params(net):
    return nnx.state(net, nnx.Param)


def updates(tx, params) -> Any:
    """Returns the updates of two steps with the same gradients. The second shows the momentum."""
    grads = jax.tree.map(lambda x: jnp.sin(3 * x) + 0.1, params)
    state = tx.init(params)
    _, state = tx.update(grads, state, params)
    return tx.update(grads, state, params)[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sgd", functools.partial(optax_gc.sgd, momentum=0.9)),
        ("sgdw", functools.partial(optax_gc.sgdw, momentum=0.9)),
        ("adam", optax_gc.adam),
        ("adamw", optax_gc.adamw),
        ("adagrad", functools.partial(optax_gc.adagrad, eps=1e-20)),
    ],
)
def test_the_five_optimizers_follow_their_rules(name, expected, net, params):
    seen = make_optimizer(name, 0.1, weight_decay=0.01, gc=make_gc("conv", net))
    wanted = expected(0.1, weight_decay=0.01, gc=centralize(mask=conv_kernels))
    jax.tree.map(np.testing.assert_array_equal, updates(seen, params), updates(wanted, params))


def test_an_unknown_optimizer_is_refused(net):
    with pytest.raises(ValueError, match="no optimizer is called 'lion'"):
        make_optimizer("lion", 0.1, gc=make_gc("off", net))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("gc", "conv", "fc"), [("off", False, False), ("conv", True, False), ("conv+fc", True, True)]
)
def test_the_setting_decides_which_gradients_are_centralized(gc, conv, fc, net, params):
    seen, _ = make_gc(gc, net).update(params, optax.EmptyState())
    for path, leaf in jax.tree_util.tree_flatten_with_path(seen)[0]:
        if leaf.ndim > 1:
            mean = jnp.abs(leaf.mean(tuple(range(leaf.ndim - 1)))).max()
            assert (mean < 1e-6) == (fc if leaf.ndim == 2 else conv), path


def test_the_control_averages_over_other_axes(net, params):
    seen: Any = make_gc("optax.centralize", net).update(params, optax.EmptyState())[0]
    kernel = seen["stages"][0][0]["conv1"]["kernel"][...]
    assert jnp.abs(kernel.mean((1, 2, 3))).max() < 1e-6
    assert jnp.abs(kernel.mean((0, 1, 2))).max() > 1e-3


def test_the_head_can_have_its_own_learning_rate(net, params):
    def make(rate):
        return make_optimizer("sgd", rate, weight_decay=0.01, gc=make_gc("conv+fc", net))

    seen = updates(with_head_rate(make, 0.01, 0.1, "fc"), params)
    body, head = updates(make(0.01), params), updates(make(0.1), params)
    for path, leaf in jax.tree_util.tree_flatten_with_path(seen)[0]:
        of = head if path[0].key == "fc" else body
        expected = functools.reduce(lambda tree, key: tree[key.key], path[:-1], of)[...]
        np.testing.assert_array_equal(leaf, expected, err_msg=str(path))


def test_gradients_are_clipped_before_they_are_centralized(net, params):
    settings = dataclasses.replace(
        PRESETS["digits"][1], clip_norm=0.5, momentum=0.0, schedule="constant"
    )
    spec = optimizer_spec(settings, steps_per_epoch=10)
    tx = make_tx(spec, net, learning_rate=1.0, weight_decay=0.0)
    grads = jax.tree.map(lambda x: jnp.sin(3 * x) + 0.1, params)
    seen = tx.update(grads, tx.init(params), params)[0]
    clipped = optax.clip_by_global_norm(0.5)
    expected = clipped.update(grads, clipped.init(grads))[0]
    centralized = make_gc("conv+fc", net).update(expected, optax.EmptyState())[0]
    for a, b in zip(jax.tree.leaves(seen), jax.tree.leaves(centralized), strict=True):
        np.testing.assert_allclose(a, -b, rtol=1e-6, atol=1e-9)
