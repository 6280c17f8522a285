"""Non-maximum suppression: of boxes that overlap much, only the best is kept.

The result is exactly that of the greedy algorithm, for any number of boxes. The best boxes that
still wait are treated in blocks, so boxes are sorted only as far as they are needed. First the
kept boxes of earlier blocks suppress boxes of the block. Then one rule is applied to all boxes
of the block at once: a box is kept if no kept box before it suppresses it. This is repeated
until nothing changes. After n rounds the first n boxes are right.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from examples.detection.boxes import box_iou

# Larger blocks need fewer steps one after another, and more comparisons of boxes that are suppressed
# anyway. On CPU sizes from 64 to 256 take about the same time. By the compilers for TPU and H100, one
# block of 2000 boxes is better there.
BLOCK = 256


def nms(
    boxes: ArrayLike,
    scores: ArrayLike,
    iou_threshold: float,
    *,
    valid: ArrayLike | None = None,
    max_outputs: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Finds the boxes that no better box suppresses.

    A box is suppressed if its overlap (IoU) with a kept box of higher score is greater than the
    threshold, and not if it is equal. Of equal scores the first counts as higher. Both are as in
    torchvision's ``nms`` on CPU.

    Args:
      boxes: (N, 4).
      scores: (N,).
      iou_threshold: from 0 to 1.
      valid: (N,) bool. Places for which it is false, or whose score is NaN, are never kept and
        suppress nothing. By default all are valid.
      max_outputs: how many boxes to keep at most. By default, any number.

    Returns:
      The indices of the kept boxes in the order of their scores, int32, of length N or
      `max_outputs` if that is less, and their number. The places after the number hold N.

    Raises:
      ValueError: the arrays do not fit together, or a number is out of range.

    >>> boxes = jnp.array([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 8.0], [20.0, 0.0, 29.0, 9.0]])
    >>> indices, number = nms(boxes, jnp.array([0.1, 0.5, 0.9]), 0.5)
    >>> indices[:number]
    Array([2, 1], dtype=int32)
    """
    return batched_nms(
        boxes,
        scores,
        jnp.zeros(np.shape(scores), jnp.int32),
        iou_threshold,
        valid=valid,
        max_outputs=max_outputs,
    )


def batched_nms(
    boxes: ArrayLike,
    scores: ArrayLike,
    idxs: ArrayLike,
    iou_threshold: float,
    *,
    valid: ArrayLike | None = None,
    max_outputs: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Applies `nms` to the boxes of each class (or level) separately.

    Args:
      boxes: (N, 4).
      scores: (N,).
      idxs: (N,) int, the class of each box.
      iou_threshold: as in `nms`.
      valid: as in `nms`.
      max_outputs: as in `nms`, for all classes together.

    Returns:
      As `nms`: the kept boxes of all classes in the order of their scores, and their number.

    Raises:
      ValueError: as in `nms`.
    """
    boxes, scores, idxs = jnp.asarray(boxes), jnp.asarray(scores), jnp.asarray(idxs)
    if scores.ndim != 1 or boxes.shape != (*scores.shape, 4) or idxs.shape != scores.shape:
        raise ValueError(
            "N boxes (N, 4) need scores (N,) and classes (N,), not "
            f"{boxes.shape}, {scores.shape} and {idxs.shape}"
        )
    if valid is not None and np.shape(valid) != scores.shape:
        raise ValueError(f"valid must be {scores.shape} as the scores, not {np.shape(valid)}")
    if not isinstance(iou_threshold, jax.Array) and not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be from 0 to 1, not {iou_threshold}")
    if max_outputs is not None and max_outputs < 0:
        raise ValueError(f"max_outputs must be at least 0, not {max_outputs}")
    count = len(scores)
    boxes = boxes.astype(jnp.promote_types(boxes.dtype, jnp.float32))
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    usable = ~jnp.isnan(scores) if valid is None else jnp.asarray(valid) & ~jnp.isnan(scores)
    threshold = _round_down(iou_threshold, boxes.dtype)
    outputs = count if max_outputs is None else min(max_outputs, count)
    if outputs == 0:
        return jnp.zeros(0, jnp.int32), jnp.int32(0)
    boxes, scores = jax.lax.stop_gradient((boxes, scores))
    return _find_kept(boxes, scores, idxs, usable, threshold, outputs=outputs)


# Compiled here, so that a call outside of a compiled function does not compile the loops anew.
@functools.partial(jax.jit, static_argnames="outputs")
def _find_kept(
    boxes: jax.Array,
    scores: jax.Array,
    idxs: jax.Array,
    usable: jax.Array,
    threshold: jax.Array,
    *,
    outputs: int,
) -> tuple[jax.Array, jax.Array]:
    count = len(scores)
    size = min(BLOCK, count)
    # The score while a box waits for its turn. The two zeros are equal.
    scores = jnp.where(scores == 0, 0, jnp.maximum(scores, jnp.finfo(scores.dtype).min))
    waiting = jnp.where(usable, scores, -jnp.inf)

    def suppress(suppressors, block):
        """Returns a matrix: whether the first box, if it is kept, suppresses the second."""
        same = idxs[suppressors][:, None] == idxs[block][None]
        return (box_iou(boxes[suppressors], boxes[block]) > threshold) & same

    def treat_block(state):
        waiting, kept, number = state
        best, block = jax.lax.top_k(waiting, size)

        def suppress_by_kept(tile, free):
            places = tile * size + jnp.arange(size)
            matrix = suppress(kept[places], block) & (places < number)[:, None]
            return free & ~matrix.any(0)

        tiles = (number + size - 1) // size
        free = jax.lax.fori_loop(0, tiles, suppress_by_kept, best > -jnp.inf)
        keep = keep_greedily(jnp.triu(suppress(block, block), 1), free)
        places = jnp.where(keep, number + jnp.cumsum(keep) - 1, len(kept))
        kept = kept.at[places].set(block, mode="drop")
        return waiting.at[block].set(-jnp.inf), kept, number + keep.sum(dtype=jnp.int32)

    def is_unfinished(state):
        waiting, _, number = state
        return (number < outputs) & (waiting.max() > -jnp.inf)

    kept = jnp.full(-(-outputs // size) * size, count, jnp.int32)
    state = waiting, kept, jnp.int32(0)
    _, kept, number = jax.lax.while_loop(is_unfinished, treat_block, state)
    return kept[:outputs], jnp.minimum(number, outputs)


def keep_greedily(matrix: jax.Array, free: jax.Array) -> jax.Array:
    """Returns which boxes of a block are kept.

    Args:
      matrix: whether a box suppresses a later one, if it is kept itself.
      free: which boxes no box before the block suppresses.
    """

    def apply_rule(pair):
        _, keep = pair
        return keep, free & ~(matrix & keep[:, None]).any(0)

    def has_changed(pair):
        return (pair[0] != pair[1]).any()

    return jax.lax.while_loop(has_changed, apply_rule, (jnp.zeros_like(free), free))[1]


def _round_down(threshold: float | jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns the greatest number of the dtype that is not above the threshold.

    An overlap of that dtype is greater than the result if and only if it is greater than the
    threshold. The nearest float32 to 0.3 would be above 0.3. A threshold that is an array
    already is left as it is.
    """
    if isinstance(threshold, jax.Array):
        return threshold.astype(dtype)
    rounded = np.asarray(threshold, dtype)
    if float(rounded) > threshold:
        rounded = np.nextafter(rounded, np.zeros_like(rounded))
    return jnp.asarray(rounded)
