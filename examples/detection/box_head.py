"""The box head (Girshick 2015, Fast R-CNN): the class and the exact box of each region."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
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
from examples.detection.conv_norm import ConvNorm, four_convs
from examples.detection.matching import BELOW_LOW_THRESHOLD, match_boxes
from examples.detection.rpn import Proposals
from examples.detection.sampling import sample_balanced
from examples.detection.settings import Settings


class TwoFC(nnx.Module):
    """Two linear layers with ReLU. Kernels start with Glorot's uniform initialization.

    Args:
      features: the channels of the pyramid.
      pool: the height and width of the pooled features.
      units: the outputs of each layer.
      dtype: the dtype of the computation; None is that of the input and the parameters.
      rngs: the seed of the parameters.
    """

    def __init__(
        self, features: int, pool: int, units: int, *, dtype: DTypeLike | None, rngs: nnx.Rngs
    ):
        linear = _make_linear(dtype, rngs)
        self.fc6 = linear(pool * pool * features, units)
        self.fc7 = linear(units, units)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features (..., units) of pooled features (..., pool, pool, features)."""
        x = x.reshape(*x.shape[:-3], -1)
        return nnx.relu(self.fc7(nnx.relu(self.fc6(x))))


class FourConvOneFC(nnx.Module):
    """Four 3x3 convolutions and one linear layer, each with ReLU.

    Kernels of the convolutions start with Kaiming's normal initialization by fan-out, and that
    of the linear layer with Glorot's uniform one.

    Args:
      features: the channels of the pyramid and of the convolutions.
      pool: the height and width of the pooled features.
      units: the outputs of the linear layer.
      conv: makes a `ConvNorm` from the two numbers of channels and the size of the kernel.
      dtype: the dtype of the computation; None is that of the input and the parameters.
      rngs: the seed of the parameters.
    """

    def __init__(
        self,
        features: int,
        pool: int,
        units: int,
        *,
        conv: Callable[..., ConvNorm],
        dtype: DTypeLike | None,
        rngs: nnx.Rngs,
    ):
        self.convs = four_convs(conv, features, rngs=rngs)
        self.fc = _make_linear(dtype, rngs)(pool * pool * features, units)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features (..., units) of pooled features (..., pool, pool, features)."""
        for conv in self.convs:
            x = nnx.relu(conv(x))
        return nnx.relu(self.fc(x.reshape(*x.shape[:-3], -1)))


class BoxPredictor(nnx.Module):
    """Class logits and, for each class, the code of a box.

    Kernels start from N(0, 0.01²) for the classes and N(0, 0.001²) for the boxes.

    Args:
      units: the number of inputs.
      num_classes: the number of classes, with the background as class 0.
      dtype: the dtype of the computation; None is that of the input and the parameters.
      rngs: the seed of the parameters.
    """

    def __init__(self, units: int, num_classes: int, *, dtype: DTypeLike | None, rngs: nnx.Rngs):
        linear = functools.partial(nnx.Linear, units, dtype=dtype, rngs=rngs)
        self.cls_score = linear(num_classes, kernel_init=nnx.initializers.normal(0.01))
        self.bbox_pred = linear(4 * num_classes, kernel_init=nnx.initializers.normal(0.001))

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns logits (..., num_classes) and codes (..., num_classes, 4) of features (..., units).

        Their dtype is float32 or float64.
        """
        logits, codes = self.cls_score(x), self.bbox_pred(x)
        dtype = jnp.promote_types(logits.dtype, jnp.float32)
        codes = codes.reshape(*codes.shape[:-1], -1, 4)
        return logits.astype(dtype), codes.astype(dtype)


class Rois(NamedTuple):
    """The regions of an image with which the heads are trained. Those of objects are in front.

    Attributes:
      boxes: (S, 4).
      labels: (S,) the class of the object, or 0 for background.
      matched: (S,) the index of the object; it has a meaning only where the label is not 0.
      targets: (S, 4) the code of the object's box.
      valid: (S,) bool. The places at the end that hold no region are False.
    """

    boxes: jax.Array
    labels: jax.Array
    matched: jax.Array
    targets: jax.Array
    valid: jax.Array


