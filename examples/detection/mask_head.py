"""The mask head (He et al. 2017, Mask R-CNN): a small mask of each class for each object."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from examples.detection.conv_norm import ConvNorm, four_convs
from examples.models.layers import kaiming_fan_out_init


class DoublingConv(nnx.ConvTranspose):
    """A transposed convolution with a kernel of 2x2 and strides of 2, as one matrix product.

    Each input pixel becomes a square of 2x2 pixels, which no other input pixel reaches. On CPU, the
    gradient of the convolution that `nnx.ConvTranspose` calls took half of a small detector's step.

    Args:
      in_features: the channels of the input.
      out_features: the channels of the output.
      kernel_init: initializes the kernel.
      dtype: the dtype of the computation; None is that of the input and the parameters.
      rngs: the seed of the parameters.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        kernel_init: nnx.Initializer,
        dtype: DTypeLike | None,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            in_features,
            out_features,
            (2, 2),
            (2, 2),
            padding="VALID",
            kernel_init=kernel_init,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Returns (..., 2H, 2W, out_features) of (..., H, W, in_features)."""
        assert self.bias is not None
        kernel, bias = self.kernel.get_value(), self.bias.get_value()
        x, kernel, bias = self.promote_dtype((inputs, kernel, bias), dtype=self.dtype)
        # A transposed convolution that does not transpose its kernel flips it.
        y = jnp.einsum("...hwi,abio->...hawbo", x, kernel[::-1, ::-1], precision=self.precision)
        height, width = x.shape[-3:-1]
        y = y.reshape(*x.shape[:-3], 2 * height, 2 * width, self.out_features)
        return y + jnp.expand_dims(bias, range(y.ndim - 1))


class MaskHead(nnx.Module):
    """Four 3x3 convolutions, a transposed convolution that doubles the size, and logits.

    Kernels start with Kaiming's normal initialization by fan-out.

    Args:
      features: the channels of the pyramid and of all layers of the head.
      num_classes: the number of classes, with the background.
      conv: makes a `ConvNorm` from the two numbers of channels and the size of the kernel.
      dtype: the dtype of the computation; None is that of the input and the parameters.
      rngs: the seed of the parameters.
    """

    def __init__(
        self,
        features: int,
        num_classes: int,
        *,
        conv: Callable[..., ConvNorm],
        dtype: DTypeLike | None,
        rngs: nnx.Rngs,
    ):
        init = kaiming_fan_out_init
        self.convs = four_convs(conv, features, rngs=rngs)
        self.conv5_mask = DoublingConv(features, features, kernel_init=init, dtype=dtype, rngs=rngs)
        self.mask_fcn_logits = nnx.Conv(
            features, num_classes, (1, 1), kernel_init=init, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the logits (..., 2S, 2S, num_classes) of pooled features (..., S, S, features)."""
        for conv in self.convs:
            x = nnx.relu(conv(x))
        return self.mask_fcn_logits(nnx.relu(self.conv5_mask(x)))


def select_masks(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the mask of each object's own class as probabilities.

    Args:
      logits: (..., M, M, num_classes).
      labels: (...) class numbers.

    Returns:
      Probabilities (..., M, M) that a pixel belongs to the object.
    """
    chosen = jnp.take_along_axis(logits, labels[..., None, None, None], axis=-1)
    return nnx.sigmoid(chosen[..., 0])
