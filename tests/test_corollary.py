"""Corollary 4.1 holds for the axes of every layer. The test does not need to know these axes.

A constant shift of a linear layer's whole input changes its output by the shift times 1ᵀw.
With GC, this change keeps its initial value, however long the layer is trained. For
convolutions, every output must see the whole kernel. So their padding is VALID or CIRCULAR, and
only the interior of a transposed one is compared. If layers follow each other, each of them is
judged on its own input.
"""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import optax_gc
from tests.linear_kinds import EQUINOX_KINDS, HAIKU_KINDS, LINEN_KINDS, NNX_KINDS, draw

SHIFT = 0.7


def all_but_the_last(params):
    return jax.tree.map(lambda p: tuple(range(p.ndim - 1)) if p.ndim > 1 else None, params)


def all_but_the_first(params):
    return jax.tree.map(lambda p: tuple(range(1, p.ndim)) if p.ndim > 1 else None, params)


def judge(kind, params, bind, axes, outputs_first=False):
    """Trains with each of three projections, and checks which of them keep the response to a shift."""
    x = draw(jax.ShapeDtypeStruct(kind.x, jnp.float64), seed=1)
    target = draw(jax.eval_shape(lambda params: kind.train(bind(params), x), params), seed=2)

    @jax.jit
    def answer(params):
        answers = [kind.judge(bind(params), x + shift) for shift in (SHIFT, 0.0)]
        cut = slice(kind.interior, -kind.interior or None)
        return jax.tree.map(lambda a, b: (a - b)[:, cut], *answers)

    @jax.jit
    @jax.grad
    def gradient(params):
        return jnp.mean((kind.train(bind(params), x) - target) ** 2)

    def farthest(a, b):
        a, b = jax.device_get((a, b))
        return jax.tree.leaves(jax.tree.map(lambda a, b: np.max(np.abs(a - b)), a, b))

    def keeps(projection):
        tx = optax.chain(projection, optax.sgd(0.05, momentum=0.9))

        @jax.jit
        def step(grads, params, state):
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        trained, state = params, tx.init(params)
        for _ in range(4):
            trained, state = step(gradient(trained), trained, state)
        assert min(farthest(trained, params)) > 1e-4, "a kernel or a bias has not moved"
        change = max(farthest(answer(trained), answer(params)))
        assert change < 1e-9 or change > 1e-4, "neither kept nor lost"
        return change < 1e-9

    assert keeps(optax_gc.centralize(axes))
    if outputs_first:
        assert keeps(optax_gc.centralize(all_but_the_first)) == kind.all_but_last
        assert not keeps(optax_gc.centralize(all_but_the_last))
    else:
        assert not keeps(optax.centralize())
        assert keeps(optax_gc.centralize(all_but_the_last)) == kind.all_but_last


@pytest.mark.parametrize("kind", NNX_KINDS, ids=lambda kind: kind.name)
def test_nnx_layer_keeps_its_answer_to_a_constant_shift(x64, kind):
    del x64
    model = nnx.eval_shape(lambda: kind.layer(nnx.Rngs(0)))
    graphdef, shapes = nnx.split(model)
    params = jax.tree.map(draw, shapes)
    judge(
        kind,
        params,
        lambda params: nnx.merge(graphdef, params, copy=True),
        optax_gc.nnx_kernel_axes(model),
    )


@pytest.mark.parametrize("kind", LINEN_KINDS, ids=lambda kind: kind.name)
def test_linen_layer_keeps_its_answer_to_a_constant_shift(x64, kind):
    del x64
    x = jax.ShapeDtypeStruct(kind.x, jnp.float64)
    shapes = jax.eval_shape(kind.layer.init, jax.random.key(0), x)
    params = jax.tree.map(draw, shapes)
    axes = optax_gc.linen_kernel_axes(kind.layer, jax.random.key(0), x)
    judge(
        kind,
        params,
        lambda params: lambda x, **kwargs: kind.layer.apply(params, x, **kwargs),
        axes,
    )


@pytest.mark.parametrize("kind", HAIKU_KINDS, ids=lambda kind: kind.name)
def test_haiku_layer_keeps_its_answer_to_a_constant_shift(x64, kind):
    del x64
    x = jax.ShapeDtypeStruct(kind.x, jnp.float64)
    model = hk.without_apply_rng(hk.transform(kind.layer))
    params = jax.tree.map(draw, jax.eval_shape(model.init, jax.random.key(0), x))
    axes = optax_gc.haiku_kernel_axes(hk.transform(kind.layer), jax.random.key(0), x)
    judge(kind, params, lambda params: lambda x: model.apply(params, x), axes)


@pytest.mark.parametrize("kind", EQUINOX_KINDS, ids=lambda kind: kind.name)
def test_equinox_layer_keeps_its_answer_to_a_constant_shift(x64, kind):
    del x64
    model = eqx.filter_eval_shape(kind.layer, jax.random.key(0))
    axes = optax_gc.equinox_kernel_axes(model)
    # In Equinox the spatial axes come last, and the borders are cut along axis 1.
    params = jax.tree.map(
        draw, eqx.filter(model, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    )
    static = eqx.filter(model, lambda leaf: not isinstance(leaf, jax.ShapeDtypeStruct))

    def bind(params):
        layer = jax.vmap(eqx.combine(params, static))
        return lambda x: jnp.moveaxis(layer(x), 1, -1)

    judge(kind, params, bind, axes, outputs_first=True)


@pytest.mark.parametrize("kinds", [NNX_KINDS, LINEN_KINDS], ids=["nnx", "linen"])
def test_all_axes_but_the_last_suits_nine_of_the_first_fourteen_kinds(kinds):
    assert sum(kind.all_but_last for kind in kinds[:14]) == 9


@pytest.mark.parametrize("strides", [None, 1, (1, 2), [1, 2], 3])
def test_transposed_convolution_averages_over_taps_only_where_its_stride_is_1(strides):
    layer = nn.ConvTranspose(4, (2, 3), strides=strides)
    x = jax.ShapeDtypeStruct((1, 5, 5, 3), jnp.float32)
    axes = optax_gc.linen_kernel_axes(layer, jax.random.key(0), x)
    found = axes(jax.eval_shape(layer.init, jax.random.key(0), x))["params"]["kernel"]
    assert found == {"None": (0, 1, 2), "1": (0, 1, 2), "3": (2,)}.get(str(strides), (0, 2))
