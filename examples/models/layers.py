"""The layers that Flax does not have, and PyTorch's conventions for those it has."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn import dtypes
from jax.typing import DTypeLike

# What PyTorch gives a layer nobody initialises: U(-1/√fan_in, 1/√fan_in). The paper's
# CIFAR nets and the last layer of its ImageNet nets start there.
torch_default_init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# He et al. 2015, by outputs and by inputs: N(0, 2/fan), not truncated.
kaiming_fan_out_init = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
kaiming_fan_in_init = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")


def standardize(kernel: jax.Array) -> jax.Array:
    """Gives every output channel's weights zero mean and unit deviation.

    Args:
      kernel: (height, width, inputs, outputs), of any float dtype.

    Returns:
      The same shape and dtype. The deviation is the unbiased one, and 1e-5 is added to
      it rather than to the variance, as in the nets of Figure 5.
    """
    centred = kernel - kernel.mean((0, 1, 2), keepdims=True)
    return centred / (centred.std((0, 1, 2), ddof=1, keepdims=True) + 1e-5)


def _promote_standardized(arrays: Any, /, **kwargs: Any) -> Any:
    inputs, kernel, bias = arrays
    return dtypes.promote_dtype((inputs, standardize(kernel), bias), **kwargs)


class WSConv(nnx.Conv):
    """A 2-D convolution with a standardized kernel (Qiao et al. 2019).

    The parameter is the raw kernel; gradients flow through its standardization, and
    so have zero mean over a neuron's inputs by themselves.

    Raises:
      ValueError: each neuron has one weight alone, whose deviation does not exist.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        # Conv hands its kernel over in the parameter's own dtype here and nowhere
        # else: in a bfloat16 net the statistics are still those of float32.
        super().__init__(*args, promote_dtype=_promote_standardized, **kwargs)
        if math.prod(self.kernel_shape[:-1]) < 2:
            raise ValueError(
                "weight standardization needs a fan-in of at least 2, not a kernel of shape "
                f"{self.kernel_shape}"
            )


class FrozenBatchNorm(nnx.BatchNorm):
    """Batch normalization by the stored statistics, in training as well.

    The statistics never change; scale and bias are still trained.
    """

    def __call__(self, x: jax.Array) -> jax.Array:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().__call__(x, use_running_average=True)


def num_groups(features: int) -> int:
    """Says how many groups a group normalization of this many channels has.

    The paper's 32 where 32 divides the channels and leaves a group two of them or more
    (the least in a net of normal width: 64 channels); else the largest power of two
    that does. A group of one channel would erase that channel's mean and contrast.
    """
    groups = math.gcd(32, features)
    return groups // 2 if 1 < groups == features else groups


def group_norm(features: int, **kwargs: Any) -> nnx.GroupNorm:
    """Makes a group normalization with `num_groups` groups."""
    return nnx.GroupNorm(features, num_groups=num_groups(features), **kwargs)


def max_pool(x: jax.Array, window: int, stride: int, padding: int = 0) -> jax.Array:
    """Takes maxima over square windows of (N, H, W, C), padded alike on all four sides."""
    sides = (padding, padding)
    # Flax takes pairs as well as the strings that its annotation names.
    pads: Any = (sides, sides)
    return nnx.max_pool(x, (window, window), (stride, stride), pads)


def _require_pixels(x: jax.Array) -> None:
    if 0 in x.shape[1:3]:
        raise ValueError("these images are too small: the last stage has no pixel left")


def global_average_pool(x: jax.Array) -> jax.Array:
    """Averages (N, H, W, C) over space to (N, C).

    Raises:
      ValueError: pooling has left no pixel, so the images were too small for the net.
    """
    _require_pixels(x)
    return jnp.mean(x, (1, 2))


def adaptive_average_pool(x: jax.Array, bins: int) -> jax.Array:
    """Averages (N, H, W, C) over bins to (N, bins, bins, C), as PyTorch does.

    Of H rows, bin i covers those from floor(i H / bins) to ceil((i + 1) H / bins); bins
    overlap where they do not divide H, and repeat rows where there are fewer.

    Raises:
      ValueError: as for `global_average_pool`.
    """
    _require_pixels(x)
    rows, columns = (_bin_weights(size, bins, x.dtype) for size in x.shape[1:3])
    # No accelerator may round these sums down to bfloat16.
    return jnp.einsum("nhwc,ih,jw->nijc", x, rows, columns, precision=jax.lax.Precision.HIGHEST)


def _bin_weights(size: int, bins: int, dtype: DTypeLike) -> np.ndarray:
    weights = np.zeros((bins, size), dtype)
    for i in range(bins):
        start, stop = i * size // bins, -(-(i + 1) * size // bins)
        weights[i, start:stop] = 1 / (stop - start)
    return weights
