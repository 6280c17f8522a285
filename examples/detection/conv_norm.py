"""A convolution with the normalization, if any, of a detector's FPN and heads."""

from collections.abc import Callable
from typing import Any, Literal

import jax
from flax import nnx
from jax.typing import DTypeLike

from examples.models.layers import FrozenBatchNorm, WSConv, group_norm, kaiming_fan_out_init

# Group normalization, batch normalization with stored statistics that never change, or neither.
Norm = Literal["gn", "frozen_bn"] | None


def four_convs(
    conv: "Callable[..., ConvNorm]", features: int, *, rngs: nnx.Rngs
) -> nnx.List["ConvNorm"]:
    """Makes the four 3x3 convolutions with which two of the heads begin.

    Kernels start with Kaiming's normal initialization by fan-out.
    """
    init = kaiming_fan_out_init
    return nnx.List([conv(features, features, 3, kernel_init=init, rngs=rngs) for _ in range(4)])


class ConvNorm(nnx.Module):
    """A convolution of stride 1 that keeps the size, and a normalization if wanted.

    Without normalization the convolution has a bias. Group normalization has the groups of
    `examples.models.layers.num_groups`, as in the backbone. The epsilon of both kinds is 1e-5.

    Args:
      in_features: the channels of the input.
      out_features: the channels of the output.
      kernel_size: the height and width of the kernel, an odd number.
      norm: how the output is normalized.
      weight_standardization: standardize the kernel, as `examples.models.layers.WSConv` does.
      kernel_init: initializes the kernel.
      dtype: the dtype of the computation; None is that of the input and the parameters.
      rngs: the seed of the parameters.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        norm: Norm,
        weight_standardization: bool,
        kernel_init: nnx.Initializer,
        dtype: DTypeLike | None,
        rngs: nnx.Rngs,
    ):
        self.conv = (WSConv if weight_standardization else nnx.Conv)(
            in_features,
            out_features,
            (kernel_size, kernel_size),
            padding=kernel_size // 2,
            use_bias=norm is None,
            kernel_init=kernel_init,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = _make_norm(norm, out_features, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns (..., H, W, out_features) of (..., H, W, in_features)."""
        y = self.conv(x)
        if self.norm is None:
            return y
        # Normalization takes all axes but the first to be of one image.
        return self.norm(y.reshape(-1, *y.shape[-3:])).reshape(y.shape)


def _make_norm(norm: Norm, features: int, **options: Any) -> nnx.GroupNorm | FrozenBatchNorm | None:
    match norm:
        case "gn":
            return group_norm(features, epsilon=1e-5, **options)
        case "frozen_bn":
            return FrozenBatchNorm(features, epsilon=1e-5, **options)
        case None:
            return None
