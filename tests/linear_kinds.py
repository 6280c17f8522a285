"""Kinds of linear layers of every framework, each with an input and what suits it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import haiku as hk
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx


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
