"""Matching: which object an anchor or a proposal should predict."""

import jax
import jax.numpy as jnp

BELOW_LOW_THRESHOLD = -1
BETWEEN_THRESHOLDS = -2


def match_boxes(
    iou: jax.Array,
    valid: jax.Array,
    *,
    high_threshold: float,
    low_threshold: float,
    allow_low_quality_matches: bool = False,
    min_quality: float = 0.0,
) -> jax.Array:
    """Matches each anchor with at most one object, by torchvision's rules (its ``Matcher``).

    Args:
      iou: (N, G), the overlap of each anchor with each object, from `box_iou`. This is the
        transpose of torchvision's matrix: the reductions over the few objects are faster when
        their numbers lie side by side in memory.
      valid: (G,) bool. Objects for which it is false are padding and are never matched.
      high_threshold: an anchor is matched with the object that it overlaps most, if the
        overlap is at least this. The first object wins a tie.
      low_threshold: below this an anchor is background.
      allow_low_quality_matches: the anchors that overlap an object most (all of a tie) are
        matched too, whatever their overlap. They keep the object that they overlap most
        themselves, which may be another one.
      min_quality: the smallest overlap of such a match. With 0, as in torchvision, an object
        that overlaps no anchor has a tie of all anchors, so all of them are matched.

    Returns:
      (N,) int32: the index of the object, or `BELOW_LOW_THRESHOLD`, or `BETWEEN_THRESHOLDS`
      for anchors that no loss should count.
    """
    anchors, objects = iou.shape
    if objects == 0:
        return jnp.full(anchors, BELOW_LOW_THRESHOLD, jnp.int32)
    iou = jnp.where(valid[None], iou, -1)
    best = iou.max(1)
    # The first object of a tie. On CPU this takes less time than argmax, which XLA does not
    # vectorize.
    number = jnp.arange(objects, dtype=jnp.int32)[None]
    index = jnp.where(iou == best[:, None], number, objects).min(1)
    unmatched = jnp.where(best < low_threshold, BELOW_LOW_THRESHOLD, BETWEEN_THRESHOLDS)
    matches = jnp.where(best >= high_threshold, index, unmatched)
    if allow_low_quality_matches:
        best_of_object = iou.max(0)
        allowed = valid & (best_of_object >= min_quality)
        low_quality = (iou == best_of_object[None]) & allowed[None]
        matches = jnp.where(low_quality.any(1), index, matches)
    return matches
