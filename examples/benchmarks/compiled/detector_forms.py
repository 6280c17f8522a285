"""Other ways to compute a detector's NMS and RoIAlign, to compile them beside those of the library.

All forms of an operation have equal results, up to rounding.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from examples.detection.box_nms import BLOCK, keep_greedily, nms
from examples.detection.boxes import box_iou
from examples.detection.rcnn import STRIDES
from examples.detection.roi_align import (
    assign_levels,
    interpolate,
    multiscale_roi_align,
    scale_boxes,
)

THRESHOLD = 0.7
_SCALES = tuple(1 / stride for stride in STRIDES[:4])
# As many regions are pooled at once in evaluation.
_CHUNK = 32


def nms_in_blocks(boxes: jax.Array, scores: jax.Array) -> jax.Array:
    """The form of `examples.detection.nms`: blocks one after the other, boxes of a block at once."""
    indices, _ = nms(boxes, scores, THRESHOLD)
    # A box that is not kept has the place N, which is left out.
    return jnp.zeros(len(scores), bool).at[indices].set(True, mode="drop")


def nms_of_all(boxes: jax.Array, scores: jax.Array) -> jax.Array:
    """All boxes are one block: the overlaps of all pairs are computed before anything is kept."""
    order = jnp.argsort(-scores, stable=True)
    sorted_boxes = boxes[order]
    matrix = jnp.triu(box_iou(sorted_boxes, sorted_boxes) > THRESHOLD, 1)
    keep = keep_greedily(matrix, jnp.ones(len(scores), bool))
    return jnp.zeros(len(scores), bool).at[order].set(keep)


def nms_one_by_one(boxes: jax.Array, scores: jax.Array) -> jax.Array:
    """One box after the other, the best first, suppresses those that overlap it much."""
    order = jnp.argsort(-scores, stable=True)
    sorted_boxes = boxes[order]
    places = jnp.arange(len(scores))

    def treat(i, keep):
        overlaps = box_iou(sorted_boxes[i][None], sorted_boxes)[0] > THRESHOLD
        return keep & ~(overlaps & (places > i) & keep[i])

    keep = jax.lax.fori_loop(0, len(scores), treat, jnp.ones(len(scores), bool))
    return jnp.zeros(len(scores), bool).at[order].set(keep)


def roi_align_by_gather(features: Sequence[jax.Array], boxes: jax.Array, size: int) -> jax.Array:
    """The form of `examples.detection`: one gather of all rows that any region needs."""
    return multiscale_roi_align(features, boxes, size, scales=_SCALES)


def roi_align_in_chunks(features: Sequence[jax.Array], boxes: jax.Array, size: int) -> jax.Array:
    """The form of `examples.detection` in evaluation: a gather for a few regions at a time."""

    def pool(box):
        return multiscale_roi_align(features, box[None], size, scales=_SCALES)[0]

    return jax.lax.map(pool, boxes, batch_size=_CHUNK)


def roi_align_by_products(features: Sequence[jax.Array], boxes: jax.Array, size: int) -> jax.Array:
    """Two products of matrices for every region and every map of the pyramid, and no gather.

    The weights of the maps to which a region does not belong are zero.
    """
    level = assign_levels(boxes)
    pooled: Any = 0
    for i, (map_, scale) in enumerate(zip(features, _SCALES, strict=True)):
        height, width, _ = map_.shape
        sides = scale_boxes(boxes, jnp.full(len(boxes), scale), aligned=False)
        rows, columns = (
            _to_matrix(*interpolate(side, jnp.full(len(boxes), length), size, 2), length)
            for side, length in zip(sides, (height, width), strict=True)
        )
        rows = jnp.where((level == i)[:, None, None], rows, 0)
        highest = jax.lax.Precision.HIGHEST
        of_rows = jnp.einsum("rih,hwc->riwc", rows, map_, precision=highest)
        pooled += jnp.einsum("rjw,riwc->rijc", columns, of_rows, precision=highest)
    return pooled


def _to_matrix(index: jax.Array, weight: jax.Array, length: int) -> jax.Array:
    """Returns the weight (R, size, length) of each row of a map in each cell."""
    rows = jnp.arange(length)[None, None, None]
    return (weight[..., None] * (index[..., None] == rows)).sum(2)


NMS_FORMS = {
    "blocks of 256 (ours)": nms_in_blocks,
    "all boxes as one block": nms_of_all,
    "one box after the other": nms_one_by_one,
}
ROI_ALIGN_FORMS = {
    "one gather (ours in training)": roi_align_by_gather,
    "gathers of 32 regions (ours in evaluation)": roi_align_in_chunks,
    "products on every map": roi_align_by_products,
}


def count_steps(
    boxes: np.ndarray, scores: np.ndarray, block: int = BLOCK
) -> tuple[np.ndarray, int]:
    """Counts the steps of NMS in blocks that wait for each other.

    One step compares a block with a block of kept boxes. After that, each time that the rule is
    applied to the block is a step.

    Args:
      boxes: (N, 4).
      scores: (N,).
      block: the boxes of a block. With N or more, all boxes are one block.

    Returns:
      The kept boxes, best first, and the number of steps.
    """
    overlap = np.asarray(box_iou(boxes, boxes)) > THRESHOLD
    order = np.argsort(-scores, kind="stable")
    kept = np.zeros(0, int)
    steps = 0
    for start in range(0, len(order), block):
        its = order[start : start + block]
        free = np.logical_not(overlap[np.ix_(kept, its)].any(0))
        steps += -(-len(kept) // block)
        matrix = np.triu(overlap[np.ix_(its, its)], 1)
        keep, before = free, np.zeros(len(free), bool)
        while (keep != before).any():
            before, keep = keep, free & ~(matrix & keep[:, None]).any(0)
            steps += 1
        kept = np.concatenate([kept, its[keep]])
    return kept, steps
