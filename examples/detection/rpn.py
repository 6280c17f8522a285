"""The region proposal network (Ren et al. 2015, Faster R-CNN), on a feature pyramid."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from examples.detection.box_nms import batched_nms
from examples.detection.boxes import (
    box_iou,
    clip_boxes_to_image,
    decode_boxes,
    encode_boxes,
    is_large,
)
from examples.detection.matching import BELOW_LOW_THRESHOLD, match_boxes
from examples.detection.sampling import sample_balanced
from examples.detection.settings import Settings


class RPNHead(nnx.Module):
    """Predicts for each anchor whether it holds an object, and the code of the object's box.

    All levels of the pyramid share its layers. Kernels start from N(0, 0.01²).

    Args:
      features: the channels of the pyramid.
      num_anchors: the number of anchors of a cell.
      convs: the number of 3x3 convolutions before the two that predict.
      dtype: the dtype of the computation; None is that of the input and the parameters.
      rngs: the seed of the parameters.
    """

    def __init__(
        self,
        features: int,
        num_anchors: int,
        *,
        convs: int = 1,
        dtype: DTypeLike | None,
        rngs: nnx.Rngs,
    ):
        def conv(outputs: int, size: int) -> nnx.Conv:
            return nnx.Conv(
                features,
                outputs,
                (size, size),
                padding=size // 2,
                kernel_init=nnx.initializers.normal(0.01),
                dtype=dtype,
                rngs=rngs,
            )

        self.convs = nnx.List([conv(features, 3) for _ in range(convs)])
        self.cls_logits = conv(num_anchors, 1)
        self.bbox_pred = conv(4 * num_anchors, 1)

    def __call__(self, pyramid: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Computes logits and codes for the anchors of all levels, laid end to end.

        Args:
          pyramid: an array (B, H_i, W_i, features) for each level.

        Returns:
          Logits (B, N) and codes (B, N, 4), in the order of `anchors.make_anchors`. Their dtype
          is float32 or float64.
        """
        logits, codes = [], []
        for level in pyramid:
            x = level
            for conv in self.convs:
                x = nnx.relu(conv(x))
            logits.append(self.cls_logits(x).reshape(x.shape[0], -1))
            codes.append(self.bbox_pred(x).reshape(x.shape[0], -1, 4))
        dtype = jnp.promote_types(logits[0].dtype, jnp.float32)
        return jnp.concatenate(logits, 1).astype(dtype), jnp.concatenate(codes, 1).astype(dtype)


class Proposals(NamedTuple):
    """The regions of an image in which the heads look for objects, best first.

    Attributes:
      boxes: (P, 4), inside the image.
      scores: (P,) probabilities that there is an object.
      valid: (P,) bool. The places at the end that hold no proposal are False.
    """

    boxes: jax.Array
    scores: jax.Array
    valid: jax.Array


def propose(
    logits: jax.Array,
    codes: jax.Array,
    anchors: Sequence[np.ndarray],
    size: ArrayLike,
    *,
    pre_nms: int,
    post_nms: int,
    settings: Settings,
) -> Proposals:
    """Chooses the proposals of one image, as torchvision does.

    From each level the best anchors are decoded and clipped to the image. Small boxes are left
    out. Of those that overlap in a level, the better one stays. The best of all levels are the
    proposals.

    Args:
      logits: (N,) for all anchors, levels laid end to end.
      codes: (N, 4).
      anchors: (N_i, 4) of each level.
      size: (2,) height and width of the image without padding.
      pre_nms: how many anchors of each level are decoded.
      post_nms: how many proposals there are at most.
      settings: the smallest size and the largest overlap are taken from it.
    """
    boxes, scores, levels, start = [], [], [], 0
    for place, level in enumerate(anchors):
        stop = start + len(level)
        best, index = jax.lax.top_k(logits[start:stop], min(pre_nms, len(level)))
        boxes.append(decode_boxes(codes[start:stop][index], jnp.asarray(level)[index]))
        scores.append(nnx.sigmoid(best))
        levels.append(jnp.full(best.size, place))
        start = stop
    boxes = clip_boxes_to_image(jnp.concatenate(boxes), jnp.asarray(size))
    scores = jnp.concatenate(scores)
    index, number = batched_nms(
        boxes,
        scores,
        jnp.concatenate(levels),
        settings.proposal_iou,
        valid=is_large(boxes, settings.proposal_min_size),
        max_outputs=post_nms,
    )
    valid = jnp.arange(index.size) < number
    index = jnp.minimum(index, scores.size - 1)
    return Proposals(
        boxes=jnp.where(valid[:, None], boxes[index], 0),
        scores=jnp.where(valid, scores[index], 0),
        valid=valid,
    )


class DrawnAnchors(NamedTuple):
    """The anchors of an image that the loss of the region proposal network sees.

    Attributes:
      labels: (N,) int: 1 for an anchor of an object, 0 for background, and -1 for an anchor that
        the loss does not see.
      targets: (N, 4) the codes of the objects' boxes.
    """

    labels: jax.Array
    targets: jax.Array


def sample_anchors(
    key: jax.Array,
    anchors: ArrayLike,
    boxes: jax.Array,
    valid: jax.Array,
    size: ArrayLike,
    *,
    settings: Settings,
) -> DrawnAnchors:
    """Assigns the anchors of one image to its objects and draws those that the loss sees.

    Args:
      key: the random key of the draw.
      anchors: (N, 4) of all levels.
      boxes: (G, 4) of the objects.
      valid: (G,) bool, False where there is no object.
      size: (2,) height and width of the image without padding.
      settings: the thresholds and numbers.
    """
    anchors = jnp.asarray(anchors)
    # Padding may hold anything, but what is computed from it must be finite.
    boxes = jnp.where(valid[:, None], boxes, 0)
    low, high = settings.anchor_iou
    iou = box_iou(anchors, boxes)
    inside = jnp.ones(anchors.shape[0], bool)
    if settings.anchors_inside_only:
        height, width = jnp.asarray(size)
        inside = (anchors[:, :2] >= 0).all(1)
        inside &= (anchors[:, 2] <= width) & (anchors[:, 3] <= height)
        # An anchor outside must not be an object's best one either.
        iou = jnp.where(inside[:, None], iou, -1)
    matched = match_boxes(
        iou,
        valid,
        high_threshold=high,
        low_threshold=low,
        allow_low_quality_matches=True,
        min_quality=settings.anchor_min_iou,
    )
    positive, negative = sample_balanced(
        key,
        (matched >= 0) & inside,
        (matched == BELOW_LOW_THRESHOLD) & inside,
        batch_size_per_image=settings.anchor_samples,
        positive_fraction=settings.anchor_positives,
    )
    labels = jnp.where(positive, 1, jnp.where(negative, 0, -1))
    return DrawnAnchors(labels, encode_boxes(boxes[jnp.maximum(matched, 0)], anchors))
