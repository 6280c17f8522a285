"""A step equals the same step written by hand, for a loss that is not a classifier's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from examples.training import steps


class Net(nnx.Module):
    """A linear layer after batch normalization and dropout."""

    def __init__(self, rngs: nnx.Rngs):
        self.norm = nnx.BatchNorm(3, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.fc = nnx.Linear(3, 1, rngs=rngs)

    def __call__(self, x):
        return self.fc(self.dropout(self.norm(x)))


def squares(model, batch, key):
    noise = jax.random.normal(key, ())
    loss = ((model(batch["x"])[:, 0] - batch["y"]) ** 2).mean()
    return loss, {"noise": noise}


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {"x": rng.normal(2, 3, (8, 3)).astype("f"), "y": rng.normal(size=8).astype("f")}


def make(seed, tx):
    model = Net(nnx.Rngs(seed))
    return model, steps.init_state(model, tx, jax.random.key(seed))


def test_a_step_equals_that_of_nnx(batch):
    tx = optax.sgd(0.1, momentum=0.9)
    model, state = make(0, tx)
    train_step = steps.make_train_step(model, squares, tx)
    by_hand, optimizer = Net(nnx.Rngs(0)), None
    optimizer = nnx.Optimizer(by_hand, tx, wrt=nnx.Param)
    for _ in range(3):
        state, metrics = train_step(state, batch)
        value, grads = nnx.value_and_grad(lambda net: squares(net, batch, jax.random.key(0))[0])(
            by_hand
        )
        optimizer.update(by_hand, grads)
        np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    expected = nnx.state(by_hand, nnx.Any(nnx.Param, nnx.BatchStat))
    seen = nnx.merge_state(state.params, nnx.filter_state(state.rest, nnx.BatchStat))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), seen, expected)


def test_the_state_that_is_passed_is_donated(batch):
    tx = optax.sgd(0.1)
    model, state = make(0, tx)
    steps.make_train_step(model, squares, tx)(state, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_one_compiled_step_serves_all_seeds(batch):
    tx = optax.sgd(0.1)
    model, _ = make(0, tx)
    losses, traces = [], []

    def loss(*args):
        traces.append(args)
        return squares(*args)

    train_step = steps.make_train_step(model, loss, tx)
    for seed in (1, 2):
        _, state = make(seed, tx)
        for _ in range(2):
            state, metrics = train_step(state, batch)
            losses.append(float(metrics["loss"]))
    assert len(set(losses)) == 4
    assert len(traces) == 1


def test_every_step_has_its_own_key(batch):
    tx = optax.identity()
    model, state = make(0, tx)
    train_step = steps.make_train_step(model, squares, tx)
    seen = []
    for _ in range(3):
        state, metrics = train_step(state, batch)
        seen.append(float(metrics["noise"]))
    assert len(set(seen)) == 3


def test_the_measure_sees_the_gradients_before_the_optimizer(batch):
    tx = optax.sgd(0.0)
    model, state = make(0, tx)
    measured = steps.make_train_step(
        model, squares, tx, measure=lambda grads: {"norm": optax.tree.norm(grads)}
    )
    _, metrics = measured(state, batch)
    assert metrics["norm"] > 0
    assert set(metrics) == {"loss", "noise", "norm"}


def test_evaluation_uses_running_statistics_and_no_dropout(batch):
    tx = optax.sgd(0.1)
    model, state = make(0, tx)
    state, _ = steps.make_train_step(model, squares, tx)(state, batch)
    evaluate = steps.make_eval_step(model, lambda net, batch: net(batch["x"]))
    params, rest = jax.tree.map(
        np.asarray, (state.params, nnx.filter_state(state.rest, nnx.BatchStat))
    )
    norm, stats, fc = params["norm"], rest["norm"], params["fc"]
    normal = (batch["x"] - stats["mean"][...]) / np.sqrt(stats["var"][...] + 1e-5)
    expected = (normal * norm["scale"][...] + norm["bias"][...]) @ fc["kernel"][...] + fc["bias"][
        ...
    ]
    np.testing.assert_allclose(evaluate(state, batch), expected, rtol=2e-5, atol=1e-6)


def test_all_finite_finds_one_nan_anywhere():
    _, state = make(0, optax.sgd(0.1, momentum=0.9))
    assert steps.all_finite(state)
    leaves, treedef = jax.tree.flatten(state)
    where = next(i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating))
    leaves[where] = leaves[where].at[0].set(jnp.nan)
    assert not steps.all_finite(treedef.unflatten(leaves))


def test_only_the_variables_of_the_filter_are_trained(batch):
    """All other variables have no gradient, no decay and no momentum."""
    tx = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9))
    trained = nnx.All(nnx.Param, nnx.PathContains("fc"))
    model = Net(nnx.Rngs(0))
    state = steps.init_state(model, tx, jax.random.key(0), wrt=trained)
    assert set(state.params) == {"fc"}
    assert len(jax.tree.leaves(state.opt_state)) == 2
    before = jax.tree.map(np.asarray, (state.params, nnx.filter_state(state.rest, nnx.Param)))
    state, _ = steps.make_train_step(model, squares, tx, wrt=trained)(state, batch)
    frozen = nnx.filter_state(state.rest, nnx.Param)
    jax.tree.map(np.testing.assert_array_equal, frozen, before[1])
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.params, before[0])
    assert all(jax.tree.leaves(moved))


def test_making_steps_leaves_the_net_in_its_mode():
    model = Net(nnx.Rngs(0))
    model.eval()
    steps.make_train_step(model, squares, optax.sgd(0.1))
    assert model.dropout.deterministic
    model.train()
    steps.make_eval_step(model, lambda net, batch: net(batch["x"]))
    assert not model.dropout.deterministic
