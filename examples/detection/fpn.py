"""The feature pyramid network (Lin et al. 2017, Feature Pyramid Networks for Object Detection)."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from examples.detection.conv_norm import ConvNorm


class FPN(nnx.Module):
    """Makes a pyramid of a backbone's levels: each gets as many channels and adds the coarser ones.

    It has no activation. Kernels start with Glorot's uniform initialization.

    Args:
      in_features: the channels of the backbone's levels, finest first.
      features: the channels of the pyramid.
      conv: makes a `ConvNorm` from the two numbers of channels and the size of the kernel.
      rngs: the seed of the parameters.
    """

    def __init__(
        self,
        in_features: Sequence[int],
        features: int,
        *,
        conv: Callable[..., ConvNorm],
        rngs: nnx.Rngs,
    ):
        conv = functools.partial(conv, kernel_init=nnx.initializers.xavier_uniform(), rngs=rngs)
        self.inner_blocks = nnx.List([conv(channels, features, 1) for channels in in_features])
        self.layer_blocks = nnx.List([conv(features, features, 3) for _ in in_features])

    def __call__(self, levels: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        """Computes the pyramid.

        Args:
          levels: an array (N, H_i, W_i, C_i) for each level of the backbone, C2 to C5.

        Returns:
          Arrays (N, H_i, W_i, features), P2 to P5, and every second pixel of the last as P6.
        """
        coarser, outputs = None, []
        for inner, layer, level in reversed(
            list(zip(self.inner_blocks, self.layer_blocks, levels, strict=True))
        ):
            x = inner(level)
            if coarser is not None:
                x = x + resize_nearest(coarser, (x.shape[1], x.shape[2]))
            coarser = x
            outputs.append(layer(x))
        return (*reversed(outputs), outputs[0][:, ::2, ::2])


def resize_nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resizes (N, H, W, C) to (N, *size, C) by repeating or leaving out pixels, as PyTorch does.

    Row i of the output is row floor(i · H / size[0]) of the input.
    """
    for axis, new in enumerate(size, start=1):
        old = x.shape[axis]
        if new != old:
            x = jnp.take(x, np.arange(new) * old // new, axis=axis, indices_are_sorted=True)
    return x
