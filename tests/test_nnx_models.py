"""Whole NNX models trained with nnx_kernel_axes."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from optax_gc import centralize, nnx_kernel_axes
from tests.helpers import found, rngs


class Block(nnx.Module):
    """A transformer block of width 4."""

    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 4, 6, decode=False, rngs=rngs)
        self.up = nnx.Linear(4, 8, rngs=rngs)
        self.down = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm(x))
        return x + self.down(jax.nn.gelu(self.up(x)))


class ViT(nnx.Module):
    def __init__(self, rngs):
        self.patch = nnx.Conv(1, 4, (2, 2), strides=2, rngs=rngs)
        self.position_embedding = nnx.Param(jnp.zeros((1, 4, 4)))
        self.blocks = nnx.split_rngs(splits=3)(nnx.vmap(Block))(rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        x = jnp.reshape(self.patch(x), (x.shape[0], 4, 4)) + self.position_embedding[...].repeat(
            x.shape[0], 0
        )
        step = nnx.remat(lambda x, block: block(x))
        x = nnx.scan(step, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.blocks)
        return self.head(jnp.mean(x, 1))


class Recurrent(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(5, 3, rngs=rngs)
        self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(3, 4, rngs=rngs))
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        outputs: Any = self.rnn(self.embed(x))
        return self.head(outputs[:, -1])


class Experts(nnx.Module):
    """Passes every token through both experts, weighted by a router."""

    def __init__(self, rngs):
        self.router = nnx.Linear(3, 2, rngs=rngs)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (2, 3, 4)))

    def __call__(self, x):
        return jnp.einsum("ne,ni,eio->no", jax.nn.softmax(self.router(x)), x, self.kernel[...])


WHOLE = {
    "attention": (lambda: Block(rngs()), (2, 5, 4)),
    "lstm": (lambda: Recurrent(rngs()), (2, 5)),
    "vit": (lambda: ViT(rngs()), (2, 4, 4, 1)),
    "experts": (lambda: Experts(rngs()), (6, 3)),
    "lora": (lambda: nnx.LoRALinear(3, 4, lora_rank=2, rngs=rngs()), (6, 3)),
}
# All axes of each model, written by hand.
EXPECTED = {
    "attention": {
        **{f"attention/{name}/kernel": (0,) for name in ("query", "key", "value")},
        "attention/out/kernel": (0, 1),
        "up/kernel": (0,),
        "down/kernel": (0,),
    },
    "lstm": {"rnn/cell/dense_i/kernel": (0,), "rnn/cell/dense_h/kernel": (0,), "head/kernel": (0,)},
    "vit": {
        "patch/kernel": (0, 1, 2),
        **{f"blocks/attention/{name}/kernel": (1,) for name in ("query", "key", "value")},
        "blocks/attention/out/kernel": (1, 2),
        "blocks/up/kernel": (1,),
        "blocks/down/kernel": (1,),
        "head/kernel": (0,),
    },
    "experts": {"kernel": (1,), "router/kernel": (0,)},
    "lora": {"kernel": (0,), "lora/lora_a": (0,)},
}


@functools.cache
def built(name):
    return WHOLE[name][0]()


def whole(name):
    model, shape = nnx.clone(built(name)), WHOLE[name][1]
    x = jnp.zeros(shape, int) if name == "lstm" else jax.random.normal(jax.random.key(1), shape)
    axes = nnx_kernel_axes(model)

    def with_experts(updates):
        tree = axes(updates)
        tree["kernel"] = (1,)
        return tree

    return model, x, centralize(with_experts if name == "experts" else axes)


def loss(model, x):
    return jnp.mean((model(x) - 1) ** 2)


def drifts(name, after, before):
    """Returns, for each kernel, the largest change of a neuron's sum and of a single weight."""
    after, before = (dict(nnx.to_flat_state(nnx.state(m, nnx.Param))) for m in (after, before))
    for path, axes in EXPECTED[name].items():
        key = next(key for key in after if "/".join(map(str, key)) == path)
        moved = after[key][...] - before[key][...]
        yield float(jnp.max(jnp.abs(jnp.sum(moved, axes)))), float(jnp.max(jnp.abs(moved)))


@pytest.mark.parametrize("name", [name for name in WHOLE if name != "experts"])
def test_the_axes_of_a_whole_model_are_found(name):
    assert found(whole(name)[0]) == EXPECTED[name]


def check_trained(name, model, start):
    for sum_moved, moved in drifts(name, model, start):
        assert sum_moved < 1e-5
        assert moved > 1e-4


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_model_trains_under_the_nnx_optimizer(name):
    model, x, gc = whole(name)
    start = nnx.clone(model)
    optimizer = nnx.Optimizer(model, optax.chain(gc, optax.sgd(0.1, momentum=0.9)), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, nnx.grad(loss)(model, x))

    for _ in range(3):
        step(model, optimizer)
    check_trained(name, model, start)


def test_only_the_factors_of_lora_are_trained_under_the_nnx_optimizer():
    model, x, gc = whole("lora")
    start = nnx.clone(model)
    optimizer = nnx.Optimizer(model, optax.chain(gc, optax.sgd(0.1)), wrt=nnx.LoRAParam)
    for _ in range(2):
        grads = nnx.grad(loss, argnums=nnx.DiffState(0, nnx.LoRAParam))(model, x)
        optimizer.update(model, grads)
    np.testing.assert_array_equal(model.kernel[...], start.kernel[...])
    for factor in ("lora_a", "lora_b"):
        moved = getattr(model.lora, factor)[...] - getattr(start.lora, factor)[...]
        assert jnp.max(jnp.abs(moved)) > 1e-4
        if factor == "lora_a":
            np.testing.assert_allclose(jnp.sum(moved, 0), 0, atol=1e-5)


@pytest.mark.parametrize("name", ["attention", "lora"])
def test_a_whole_model_trains_by_the_gradient_of_the_module_itself(name):
    model, x, gc = whole(name)
    tx = optax.chain(gc, optax.sgd(0.1))

    @jax.jit
    def step(model):
        grads = jax.grad(lambda model: loss(nnx.clone(model), x))(model)
        updates, _ = tx.update(grads, tx.init(model), model)
        return optax.apply_updates(model, updates)

    check_trained(name, step(step(model)), model)


@pytest.mark.parametrize("wrap", ["masked", "partition"])
def test_a_whole_model_trains_masked_and_partitioned(wrap):
    model, x, gc = whole("vit")
    graphdef, params = nnx.split(model)
    kernels = jax.tree_util.tree_map_with_path(lambda path, _: "kernel" in str(path), params)
    if wrap == "masked":
        tx = optax.chain(optax.masked(gc, kernels), optax.sgd(0.1))
    else:
        labels = jax.tree.map(lambda kernel: "gc" if kernel else "plain", kernels)
        tx = optax.partition(
            {"gc": optax.chain(gc, optax.sgd(0.1)), "plain": optax.sgd(0.2)}, labels
        )
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda p: loss(nnx.merge(graphdef, p, copy=True), x))(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(2):
        params, state = step(params, state)
    check_trained("vit", nnx.merge(graphdef, params), model)
