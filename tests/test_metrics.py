"""What GC removes is measured in the training step and read from the optimizer's state."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from optax_gc import centralize, nnx_kernel_axes
from optax_gc.diagnostics import (
    gradient_stats,
    read_metrics,
)
from tests.test_diagnostics import by_path, normal


def test_measures_are_logged_in_the_step_without_changing_it():
    model = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    axes = nnx_kernel_axes(model)
    plain = optax.chain(centralize(axes), optax.sgd(0.1, momentum=0.9))
    logged = optax.chain(
        optax.snapshot("gc", functools.partial(gradient_stats, axes=axes)),
        centralize(axes),
        optax.sgd(0.1, momentum=0.9),
    )
    x = normal(6, 3)
    traces = []

    def train(model, tx):
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        seen = []

        @nnx.jit
        def step(model, optimizer):
            traces.append(tx)
            grads = nnx.grad(lambda model: jnp.mean((model(x) - 1) ** 2))(model)
            optimizer.update(model, grads)
            return grads

        for _ in range(3):
            grads = step(model, optimizer)
            stats = optax.tree.get(optimizer.opt_state, "gc")
            seen.append((grads, stats and [float(norm[...]) for norm in stats["kernel"][:2]]))
        return nnx.state(model), seen

    expected, _ = train(nnx.clone(model), plain)
    after, seen = train(nnx.clone(model), logged)
    jax.tree.map(np.testing.assert_array_equal, after, expected)
    assert traces.count(logged) == 1
    for grads, norms in seen:
        report = by_path(grads, axes)["kernel"]
        assert norms == pytest.approx([report.norm_before, report.norm_after], rel=1e-5)


def test_measures_are_logged_in_a_scan_of_plain_optax_steps():
    params = {"head": {"kernel": normal(4, 2)}}
    tx = optax.chain(optax.snapshot("gc", gradient_stats), centralize(), optax.sgd(0.1))

    def step(carry, x):
        params, state = carry
        grads = jax.grad(lambda p: jnp.mean((x @ p["head"]["kernel"] - 1) ** 2))(params)
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(params, updates), state), optax.tree.get(state, "gc")

    _, logged = jax.lax.scan(step, (params, tx.init(params)), normal(5, 3, 4))
    stats = logged["head/kernel"]
    assert stats.norm_before.shape == (5,)
    assert bool(jnp.all(stats.norm_after < stats.norm_before))
    assert math.isfinite(float(jnp.sum(stats.max_after)))


@pytest.mark.parametrize(
    "wrap",
    [
        "chain",
        "multi_steps",
        "masked",
        "partition",
        "a label of the same name",
        "a part of the same name",
    ],
)
def test_metrics_are_read_from_the_state_whatever_wraps_the_chain(wrap):
    grads = {"a": {"kernel": normal(4, 2)}, "b": {"kernel": normal(3, 2, seed=1)}}
    chain = optax.chain(optax.snapshot("gc", gradient_stats), centralize(), optax.sgd(0.1))
    tx: Any = {
        "chain": chain,
        "multi_steps": optax.MultiSteps(chain, 1),
        "masked": optax.masked(chain, {"a": True, "b": True}),
        "partition": optax.partition({"x": chain, "y": chain}, {"a": "x", "b": "y"}),
        "a label of the same name": optax.partition({"gc": chain}, "gc"),
        "a part of the same name": optax.named_chain(("gc", chain)),
    }[wrap]

    traces = []

    @jax.jit
    def step(grads, state):
        traces.append(wrap)
        _, state = tx.update(grads, state, grads)
        return state, read_metrics(state)

    state, _ = step(grads, tx.init(grads))
    _, metrics = step(grads, state)
    assert len(traces) == 1
    assert set(metrics) == {
        "gc/removed", "gc/norm", "gc/a/kernel/removed", "gc/a/kernel/norm",
        "gc/b/kernel/removed", "gc/b/kernel/norm",
    }  # fmt: skip
    reports = by_path(grads)
    for path in ("a/kernel", "b/kernel"):
        assert float(metrics[f"gc/{path}/norm"]) == pytest.approx(
            reports[path].norm_before, rel=1e-5
        )
        assert float(metrics[f"gc/{path}/removed"]) == pytest.approx(
            reports[path].energy_removed, rel=1e-5
        )
    whole = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(grads)])
    after = [leaf - leaf.mean(0, keepdims=True) for leaf in jax.tree.leaves(grads)]
    energy = sum(float(jnp.sum(leaf**2)) for leaf in after)
    assert float(metrics["gc/removed"]) == pytest.approx(1 - energy / np.sum(whole**2), rel=1e-5)
    assert float(metrics["gc/norm"]) == pytest.approx(np.linalg.norm(whole), rel=1e-5)


def test_metrics_are_read_from_an_nnx_optimizer():
    model = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    measure = functools.partial(gradient_stats, axes=nnx_kernel_axes(model))
    tx = optax.chain(optax.snapshot("gc", measure), optax.sgd(0.1))
    metrics = read_metrics(nnx.Optimizer(model, tx, wrt=nnx.Param).opt_state)
    assert set(metrics) == {
        f"gc/{part}{of}" for part in ("", "kernel/") for of in ("removed", "norm")
    }
    assert all(isinstance(value, jax.Array) and value.shape == () for value in metrics.values())


def test_metrics_are_read_beside_the_moments_of_a_layer_of_the_same_name():
    grads = {"gc": {"kernel": normal(4, 2)}}
    tx = optax.chain(optax.snapshot("gc", gradient_stats), centralize(), optax.adam(0.1))
    _, state = tx.update(grads, tx.init(grads))
    assert set(read_metrics(state)) == {
        f"gc/{part}{of}" for part in ("", "gc/kernel/") for of in ("removed", "norm")
    }
    with pytest.raises(ValueError, match="no snapshot 'gc'"):
        read_metrics(optax.adam(0.1).init(grads))


def test_metrics_of_a_state_without_a_snapshot_are_an_error():
    with pytest.raises(ValueError, match=r"no snapshot 'gc'.*optax\.snapshot"):
        read_metrics(optax.sgd(0.1, 0.9).init({"kernel": normal(3, 2)}))
