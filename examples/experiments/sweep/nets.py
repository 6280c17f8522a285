"""The nets of the tasks, in Flax NNX. They are small, so that a run takes seconds."""

import functools
from collections.abc import Callable

import jax
from flax import nnx

from examples.experiments.sweep import pretraining
from examples.models.layers import group_norm
from examples.models.resnet import resnet8, resnet20

Net = Callable[[int, tuple[int, ...], nnx.Rngs], nnx.Module]
"""Makes a net from the number of classes, the shape of one input, and the seeds."""


class Identity(nnx.Module):
    """A layer that changes nothing, in the place of a normalization."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        del features, rngs

    def __call__(self, x: jax.Array) -> jax.Array:
        return x


class MLP(nnx.Module):
    """Two hidden layers of 128 with ReLU, and a normalization before each ReLU."""

    def __init__(self, classes: int, shape: tuple[int, ...], rngs: nnx.Rngs, *, norm: Callable):
        (features,) = shape
        self.hidden = nnx.List(
            [nnx.Linear(features, 128, rngs=rngs), nnx.Linear(128, 128, rngs=rngs)]
        )
        self.norms = nnx.List([norm(128, rngs=rngs), norm(128, rngs=rngs)])
        self.head = nnx.Linear(128, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the logits (n, classes) of features (n, features)."""
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            x = nnx.relu(norm(layer(x)))
        return self.head(x)


class Block(nnx.Module):
    """A transformer block: attention and an MLP, each after a normalization, each with a skip.

    Attention has its own plain layers, because the optimizer Muon takes kernels of rank 2.
    """

    def __init__(self, width: int, *, norm: Callable, causal: bool, rngs: nnx.Rngs):
        self.norm1, self.norm2 = norm(width, rngs=rngs), norm(width, rngs=rngs)
        self.qkv = nnx.Linear(width, 3 * width, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)
        self.causal = causal

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns (n, positions, width) for the same shape."""
        heads = self.qkv(self.norm1(x)).reshape(*x.shape[:2], 3, 4, -1)
        query, key, value = (heads[:, :, i] for i in range(3))
        mixed = jax.nn.dot_product_attention(query, key, value, is_causal=self.causal)
        x = x + self.out(mixed.reshape(x.shape))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class ViT(nnx.Module):
    """A vision transformer: 16 patches of 7x7, two blocks of width 48, and a mean over patches."""

    def __init__(self, classes: int, shape: tuple[int, ...], rngs: nnx.Rngs, *, norm: Callable):
        self.patches = nnx.Linear(7 * 7 * shape[-1], 48, rngs=rngs)
        positions = shape[0] // 7 * (shape[1] // 7)
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, positions, 48)))
        self.blocks = nnx.List([Block(48, norm=norm, causal=False, rngs=rngs) for _ in range(2)])
        self.norm = norm(48, rngs=rngs)
        self.head = nnx.Linear(48, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the logits (n, classes) of images (n, height, width, channels)."""
        n, height, width, channels = x.shape
        x = x.reshape(n, height // 7, 7, width // 7, 7, channels).swapaxes(2, 3)
        x = self.patches(x.reshape(n, -1, 49 * channels)) + self.positions[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class CharacterLM(nnx.Module):
    """A language model of characters: two causal blocks of width 64."""

    def __init__(self, classes: int, shape: tuple[int, ...], rngs: nnx.Rngs, *, norm: Callable):
        self.embed = nnx.Embed(classes, 64, rngs=rngs)
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, shape[0], 64)))
        self.blocks = nnx.List([Block(64, norm=norm, causal=True, rngs=rngs) for _ in range(2)])
        self.norm = norm(64, rngs=rngs)
        self.head = nnx.Linear(64, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the logits (n, length, classes) of characters (n, length)."""
        x = self.embed(x) + self.positions[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class HalfSize(nnx.Module):
    """A ResNet-8 of width 8 on images that are first averaged over squares of 2x2."""

    def __init__(self, classes: int, shape: tuple[int, ...], rngs: nnx.Rngs, *, norm: Callable):
        self.net = _resnet(resnet8, classes, shape, rngs, width=8, norm=norm)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the logits (n, classes) of images (n, height, width, channels)."""
        n, height, width, channels = x.shape
        x = x.reshape(n, height // 2, 2, width // 2, 2, channels).mean((2, 4))
        return self.net(x)


def full_size_resnet20(
    classes: int, shape: tuple[int, ...], rngs: nnx.Rngs, *, norm: Callable
) -> nnx.Module:
    """Makes a ResNet-20 of width 16, its published one, for images as they are."""
    return _resnet(resnet20, classes, shape, rngs, width=16, norm=norm)


def pretrained_resnet8(
    classes: int, shape: tuple[int, ...], rngs: nnx.Rngs, *, norm: Callable
) -> nnx.Module:
    """Makes the net of `pretraining` with its trained weights, and a new last layer for these classes.

    It was trained on images of one channel. Of pictures with more channels, its first layer sees the
    mean over them.
    """
    net = _resnet(resnet8, classes, shape, rngs, width=pretraining.WIDTH, norm=norm)
    pretraining.read_pretrained(pretraining.FOLDER)(net)
    return net


def _resnet(
    kind: Callable,
    classes: int,
    shape: tuple[int, ...],
    rngs: nnx.Rngs,
    *,
    width: int,
    norm: Callable,
) -> nnx.Module:
    """Makes a ResNet in its form for small images, of Flax's own layers."""
    return kind(
        num_classes=classes,
        stem="cifar",
        width=width,
        in_channels=shape[-1],
        conv=nnx.Conv,
        norm=norm,
        linear=nnx.Linear,
        rngs=rngs,
    )


NORMS: dict[str, Callable] = {
    "none": Identity,
    "layer": nnx.LayerNorm,
    "rms": nnx.RMSNorm,
    "batch": functools.partial(nnx.BatchNorm, momentum=0.9),
    "groups of two": group_norm,
    "one group": functools.partial(nnx.GroupNorm, num_groups=1),
}
NETS: dict[str, Callable] = {
    "mlp": MLP,
    "resnet8": HalfSize,
    "resnet20": full_size_resnet20,
    "pretrained": pretrained_resnet8,
    "vit": ViT,
    "lm": CharacterLM,
}
# The kinds of nets that are made of convolutions.
CONVOLUTIONAL = ("resnet8", "resnet20", "pretrained")


def net(kind: str, norm: str) -> Net:
    """Returns what makes a net of a kind, one of `NETS`, with a normalization, one of `NORMS`."""
    return functools.partial(NETS[kind], norm=NORMS[norm])
