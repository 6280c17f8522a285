"""RoIAlign: features of a box, whatever its size, on a grid of fixed size (He et al. 2017).

Each cell of the grid is the mean of a few bilinear samples of the feature map. Gradients go to
the features and not to the boxes, as in torchvision.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from examples.detection.boxes import box_area


def roi_align(
    features: jax.Array,
    boxes: ArrayLike,
    output_size: int,
    *,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 2,
    aligned: bool = False,
) -> jax.Array:
    """Pools the features of boxes of one image from one map.

    Args:
      features: (H, W, C).
      boxes: (R, 4) in pixels of the image. Boxes that are not finite give zeros.
      output_size: rows and columns of the grid.
      spatial_scale: rows of the map divided by rows of the image.
      sampling_ratio: samples of a cell in each direction. With 0 their number adapts to each
        box, so that samples are at most one pixel of the map apart. That suits masks, where
        C is 1.
      aligned: whether positions in the map are those of pixel centres, half a pixel less.
        Without it, boxes are also at least one pixel of the map wide and high.

    Returns:
      (R, output_size, output_size, C) of the dtype of `features`. Samples more than one pixel
      outside the map are zero.
    """
    if sampling_ratio > 0:
        return multiscale_roi_align(
            [features],
            boxes,
            output_size,
            scales=[spatial_scale],
            sampling_ratio=sampling_ratio,
            aligned=aligned,
        )
    height, width, _ = features.shape
    rows, columns = scale_boxes(boxes, jnp.asarray(spatial_scale), aligned)
    rows = _average_adaptively(rows, height, output_size)
    columns = _average_adaptively(columns, width, output_size)
    highest = jax.lax.Precision.HIGHEST
    pooled = jnp.einsum("rih,hwc->riwc", rows, features, precision=highest)
    pooled = jnp.einsum("rjw,riwc->rijc", columns, pooled, precision=highest)
    return pooled.astype(features.dtype)


def assign_levels(
    boxes: ArrayLike,
    *,
    k_min: int = 2,
    k_max: int = 5,
    canonical_scale: float = 224,
    canonical_level: int = 4,
) -> jax.Array:
    """Returns from which map of a pyramid each box is pooled (Lin et al. 2017, equation 1).

    Args:
      boxes: (..., 4) in pixels of the image.
      k_min: the level of the first map. Its stride is ``2 ** k_min``.
      k_max: the level of the last map.
      canonical_scale: the side of a square box that belongs to `canonical_level`.
      canonical_level: each level after it has boxes of twice the side.

    Returns:
      (...) int32, the place of the map in the pyramid, from 0.
    """
    side = jnp.sqrt(jnp.maximum(box_area(boxes), 0))
    level = jnp.floor(canonical_level + jnp.log2(side / canonical_scale) + 1e-6)
    return jnp.nan_to_num(jnp.clip(level, k_min, k_max) - k_min).astype(jnp.int32)


def multiscale_roi_align(
    features: Sequence[jax.Array],
    boxes: ArrayLike,
    output_size: int,
    *,
    scales: Sequence[float] = (1 / 4, 1 / 8, 1 / 16, 1 / 32),
    sampling_ratio: int = 2,
    aligned: bool = False,
) -> jax.Array:
    """Pools the features of boxes of one image, each from the map that fits its size.

    Args:
      features: maps (H, W, C) of the pyramid, from the finest to the coarsest.
      boxes: (R, 4) in pixels of the image.
      output_size: as in `roi_align`.
      scales: rows of each map divided by rows of the image, powers of two.
      sampling_ratio: as in `roi_align`, but at least 1.
      aligned: as in `roi_align`.

    Returns:
      (R, output_size, output_size, C).

    Raises:
      ValueError: there are not as many scales as maps.
    """
    if len(features) != len(scales):
        raise ValueError(f"{len(features)} feature maps need as many scales, not {len(scales)}")
    boxes = jnp.asarray(boxes)
    if len(features) > 1:
        k_min = -round(math.log2(scales[0]))
        level = assign_levels(boxes, k_min=k_min, k_max=k_min + len(scales) - 1)
    else:
        level = jnp.zeros(len(boxes), jnp.int32)
    # The maps one after the other, so that one gather reads from all of them.
    channels = features[0].shape[-1]
    cells = jnp.concatenate([x.reshape(-1, channels) for x in features])
    heights, widths, starts = [], [], [0]
    for height, width, _ in (x.shape for x in features):
        heights.append(height)
        widths.append(width)
        starts.append(starts[-1] + height * width)

    rows, columns = scale_boxes(boxes, jnp.asarray(scales)[level], aligned)
    height, width = jnp.array(heights)[level], jnp.array(widths)[level]
    row, row_weight = interpolate(rows, height, output_size, sampling_ratio)
    column, column_weight = interpolate(columns, width, output_size, sampling_ratio)
    start, width = (x[:, None, None, None, None] for x in (jnp.array(starts)[level], width))
    index = start + row[:, :, None, :, None] * width + column[:, None, :, None, :]
    weight = row_weight[:, :, None, :, None] * column_weight[:, None, :, None, :]
    grid = (len(boxes), output_size, output_size, -1)
    sampled = cells.at[index.reshape(grid)].get(mode="promise_in_bounds")
    pooled = jnp.einsum(
        "rijk,rijkc->rijc",
        weight.reshape(grid),
        sampled,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=weight.dtype,
    )
    return pooled.astype(cells.dtype)


class Side(NamedTuple):
    """One side of each box, in pixels of the map: (R,) where it begins and how long it is."""

    start: jax.Array
    length: jax.Array


def scale_boxes(boxes: ArrayLike, scale: jax.Array, aligned: bool) -> tuple[Side, Side]:
    """Returns the vertical and the horizontal side of boxes."""
    boxes = jax.lax.stop_gradient(jnp.asarray(boxes))
    boxes = boxes.astype(jnp.promote_types(boxes.dtype, jnp.float32))
    offset = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (boxes[:, i] * scale.astype(boxes.dtype) - offset for i in range(4))
    height, width = y2 - y1, x2 - x1
    if not aligned:
        height, width = jnp.maximum(height, 1), jnp.maximum(width, 1)
    return Side(y1, height), Side(x1, width)


def interpolate(
    side: Side, size: jax.Array, output_size: int, sampling_ratio: int
) -> tuple[jax.Array, jax.Array]:
    """Returns which rows (or columns) of a map each cell reads, and with which weights.

    Args:
      side: of R boxes.
      size: (R,) the rows of the map of each box.
      output_size: cells.
      sampling_ratio: samples of a cell.

    Returns:
      Indices and weights (R, output_size, 2 * sampling_ratio): each sample has two neighbours.
    """
    cell = (side.length / output_size)[:, None, None]
    number = jnp.arange(output_size, dtype=cell.dtype)[None, :, None]
    sample = (jnp.arange(sampling_ratio, dtype=cell.dtype) + 0.5)[None, None]
    position = side.start[:, None, None] + number * cell + sample * cell / sampling_ratio
    size = size[:, None, None]
    inside = (position >= -1) & (position <= size)
    position = jnp.clip(jnp.where(inside, position, 0), 0, size - 1)
    low = jnp.floor(position).astype(jnp.int32)
    high = jnp.minimum(low + 1, size - 1)
    fraction = position - low
    weight = jnp.stack([1 - fraction, fraction], axis=-1)
    weight = jnp.where(inside[..., None], weight, 0) / sampling_ratio
    shape = (*position.shape[:2], 2 * sampling_ratio)
    return jnp.stack([low, high], axis=-1).reshape(shape), weight.reshape(shape)


# Compiled here, so that a call outside of a compiled function does not compile the loop anew.
@functools.partial(jax.jit, static_argnames=("size", "output_size"))
def _average_adaptively(side: Side, size: int, output_size: int) -> jax.Array:
    """Returns the weight (R, output_size, size) of each row of a map in each cell."""
    cell = (side.length / output_size)[:, None]
    count = jnp.clip(jnp.nan_to_num(jnp.ceil(cell)), 0, 2**30)
    distance = cell / jnp.maximum(count, 1)
    begin = side.start[:, None] + jnp.arange(output_size, dtype=cell.dtype)[None] * cell
    # A cell of a very large box has more samples than lie in the map. These begin here.
    first = jnp.clip(jnp.floor((-1 - begin) / distance), 0, count)
    most = jnp.minimum(count, 2 * size + 6).max(initial=0).astype(jnp.int32)
    rows = jnp.arange(size, dtype=cell.dtype)[None, None]

    def add_sample(i, total):
        sample = first + i
        position = begin + (sample + 0.5) * distance
        inside = (position >= -1) & (position <= size) & (sample < count)
        position = jnp.clip(jnp.where(inside, position, 0), 0, size - 1)[..., None]
        weight = jnp.maximum(1 - jnp.abs(position - rows), 0)
        return total + jnp.where(inside[..., None], weight, 0)

    total = jnp.zeros((*begin.shape, size), cell.dtype)
    total = jax.lax.fori_loop(0, most, add_sample, total)
    return total / jnp.maximum(count, 1)[..., None]
