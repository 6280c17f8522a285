"""Layers that Flax does not have, and PyTorch's conventions for layers that it has."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn import dtypes
from jax.typing import DTypeLike

from examples.training.errors import SettingError

# PyTorch's default initialization, U(-1/√fan_in, 1/√fan_in). The paper's CIFAR nets and
# the last layer of its ImageNet nets use it.
torch_default_init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# He et al. 2015: N(0, 2/fan), by outputs and by inputs. It is not truncated.
kaiming_fan_out_init = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
kaiming_fan_in_init = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")


def standardize(kernel: jax.Array) -> jax.Array:
    """Scales and shifts the weights of every output channel to a mean of 0 and a deviation of 1.

    Args:
      kernel: (height, width, inputs, outputs), of any float dtype.

    Returns:
      A kernel of the same shape and dtype. The deviation is the unbiased one. As in the nets
      of Figure 5, 1e-5 is added to the deviation and not to the variance.
    """
    centred = kernel - kernel.mean((0, 1, 2), keepdims=True)
    return centred / (centred.std((0, 1, 2), ddof=1, keepdims=True) + 1e-5)


def _promote_standardized(arrays: Any, /, **kwargs: Any) -> Any:
    inputs, kernel, bias = arrays
    return dtypes.promote_dtype((inputs, standardize(kernel), bias), **kwargs)


class WSConv(nnx.Conv):
    """A 2-D convolution with a standardized kernel (Qiao et al. 2019).

    The parameter is the raw kernel. Gradients pass through its standardization, so their
    mean over a neuron's inputs is 0 without GC.

    Raises:
      ValueError: each neuron has only one weight, which has no deviation.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        # This is the only place where Conv passes its kernel in the dtype of the parameter, so in a
        # bfloat16 net too the statistics are computed in float32.
        super().__init__(*args, promote_dtype=_promote_standardized, **kwargs)
        if math.prod(self.kernel_shape[:-1]) < 2:
            raise ValueError(
                "weight standardization needs a fan-in of at least 2, not a kernel of shape "
                f"{self.kernel_shape}"
            )


class FrozenBatchNorm(nnx.BatchNorm):
    """Batch normalization that uses the stored statistics in training too.

    The statistics never change. Scale and bias are still trained.
    """

    def __call__(self, x: jax.Array) -> jax.Array:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().__call__(x, use_running_average=True)


def num_groups(features: int) -> int:
    """Returns the number of groups for a group normalization of this many channels.

    It is 32 as in the paper if 32 divides the channels and each group has at least two of
    them. This is so in nets of normal width. Otherwise it is the largest power of two with these
    two properties. A group of one channel would lose the channel's mean and contrast.
    """
    groups = math.gcd(32, features)
    return groups // 2 if 1 < groups == features else groups


def group_norm(features: int, *, groups: int | None = None, **kwargs: Any) -> nnx.GroupNorm:
    """Makes a group normalization with this many groups, by default those of `num_groups`.

    Its variance is the mean of squared deviations. The mean of squares minus the square of the mean,
    which is Flax's default, loses digits if the mean is much larger than the deviation.

    Raises:
      SettingError: the groups do not divide the channels.
    """
    groups = num_groups(features) if groups is None else groups
    if features % groups:
        raise SettingError(
            f"--groups {groups}: a layer of this net has {features} channels, which is not a "
            f"multiple of {groups}"
        )
    return nnx.GroupNorm(features, num_groups=groups, use_fast_variance=False, **kwargs)


class Layers(NamedTuple):
    """The constructors of a net's layers, with their common settings.

    Attributes:
      conv: makes a convolution, as `nnx.Conv` does.
      norm: makes a normalization of a number of channels, as `nnx.BatchNorm` does.
      linear: makes a linear layer, as `nnx.Linear` does.
    """

    conv: Callable[..., Any]
    norm: Callable[..., Any]
    linear: Callable[..., Any]


def make_layers(
    norm: Literal["bn", "gn"],
    *,
    groups: int | None,
    weight_standardization: bool,
    frozen_bn: bool,
    norm_epsilon: float,
    dtype: DTypeLike | None,
) -> Layers:
    """Returns the constructors of the layers. The arguments are those of `examples.models.create`."""
    conv_layer = WSConv if weight_standardization else nnx.Conv
    if norm == "gn":
        norm_layer = functools.partial(group_norm, groups=groups)
    else:
        norm_layer = functools.partial(
            FrozenBatchNorm if frozen_bn else nnx.BatchNorm, momentum=0.9
        )
    return Layers(
        conv=functools.partial(conv_layer, dtype=dtype),
        norm=functools.partial(norm_layer, epsilon=norm_epsilon, dtype=dtype),
        linear=functools.partial(nnx.Linear, dtype=dtype),
    )


def max_pool(x: jax.Array, window: int, stride: int, padding: int = 0) -> jax.Array:
    """Returns the maxima over square windows of (N, H, W, C), padded equally on all four sides."""
    sides = (padding, padding)
    # Flax accepts pairs as well as the strings in its annotation.
    pads: Any = (sides, sides)
    return nnx.max_pool(x, (window, window), (stride, stride), pads)


def _require_pixels(x: jax.Array) -> None:
    if 0 in x.shape[1:3]:
        raise SettingError(
            "these images are too small for this net: its last stage has no pixel left. Use larger "
            "images, or a smaller --pool"
        )


def global_average_pool(x: jax.Array) -> jax.Array:
    """Averages (N, H, W, C) over space to (N, C).

    Raises:
      SettingError: the images are too small for the net, so that no pixel is left.
    """
    _require_pixels(x)
    return jnp.mean(x, (1, 2))


def adaptive_average_pool(x: jax.Array, bins: int) -> jax.Array:
    """Averages (N, H, W, C) over bins to (N, bins, bins, C), as PyTorch does.

    Bin i covers the rows from floor(i H / bins) to ceil((i + 1) H / bins). Bins overlap if
    their number does not divide H, and repeat rows if there are more bins than rows.

    Raises:
      SettingError: as for `global_average_pool`.
    """
    _require_pixels(x)
    rows, columns = (_bin_weights(size, bins, x.dtype) for size in x.shape[1:3])
    # This keeps accelerators from computing these sums in bfloat16.
    return jnp.einsum("nhwc,ih,jw->nijc", x, rows, columns, precision=jax.lax.Precision.HIGHEST)


def _bin_weights(size: int, bins: int, dtype: DTypeLike) -> np.ndarray:
    weights = np.zeros((bins, size), dtype)
    for i in range(bins):
        start, stop = i * size // bins, -(-(i + 1) * size // bins)
        weights[i, start:stop] = 1 / (stop - start)
    return weights
