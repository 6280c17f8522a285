"""Whole Linen models trained with linen_kernel_axes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax.training.train_state import TrainState

from optax_gc import centralize, linen_kernel_axes

KEY = jax.random.key(0)


class Block(nn.Module):
    """A transformer block of width 4."""

    @nn.compact
    def __call__(self, x, _=None):
        attention = nn.MultiHeadDotProductAttention(2, qkv_features=6, name="attention")
        x = x + attention(nn.LayerNorm()(x))
        return x + nn.Dense(4, name="down")(nn.gelu(nn.Dense(8, name="up")(x))), None


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Block(name="block")(x)[0]


class ViT(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (2, 2), strides=2, name="patch")(x)
        x = jnp.reshape(x, (x.shape[0], 4, 4))
        place = self.param("position_embedding", nn.initializers.zeros, (1, 4, 4))
        blocks = nn.scan(
            nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        x, _ = blocks(name="blocks")(x + jnp.repeat(place, x.shape[0], 0), None)
        return nn.Dense(2, name="head")(jnp.mean(x, 1))


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Embed(5, 3)(x)
        outputs: Any = nn.RNN(nn.OptimizedLSTMCell(4, name="cell"))(x)
        return nn.Dense(2, name="head")(outputs[:, -1])


class Experts(nn.Module):
    """Passes every token through both experts, weighted by a router."""

    @nn.compact
    def __call__(self, x):
        route = nn.softmax(nn.Dense(2, name="router")(x))
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (2, 3, 4))
        return jnp.einsum("ne,ni,eio->no", route, x, kernel)


def attention_axes(name, stacked):
    return {
        **{f"{name}/attention/{part}/kernel": (stacked,) for part in ("query", "key", "value")},
        f"{name}/attention/out/kernel": (stacked, stacked + 1),
        f"{name}/up/kernel": (stacked,),
        f"{name}/down/kernel": (stacked,),
    }


# A model, its input, and its axes in full, by hand.
WHOLE = {
    "attention": (Attention(), (2, 5, 4), attention_axes("block", 0)),
    "lstm": (
        Recurrent(),
        (2, 5),
        {"head/kernel": (0,)} | {f"cell/{a}{b}/kernel": (0,) for a in "ih" for b in "ifgo"},
    ),
    "vit": (
        ViT(),
        (2, 4, 4, 1),
        {"patch/kernel": (0, 1, 2), "head/kernel": (0,)} | attention_axes("blocks", 1),
    ),
    "experts": (Experts(), (6, 3), {"kernel": (1,), "router/kernel": (0,)}),
}


def whole(name) -> tuple[Any, ...]:
    model, shape, expected = WHOLE[name]
    x = jnp.zeros(shape, int) if name == "lstm" else jax.random.normal(jax.random.key(1), shape)
    asking = linen_kernel_axes(model, KEY, x)

    def axes(updates):
        tree = asking(updates)
        if name == "experts":
            tree["kernel"] = (1,)
        return tree

    shapes = jax.eval_shape(model.init, KEY, x)["params"]
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda p: jnp.float32(random.normal(scale=0.5, size=p.shape)), shapes)
    return model, params, x, axes, expected


def loss(model, params, x):
    return jnp.mean((model.apply({"params": params}, x) - 1) ** 2)


def check_trained(after, before, expected):
    """Checks that every neuron's sum over its inputs stayed the same, and that every kernel moved."""
    flat = jax.tree_util.tree_leaves_with_path(jax.tree.map(jnp.subtract, after, before))
    moved = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}
    for path, axes in expected.items():
        np.testing.assert_allclose(jnp.sum(moved[path], axes), 0, atol=1e-5)
        assert jnp.max(jnp.abs(moved[path])) > 1e-4


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_model_trains_in_a_train_state(name):
    model, params, x, axes, expected = whole(name)
    tx = optax.chain(centralize(axes), optax.sgd(0.02, momentum=0.9))
    state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    @jax.jit
    def step(state):
        return state.apply_gradients(grads=jax.grad(lambda p: loss(model, p, x))(state.params))

    for _ in range(3):
        state = step(state)
    check_trained(state.params, params, expected)


@pytest.mark.parametrize("wrap", ["masked", "partition"])
def test_a_whole_model_trains_masked_and_partitioned(wrap):
    model, params, x, axes, expected = whole("vit")
    kernels = jax.tree_util.tree_map_with_path(lambda path, _: "kernel" in str(path), params)
    if wrap == "masked":
        tx = optax.chain(optax.masked(centralize(axes), kernels), optax.sgd(0.1))
    else:
        labels = jax.tree.map(lambda kernel: "gc" if kernel else "plain", kernels)
        gc = optax.chain(centralize(axes), optax.sgd(0.1))
        tx = optax.partition({"gc": gc, "plain": optax.sgd(0.2)}, labels)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(lambda p: loss(model, p, x))(params), state, params)
        return optax.apply_updates(params, updates), state

    after, state = params, tx.init(params)
    for _ in range(2):
        after, state = step(after, state)
    check_trained(after, params, expected)
