"""Corollary 4.1 holds for the axes of every layer. The test does not need to know these axes.

A constant shift of a linear layer's whole input changes its output by the shift times 1ᵀw.
With GC, this change keeps its initial value, however long the layer is trained. For
convolutions, every output must see the whole kernel. So their padding is VALID or CIRCULAR, and
only the interior of a transposed one is compared. If layers follow each other, each of them is
judged on its own input.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

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

SHIFT = 0.7


@dataclasses.dataclass(frozen=True)
class Kind:
    """A layer, an input for it, and whether averaging over all axes but the last is right for it."""

    name: str
    layer: Any  # nnx: rngs -> module; linen: module
    x: tuple[int, ...]
    all_but_last: bool
    interior: int = 0  # outputs to drop at each end of axis 1
    train: Callable[[Any, Any], Any] = lambda f, x: f(x)
    judge: Callable[[Any, Any], Any] = lambda f, x: f(x)


def of(layer, *args, **kwargs):
    return lambda rngs: layer(*args, rngs=rngs, **kwargs)


def stack_nnx(layer, count, axis):
    def make(rngs):
        split = nnx.split_rngs(splits=count)
        out_axes = nnx.StateAxes({nnx.PathContains("kernel"): axis, ...: 0})
        return split(nnx.vmap(layer, in_axes=(0,), out_axes=out_axes))(rngs)

    return make


def each_nnx(axis):
    in_axes = nnx.StateAxes({nnx.PathContains("kernel"): axis, ...: 0})
    return nnx.vmap(lambda layer, x: layer(x), in_axes=(in_axes, 0))


def scanned_nnx(layers, x):
    return nnx.scan(lambda x, layer: layer(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(
        x, layers
    )


EINSUM = "nta,hab->nthb"
NNX_KINDS = [
    Kind("linear", of(nnx.Linear, 3, 4), (6, 3), True),
    Kind("conv 1-D", of(nnx.Conv, 2, 4, (3,), padding="VALID"), (2, 7, 2), True),
    Kind("conv 2-D", of(nnx.Conv, 2, 4, (3, 2), padding="CIRCULAR"), (2, 5, 4, 2), True),
    Kind("conv 3-D", of(nnx.Conv, 2, 3, (2, 3, 2), padding="VALID"), (2, 4, 4, 3, 2), True),
    Kind("strided", of(nnx.Conv, 2, 4, (3, 3), strides=2, padding="VALID"), (2, 7, 7, 2), True),
    Kind(
        "grouped", of(nnx.Conv, 4, 6, (3,), feature_group_count=2, padding="VALID"), (2, 6, 4), True
    ),
    Kind(
        "depthwise",
        of(nnx.Conv, 3, 6, (3,), feature_group_count=3, padding="VALID"),
        (2, 6, 3),
        True,
    ),
    Kind("transposed", of(nnx.ConvTranspose, 3, 4, (3,), padding="VALID"), (2, 7, 3), True, 2),
    Kind(
        "transposed, transpose_kernel",
        of(nnx.ConvTranspose, 3, 4, (3,), transpose_kernel=True, padding="VALID"),
        (2, 7, 3),
        False,
        2,
    ),
    Kind("general 1 to 2", of(nnx.LinearGeneral, 3, (2, 4)), (5, 3), False),
    Kind("general 2 to 1", of(nnx.LinearGeneral, (2, 3), 4, axis=(-2, -1)), (5, 2, 3), True),
    Kind("general 2 to 2", of(nnx.LinearGeneral, (2, 3), (4, 2), axis=(1, 2)), (5, 2, 3), False),
    Kind("einsum", of(nnx.Einsum, EINSUM, (2, 3, 4), (2, 4)), (2, 5, 3), False),
    Kind(
        "vmap",
        stack_nnx(lambda rngs: nnx.Linear(3, 4, rngs=rngs), 5, 1),
        (5, 6, 3),
        False,
        train=lambda f, x: each_nnx(1)(f, x),
        judge=lambda f, x: each_nnx(1)(f, x),
    ),
    Kind(
        "scan",
        stack_nnx(lambda rngs: nnx.Linear(3, 3, rngs=rngs), 5, 0),
        (6, 3),
        False,
        train=scanned_nnx,
        judge=lambda f, x: each_nnx(0)(f, jnp.stack([x] * 5)),
    ),
    Kind(
        "general with batch axis",
        of(nnx.LinearGeneral, 3, 4, batch_axis={0: 2}),
        (2, 5, 3),
        False,
    ),
    Kind(
        "lora",
        of(nnx.LoRA, 3, 2, 4),
        (6, 3),
        True,
        judge=lambda f, x: x @ f.lora_a[...],
    ),
    Kind(
        "lora linear",
        of(nnx.LoRALinear, 3, 4, lora_rank=2),
        (6, 3),
        True,
        judge=lambda f, x: (x @ f.kernel[...], x @ f.lora.lora_a[...]),
    ),
    Kind(
        "transposed, stride as large as the kernel",
        of(nnx.ConvTranspose, 3, 4, (4,), strides=4, padding="VALID"),
        (2, 7, 3),
        False,
        0,
    ),
    Kind(
        "transposed, stride larger than the kernel",
        of(nnx.ConvTranspose, 3, 4, (2,), strides=3, padding="VALID"),
        (2, 7, 3),
        False,
        0,
    ),
    Kind(
        "transposed, stride smaller than the kernel",
        of(nnx.ConvTranspose, 3, 4, (4,), strides=2, padding="VALID"),
        (2, 7, 3),
        False,
        2,
    ),
    Kind(
        "transposed, stride smaller, transpose_kernel",
        of(nnx.ConvTranspose, 3, 4, (3,), strides=2, transpose_kernel=True, padding="VALID"),
        (2, 7, 3),
        False,
        2,
    ),
]

DENSE_STACK = nn.vmap(
    nn.Dense, variable_axes={"params": 1}, split_rngs={"params": True}, in_axes=0, out_axes=0
)


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.Dense(3, name="dense")(x), None


class Scanned(nn.Module):
    def setup(self):
        scan = nn.scan(
            nn.remat(Residual), variable_axes={"params": 0}, split_rngs={"params": True}, length=5
        )
        self.layers = scan()

    def __call__(self, x):
        return self.layers(x, None)[0]

    def each(self, x):
        params = self.layers.variables["params"]["dense"]
        return jnp.einsum("ni,lio->lno", x, params["kernel"])


LINEN_KINDS = [
    Kind("dense", nn.Dense(4), (6, 3), True),
    Kind("conv 1-D", nn.Conv(4, (3,), padding="VALID"), (2, 7, 2), True),
    Kind("conv 2-D", nn.Conv(4, (3, 2), padding="CIRCULAR"), (2, 5, 4, 2), True),
    Kind("conv 3-D", nn.Conv(3, (2, 3, 2), padding="VALID"), (2, 4, 4, 3, 2), True),
    Kind("strided", nn.Conv(4, (3, 3), strides=2, padding="VALID"), (2, 7, 7, 2), True),
    Kind("grouped", nn.Conv(6, (3,), feature_group_count=2, padding="VALID"), (2, 6, 4), True),
    Kind("depthwise", nn.Conv(6, (3,), feature_group_count=3, padding="VALID"), (2, 6, 3), True),
    Kind("transposed", nn.ConvTranspose(4, (3,), padding="VALID"), (2, 7, 3), True, 2),
    Kind(
        "transposed, transpose_kernel",
        nn.ConvTranspose(4, (3,), transpose_kernel=True, padding="VALID"),
        (2, 7, 3),
        False,
        2,
    ),
    Kind("general 1 to 2", nn.DenseGeneral((2, 4)), (5, 3), False),
    Kind("general 2 to 1", nn.DenseGeneral(4, axis=(-2, -1)), (5, 2, 3), True),
    Kind("general 2 to 2", nn.DenseGeneral((4, 2), axis=(1, 2)), (5, 2, 3), False),
    Kind("einsum", nn.Einsum((2, 3, 4), EINSUM), (2, 5, 3), False),
    Kind("vmap", DENSE_STACK(4), (5, 6, 3), False),
    Kind(
        "scan",
        Scanned(),
        (6, 3),
        False,
        judge=lambda f, x: f(x, method="each"),
    ),
    Kind("general with batch axis", nn.DenseGeneral(4, batch_dims=(0,)), (2, 5, 3), False),
    Kind("local", nn.ConvLocal(4, (3,), padding="VALID"), (2, 6, 3), False),
    Kind(
        "transposed, stride as large as the kernel",
        nn.ConvTranspose(4, (4,), strides=(4,), padding="VALID"),
        (2, 7, 3),
        False,
        0,
    ),
    Kind(
        "transposed, stride larger than the kernel",
        nn.ConvTranspose(4, (2,), strides=(3,), padding="VALID"),
        (2, 7, 3),
        False,
        0,
    ),
    Kind(
        "transposed, stride smaller than the kernel",
        nn.ConvTranspose(4, (4,), strides=(2,), padding="VALID"),
        (2, 7, 3),
        False,
        2,
    ),
    Kind(
        "transposed, stride smaller, transpose_kernel",
        nn.ConvTranspose(4, (3,), strides=(2,), transpose_kernel=True, padding="VALID"),
        (2, 7, 3),
        False,
        2,
    ),
]


HAIKU_KINDS = [
    Kind("linear", lambda x: hk.Linear(4)(x), (6, 3), True),
    Kind("conv 1-D", lambda x: hk.Conv1D(4, 3, padding="VALID")(x), (2, 7, 2), True),
    Kind("conv 3-D", lambda x: hk.Conv3D(3, 2, padding="VALID")(x), (2, 4, 4, 3, 2), True),
    Kind(
        "grouped",
        lambda x: hk.Conv1D(6, 3, padding="VALID", feature_group_count=2)(x),
        (2, 6, 4),
        True,
    ),
    Kind("depthwise", lambda x: hk.DepthwiseConv1D(2, 3, padding="VALID")(x), (2, 6, 3), True),
    Kind("transposed", lambda x: hk.Conv1DTranspose(4, 3, padding="VALID")(x), (2, 7, 3), False, 2),
    Kind(
        "transposed, strided",
        lambda x: hk.Conv1DTranspose(4, 3, stride=2, padding="VALID")(x),
        (2, 7, 3),
        False,
        2,
    ),
]

# Equinox stores the outputs first, so here the flag means all axes but the first.
EQUINOX_KINDS = [
    Kind("linear", lambda key: eqx.nn.Linear(3, 4, key=key), (6, 3), True),
    Kind("conv 1-D", lambda key: eqx.nn.Conv1d(2, 4, 3, key=key), (2, 2, 7), True),
    Kind("conv 3-D", lambda key: eqx.nn.Conv3d(2, 3, 2, key=key), (2, 2, 4, 4, 3), True),
    Kind("grouped", lambda key: eqx.nn.Conv1d(4, 6, 3, groups=2, key=key), (2, 4, 6), True),
    Kind("transposed", lambda key: eqx.nn.ConvTranspose1d(3, 4, 3, key=key), (2, 3, 7), True, 2),
    Kind(
        "transposed, grouped",
        lambda key: eqx.nn.ConvTranspose1d(4, 6, 3, groups=2, key=key),
        (2, 4, 7),
        True,
        2,
    ),
    Kind(
        "transposed, strided",
        lambda key: eqx.nn.ConvTranspose1d(3, 4, 3, stride=2, key=key),
        (2, 3, 7),
        False,
        2,
    ),
]


def draw(leaf, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(scale=0.5, size=leaf.shape))


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
