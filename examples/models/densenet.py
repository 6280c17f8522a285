"""DenseNet-121 (Huang et al. 2017), for ImageNet and CIFAR."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from examples.models import layers

_DEPTHS = (6, 12, 24, 16)


class DenseLayer(nnx.Module):
    """Norm, ReLU and a 1x1 convolution, then the same with a 3x3 convolution. Returns new features."""

    def __init__(self, in_features: int, growth: int, *, conv: Callable, norm: Callable):
        self.norm1 = norm(in_features)
        self.conv1 = conv(in_features, 4 * growth, (1, 1))
        self.norm2 = norm(4 * growth)
        self.conv2 = conv(4 * growth, growth, (3, 3), padding=1)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv1(nnx.relu(self.norm1(x)))
        return self.conv2(nnx.relu(self.norm2(x)))


class Transition(nnx.Module):
    """Norm, ReLU, a 1x1 convolution to half of the channels, and average pooling over 2x2."""

    def __init__(self, in_features: int, out_features: int, *, conv: Callable, norm: Callable):
        self.norm = norm(in_features)
        self.conv = conv(in_features, out_features, (1, 1))

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.avg_pool(self.conv(nnx.relu(self.norm(x))), (2, 2), (2, 2))


class DenseNet121(nnx.Module):
    """Four blocks whose layers see the features of all layers before, with transitions between them.

    The ImageNet form has a 7x7 stem of stride 2 with norm, ReLU and max-pooling, and puts a
    layer's new features after the old ones. The CIFAR form has only a 3x3 convolution as its
    stem, and puts new features before the old ones, as in the paper's net. The growth rate is
    half the width.

    Kernels are initialized as in the original nets: Kaiming normal by fan-in in the ImageNet
    form (torchvision), and PyTorch's default in the CIFAR form (the paper's net). The linear
    layer has PyTorch's default in both, with a bias of 0.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        stem: Literal["imagenet", "cifar"],
        width: int,
        in_channels: int,
        conv: Callable[..., Any],
        norm: Callable[..., Any],
        linear: Callable[..., Any],
        rngs: nnx.Rngs,
    ):
        imagenet = stem == "imagenet"
        init = layers.kaiming_fan_in_init if imagenet else layers.torch_default_init
        conv = functools.partial(conv, use_bias=False, padding=0, kernel_init=init, rngs=rngs)
        norm = functools.partial(norm, rngs=rngs)
        growth = max(1, width // 2)

        self.stem = stem
        if imagenet:
            self.conv0 = conv(in_channels, width, (7, 7), 2, padding=3)
            self.norm0 = norm(width)
        else:
            self.conv0 = conv(in_channels, width, (3, 3), padding=1)
        blocks, transitions, features = [], [], width
        for i, depth in enumerate(_DEPTHS):
            if i > 0:
                transitions.append(Transition(features, features // 2, conv=conv, norm=norm))
                features //= 2
            block = []
            for _ in range(depth):
                block.append(DenseLayer(features, growth, conv=conv, norm=norm))
                features += growth
            blocks.append(nnx.List(block))
        self.blocks = nnx.List(blocks)
        self.transitions = nnx.List(transitions)
        self.norm = norm(features)
        self.fc = linear(features, num_classes, kernel_init=layers.torch_default_init, rngs=rngs)

    def features(self, x: jax.Array) -> tuple[jax.Array, ...]:
        """Returns the output of each of the four blocks for images (N, H, W, in_channels).

        Returns:
          An array (N, H_i, W_i, C_i) for each block, before its norm: at the strides 4, 8, 16 and
          32 in the ImageNet form, and 1, 2, 4 and 8 in the CIFAR form.
        """
        x = self.conv0(x)
        if self.stem == "imagenet":
            x = layers.max_pool(nnx.relu(self.norm0(x)), 3, 2, padding=1)
        outputs = []
        for i, block in enumerate(self.blocks):
            if i > 0:
                x = self.transitions[i - 1](x)
            for layer in block:
                new = layer(x)
                x = jnp.concatenate([x, new] if self.stem == "imagenet" else [new, x], axis=-1)
            outputs.append(x)
        return tuple(outputs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the logits (N, num_classes) of images (N, H, W, in_channels)."""
        return self.head(self.features(x)[-1])

    def head(self, x: jax.Array) -> jax.Array:
        """Returns the logits (N, num_classes) of the last block's output."""
        return self.fc(layers.global_average_pool(nnx.relu(self.norm(x))))