def sample_rois(
    key: jax.Array,
    proposals: Proposals,
    boxes: jax.Array,
    labels: jax.Array,
    valid: jax.Array,
    *,
    settings: Settings,
) -> Rois:
    """Assigns the proposals of one image to its objects and draws those that the losses see.

    The objects' own boxes are added to the proposals.

    Args:
      key: the random key of the draw.
      proposals: the proposals of the image.
      boxes: (G, 4) of the objects.
      labels: (G,) their classes, from 1.
      valid: (G,) bool, False where there is no object.
      settings: the thresholds and numbers.

    Returns:
      ``settings.roi_samples`` regions. At most the share ``settings.roi_positives`` of them
      are regions of objects, and those fill the first places.
    """
    # Padding may hold anything, but what is computed from it must be finite.
    boxes = jnp.where(valid[:, None], boxes, 0)
    usable = jnp.concatenate([proposals.valid, valid])
    candidates = jnp.concatenate([proposals.boxes, boxes])
    candidates = jnp.where(usable[:, None], candidates, 0)
    low, high = settings.roi_iou
    matched = match_boxes(box_iou(candidates, boxes), valid, high_threshold=high, low_threshold=low)
    positive, negative = sample_balanced(
        key,
        (matched >= 0) & usable,
        (matched == BELOW_LOW_THRESHOLD) & usable,
        batch_size_per_image=settings.roi_samples,
        positive_fraction=settings.roi_positives,
    )
    rank = jnp.where(positive, 0, jnp.where(negative, 1, 2))
    missing = max(settings.roi_samples - rank.size, 0)
    order = jnp.argsort(jnp.pad(rank, (0, missing), constant_values=2), stable=True)
    order = order[: settings.roi_samples]
    # Places beyond the candidates are not valid, so it does not matter what they hold.
    index = jnp.minimum(order, rank.size - 1)
    valid = (order < rank.size) & (rank[index] < 2)
    positive = valid & positive[index]
    matched = jnp.maximum(matched[index], 0)
    return Rois(
        boxes=candidates[index],
        labels=jnp.where(positive, labels[matched], 0),
        matched=matched,
        targets=encode_boxes(boxes[matched], candidates[index], settings.box_weights),
        valid=valid,
    )


class Detections(NamedTuple):
    """The objects found in a batch of images, best first.

    Attributes:
      boxes: (B, D, 4), inside the image.
      scores: (B, D) probabilities.
      labels: (B, D) classes, from 1; 0 where there is no detection.
      valid: (B, D) bool. The places at the end that hold no detection are False.
    """

    boxes: jax.Array
    scores: jax.Array
    labels: jax.Array
    valid: jax.Array


def select_detections(
    logits: jax.Array,
    codes: jax.Array,
    proposals: Proposals,
    sizes: jax.Array,
    *,
    settings: Settings,
) -> Detections:
    """Chooses the detections of a batch of images, as torchvision does.

    Every region is a candidate for every class. Those with too small a score or box are left
    out. Of those of a class that overlap, the better one stays.

    Args:
      logits: (B, R, num_classes).
      codes: (B, R, num_classes, 4).
      proposals: the regions (B, R), by image.
      sizes: (B, 2) height and width of each image without padding.
      settings: the thresholds and numbers.

    Returns:
      ``settings.detections`` places for each image, or fewer if there are fewer candidates.
    """
    select = functools.partial(_select_detections_of_image, settings=settings)
    return jax.vmap(select)(logits, codes, proposals, sizes)


def _select_detections_of_image(
    logits: jax.Array,
    codes: jax.Array,
    proposals: Proposals,
    size: ArrayLike,
    *,
    settings: Settings,
) -> Detections:
    regions, classes = logits.shape
    total = regions * (classes - 1)
    boxes = decode_boxes(codes, proposals.boxes[:, None], settings.box_weights)
    boxes = clip_boxes_to_image(boxes[:, 1:], jnp.asarray(size))
    scores = nnx.softmax(logits)[:, 1:]
    usable = proposals.valid[:, None] & is_large(boxes, settings.detection_min_size)
    usable &= scores > settings.score_threshold
    labels = jnp.broadcast_to(jnp.arange(1, classes)[None], scores.shape)
    boxes, scores, labels = boxes.reshape(total, 4), scores.reshape(total), labels.reshape(total)
    index, number = batched_nms(
        boxes,
        scores,
        labels,
        settings.detection_iou,
        valid=usable.reshape(total),
        max_outputs=settings.detections,
    )
    valid = jnp.arange(index.size) < number
    index = jnp.minimum(index, total - 1)
    return Detections(
        boxes=jnp.where(valid[:, None], boxes[index], 0),
        scores=jnp.where(valid, scores[index], 0),
        labels=jnp.where(valid, labels[index], 0),
        valid=valid,
    )


def _make_linear(dtype: DTypeLike | None, rngs: nnx.Rngs) -> Callable[[int, int], nnx.Linear]:
    init = nnx.initializers.xavier_uniform()
    return functools.partial(nnx.Linear, kernel_init=init, dtype=dtype, rngs=rngs)
