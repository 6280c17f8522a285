"""Boxes: area, overlap, clipping, and the code in which nets predict them.

A box is (x1, y1, x2, y2) in pixels. Coordinates are continuous, so the width is x2 - x1, as in
torchvision. The functions have torchvision's names.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

# A predicted box is at most 62.5 times as wide or high as the box from which it was predicted.
# Without a limit an untrained net could overflow the exponential.
MAX_LOG_SCALE = math.log(1000 / 16)


def box_area(boxes: ArrayLike) -> jax.Array:
    """Returns the areas (...) of boxes (..., 4)."""
    x1, y1, x2, y2 = _split(boxes)
    return (x2 - x1) * (y2 - y1)


def box_iou(boxes1: ArrayLike, boxes2: ArrayLike) -> jax.Array:
    """Returns the intersection over union of each pair of boxes.

    Args:
      boxes1: (N, 4).
      boxes2: (M, 4).

    Returns:
      (N, M) numbers from 0 to 1. Two boxes without area have 0, where torchvision has NaN.

    >>> box_iou(jnp.array([[0.0, 0.0, 2.0, 2.0]]), jnp.array([[1.0, 0.0, 3.0, 2.0]])).round(3)
    Array([[0.333]], dtype=float32)
    """
    boxes1, boxes2 = jnp.asarray(boxes1), jnp.asarray(boxes2)
    left1, top1, right1, bottom1 = _split(boxes1[:, None])
    left2, top2, right2, bottom2 = _split(boxes2[None])
    width = jnp.maximum(jnp.minimum(right1, right2) - jnp.maximum(left1, left2), 0)
    height = jnp.maximum(jnp.minimum(bottom1, bottom2) - jnp.maximum(top1, top2), 0)
    intersection = width * height
    union = box_area(boxes1)[:, None] + box_area(boxes2)[None] - intersection
    return jnp.where(union > 0, intersection / jnp.where(union > 0, union, 1), 0)


def clip_boxes_to_image(boxes: ArrayLike, size: jax.Array | tuple[int, int]) -> jax.Array:
    """Moves the corners that lie outside an image to its border.

    Args:
      boxes: (..., 4).
      size: height and width of the image, without padding. They may be traced.

    Returns:
      Boxes of the same shape, with x from 0 to width and y from 0 to height.
    """
    x1, y1, x2, y2 = _split(boxes)
    height, width = (jnp.asarray(side, x1.dtype) for side in size)
    x1, x2 = jnp.clip(x1, 0, width), jnp.clip(x2, 0, width)
    y1, y2 = jnp.clip(y1, 0, height), jnp.clip(y2, 0, height)
    return jnp.stack([x1, y1, x2, y2], axis=-1)


def is_large(boxes: ArrayLike, min_size: float) -> jax.Array:
    """Returns for boxes (..., 4) whether both sides are at least so long.

    The boxes for which it is true are those that torchvision's ``remove_small_boxes`` keeps.
    """
    x1, y1, x2, y2 = _split(boxes)
    return (x2 - x1 >= min_size) & (y2 - y1 >= min_size)


def encode_boxes(
    reference_boxes: ArrayLike,
    proposals: ArrayLike,
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
) -> jax.Array:
    """Encodes boxes relative to proposals (or anchors), as the net should predict them.

    Args:
      reference_boxes: (..., 4), the boxes to encode.
      proposals: (..., 4) of the same rank.
      weights: factors of the four numbers of a code.

    Returns:
      Codes (..., 4): the shift of the centre in widths and heights of the proposal, and the
      logarithm of the ratio of widths and heights. A side that is not positive counts as 1,
      so that padding gives finite codes.
    """
    x, y, width, height = _centre_and_size(proposals)
    to_x, to_y, to_width, to_height = _centre_and_size(reference_boxes)
    width, height, to_width, to_height = (
        jnp.where(side > 0, side, 1) for side in (width, height, to_width, to_height)
    )
    codes = ((to_x - x) / width, (to_y - y) / height)
    codes += (jnp.log(to_width / width), jnp.log(to_height / height))
    return jnp.stack([w * code for w, code in zip(weights, codes, strict=True)], axis=-1)


def decode_boxes(
    rel_codes: ArrayLike,
    boxes: ArrayLike,
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
) -> jax.Array:
    """Returns the boxes that codes of `encode_boxes` describe.

    Args:
      rel_codes: (..., 4).
      boxes: (..., 4) of the same rank: the proposals or anchors. Codes of several classes,
        (N, classes, 4), go with boxes of shape (N, 1, 4).
      weights: those of the encoding.

    Returns:
      Boxes (..., 4). They are at most `exp(MAX_LOG_SCALE)` times as wide and high as `boxes`.
    """
    x, y, width, height = _centre_and_size(boxes)
    dx, dy, dw, dh = (code / w for code, w in zip(_split(rel_codes), weights, strict=True))
    x = dx * width + x
    y = dy * height + y
    half_width = 0.5 * (jnp.exp(jnp.minimum(dw, MAX_LOG_SCALE)) * width)
    half_height = 0.5 * (jnp.exp(jnp.minimum(dh, MAX_LOG_SCALE)) * height)
    return jnp.stack([x - half_width, y - half_height, x + half_width, y + half_height], axis=-1)


def _split(boxes: ArrayLike) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    boxes = jnp.asarray(boxes)
    return boxes[..., 0], boxes[..., 1], boxes[..., 2], boxes[..., 3]


def _centre_and_size(boxes: ArrayLike) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    x1, y1, x2, y2 = _split(boxes)
    width, height = x2 - x1, y2 - y1
    return x1 + 0.5 * width, y1 + 0.5 * height, width, height
