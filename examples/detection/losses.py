"""The losses of both stages and of the mask head.

Each is a sum over all images of a batch, divided by the number of what it counts. What it does
not count may hold any numbers, also NaN: neither the loss nor its gradient depends on them. If
nothing is counted, the loss is 0.
"""

import jax
import jax.numpy as jnp
import optax


def smooth_l1_loss(pred: jax.Array, target: jax.Array, beta: float) -> jax.Array:
    """Returns the loss of each number: quadratic up to `beta`, linear beyond, with slope 1."""
    return optax.losses.huber_loss(pred, target, delta=beta) / beta


def rpn_loss(
    objectness: jax.Array,
    pred_bbox_deltas: jax.Array,
    labels: jax.Array,
    regression_targets: jax.Array,
    *,
    beta: float = 1 / 9,
) -> tuple[jax.Array, jax.Array]:
    """Returns the losses of the region proposal network.

    Args:
      objectness: (...), the logit of each anchor, of all images.
      pred_bbox_deltas: (..., 4), the predicted codes.
      labels: (...): 1 for an object, 0 for background, -1 for anchors that do not count.
      regression_targets: (..., 4), the codes of the objects.
      beta: that of `smooth_l1_loss`.

    Returns:
      The loss of objectness and that of boxes. Both are divided by the number of anchors that
      count, with and without an object.
    """
    positive, counted = labels == 1, labels >= 0
    number = jnp.maximum(counted.sum(), 1)
    logits, classes = jnp.where(counted, objectness, 0), positive.astype(objectness.dtype)
    loss = optax.losses.sigmoid_binary_cross_entropy(logits, classes)
    objectness_loss = jnp.where(counted, loss, 0).sum() / number
    box_loss = _sum_of_boxes(pred_bbox_deltas, regression_targets, positive, beta) / number
    return objectness_loss, box_loss


def fastrcnn_loss(
    class_logits: jax.Array,
    box_regression: jax.Array,
    labels: jax.Array,
    regression_targets: jax.Array,
    valid: jax.Array,
    *,
    beta: float = 1 / 9,
) -> tuple[jax.Array, jax.Array]:
    """Returns the losses of the box head.

    Args:
      class_logits: (..., C) of each region of all images. Class 0 is the background.
      box_regression: (..., C, 4), the predicted codes for each class.
      labels: (...) int, the class of each region.
      regression_targets: (..., 4), the codes of the objects.
      valid: (...) bool, which regions count.
      beta: that of `smooth_l1_loss`.

    Returns:
      The loss of classes and that of boxes. Both are divided by the number of valid regions.
    """
    number = jnp.maximum(valid.sum(), 1)
    labels = jnp.where(valid, labels, 0)
    logits = jnp.where(valid[..., None], class_logits, 0)
    loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    class_loss = jnp.where(valid, loss, 0).sum() / number
    index = labels[..., None, None]
    deltas = jnp.take_along_axis(box_regression, index, axis=-2).squeeze(-2)
    box_loss = _sum_of_boxes(deltas, regression_targets, labels > 0, beta) / number
    return class_loss, box_loss


def maskrcnn_loss(
    mask_logits: jax.Array, labels: jax.Array, mask_targets: jax.Array, valid: jax.Array
) -> jax.Array:
    """Returns the loss of the mask head: the mean over the cells of all valid regions.

    Args:
      mask_logits: (..., M, M, C) of each region of all images.
      labels: (...) int, the class of each region. Only its masks count.
      mask_targets: (..., M, M), from 0 to 1, from `project_masks_on_boxes`.
      valid: (...) bool, which regions count.
    """
    cells = mask_targets.shape[-2] * mask_targets.shape[-1]
    index = jnp.where(valid, labels, 0)[..., None, None, None]
    logits = jnp.take_along_axis(mask_logits, index, axis=-1).squeeze(-1)
    counted = valid[..., None, None]
    loss = optax.losses.sigmoid_binary_cross_entropy(
        jnp.where(counted, logits, 0), jnp.where(counted, mask_targets, 0)
    )
    return jnp.where(counted, loss, 0).sum() / (jnp.maximum(valid.sum(), 1) * cells)


def _sum_of_boxes(
    deltas: jax.Array, targets: jax.Array, counted: jax.Array, beta: float
) -> jax.Array:
    counted = counted[..., None]
    deltas, targets = jnp.where(counted, deltas, 0), jnp.where(counted, targets, 0)
    return smooth_l1_loss(deltas, targets, beta).sum()
