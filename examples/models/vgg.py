"""VGG-11 (Simonyan & Zisserman 2015) with a norm after each convolution."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, Literal

import jax
from flax import nnx

from examples.models import layers

# The channels of the convolutions of each stage, in units of the width. A stage ends with a max-pool.
_STAGES = ((1,), (2,), (4, 4), (8, 8), (8, 8))


class VGG11(nnx.Module):
    """Five stages of 3x3 convolutions that each halve the image, then linear layers.

    The ImageNet form averages over 7x7 bins and has two hidden layers of ``64 * width``
    units with a dropout of 0.5 (stream ``dropout``). The CIFAR form averages over all pixels
    and has no hidden layer.

    The ImageNet form is initialized as in torchvision: Kaiming normal by fan-out, and
    N(0, 0.01²) in the linear layers. The CIFAR form has PyTorch's default, as in the paper's
    net. Biases are 0.
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
        init = layers.kaiming_fan_out_init if imagenet else layers.torch_default_init
        linear_init = nnx.initializers.normal(0.01) if imagenet else layers.torch_default_init

        conv = functools.partial(conv, kernel_size=(3, 3), padding=1, kernel_init=init, rngs=rngs)
        linear = functools.partial(linear, kernel_init=linear_init, rngs=rngs)

        self.stem = stem
        stages, features = [], in_channels
        for stage in _STAGES:
            units = []
            for multiple in stage:
                # The original net has this bias before the norm, so published weights contain it.
                unit = nnx.List(
                    [conv(features, multiple * width), norm(multiple * width, rngs=rngs)]
                )
                units.append(unit)
                features = multiple * width
            stages.append(nnx.List(units))
        self.stages = nnx.List(stages)

        sizes = (features * 7 * 7, 64 * width, 64 * width) if imagenet else (features,)
        self.hidden = nnx.List([linear(a, b) for a, b in itertools.pairwise(sizes)])
        if imagenet:
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.fc = linear(sizes[-1], num_classes)

    def features(self, x: jax.Array) -> tuple[jax.Array, ...]:
        """Returns the output of each of the five stages for images (N, H, W, in_channels).

        Returns:
          An array (N, H_i, W_i, C_i) for each stage after its max-pool, at the strides 2, 4, 8,
          16 and 32.
        """
        outputs = []
        for stage in self.stages:
            for conv, norm in stage:
                x = nnx.relu(norm(conv(x)))
            x = layers.max_pool(x, 2, 2)
            outputs.append(x)
        return tuple(outputs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the logits (N, num_classes) of images (N, H, W, in_channels)."""
        return self.head(self.features(x)[-1])

    def head(self, x: jax.Array) -> jax.Array:
        """Returns the logits (N, num_classes) of the last stage's output."""
        if self.stem == "cifar":
            return self.fc(layers.global_average_pool(x))
        x = layers.adaptive_average_pool(x, 7)
        # In the trained weights of the next layer, channels come before rows and columns.
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        for layer in self.hidden:
            x = self.dropout(nnx.relu(layer(x)))
        return self.fc(x)
