"""Masks: from objects to the grid that the mask head predicts, and back into the image.

Both are bilinear, so each is a product of the mask with one matrix for its rows and one for its
columns.
"""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from examples.detection.roi_align import roi_align


def project_masks_on_boxes(
    gt_masks: ArrayLike,
    boxes: ArrayLike,
    matched_idxs: ArrayLike,
    output_size: int = 28,
    *,
    frames: ArrayLike | None = None,
    aligned: bool = False,
) -> jax.Array:
    """Makes the targets of the mask head from the masks of one image.

    Args:
      gt_masks: (G, H, W), from 0 to 1 or bool.
      boxes: (R, 4) in pixels of the image, for which the head predicts masks.
      matched_idxs: (R,) int, the object of each box.
      output_size: rows and columns of a target.
      frames: (G, 4), the box in the image that each mask covers. By default each covers the
        image, with one number a pixel.
      aligned: as in `roi_align`, where the pixels are those of the image. torchvision's targets
        are not aligned, half a pixel away from the grid on which masks are pasted. In small images
        that costs accuracy.

    Returns:
      (R, output_size, output_size): the share of each cell that the object covers.
    """
    masks, boxes = jnp.asarray(gt_masks), jnp.asarray(boxes)
    dtype = jnp.promote_types(boxes.dtype, jnp.float32)
    pool = functools.partial(roi_align, output_size=output_size, sampling_ratio=0)

    def project(box, index):
        mask = masks[index][..., None].astype(dtype)
        if frames is None:
            return pool(mask, box[None], aligned=aligned)[0, ..., 0]
        if not aligned:
            # What `roi_align` does with boxes that are not aligned, in pixels of the image.
            box = jnp.concatenate([box[:2], jnp.maximum(box[2:], box[:2] + 1)]) + 0.5
        box = _move_into_frame(box, jnp.asarray(frames)[index], masks.shape[1:])
        return pool(mask, box[None], aligned=True)[0, ..., 0]

    return jax.vmap(project)(boxes, jnp.asarray(matched_idxs))


def _move_into_frame(box: jax.Array, frame: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Returns a box in pixels of a mask of some height and width that covers a frame."""
    x1, y1, x2, y2 = frame
    x_scale = size[1] / jnp.where(x2 > x1, x2 - x1, 1)
    y_scale = size[0] / jnp.where(y2 > y1, y2 - y1, 1)
    corner = jnp.stack([x1, y1, x1, y1])
    return (box - corner) * jnp.stack([x_scale, y_scale, x_scale, y_scale])


def paste_masks(
    masks: ArrayLike, boxes: ArrayLike, size: tuple[int, int], *, aligned: bool = False
) -> jax.Array:
    """Puts the masks of detections into the image, as torchvision does.

    Args:
      masks: (N, M, M), the probabilities in each box.
      boxes: (N, 4) in pixels of the image.
      size: height and width of the image. Each new size is compiled again. A larger size gives
        the same numbers, with zeros at right and bottom, so sizes can be rounded up.
      aligned: keep fractions of pixels. torchvision rounds the boxes to whole pixels, and moves a
        mask by up to a pixel. In small images that costs accuracy.

    Returns:
      (N, height, width) probabilities. They are 0 outside of the boxes, which count as wider and
      higher by 1/M on each side, and are then rounded to whole pixels unless they are aligned. An
      object is where they are above 0.5.

    Raises:
      ValueError: the arrays have other shapes.
    """
    masks, boxes = jnp.asarray(masks), jnp.asarray(boxes)
    if masks.ndim != 3 or boxes.shape != (len(masks), 4):
        raise ValueError(f"masks (N, M, M) need boxes (N, 4), not {masks.shape} and {boxes.shape}")
    boxes = boxes.astype(jnp.promote_types(boxes.dtype, jnp.float32))
    return _paste(masks, boxes, (int(size[0]), int(size[1])), aligned)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _paste(masks: jax.Array, boxes: jax.Array, size: tuple[int, int], aligned: bool) -> jax.Array:
    cells = masks.shape[-1]
    stretch = _stretch_aligned if aligned else _stretch
    rows = stretch(boxes[:, 1], boxes[:, 3], cells, size[0])
    columns = stretch(boxes[:, 0], boxes[:, 2], cells, size[1])
    highest = jax.lax.Precision.HIGHEST
    pasted = jnp.einsum("nyi,nij->nyj", rows, masks, precision=highest)
    return jnp.einsum("nyj,nxj->nyx", pasted, columns, precision=highest)


def _stretch(low: jax.Array, high: jax.Array, cells: int, size: int) -> jax.Array:
    """Returns the weight (N, size, cells) of each cell of a mask in each row of the image."""
    # The mask gets a border of one empty cell.
    centre, half = (low + high) * 0.5, (high - low) * 0.5 * (cells + 2) / cells
    error = 2 * jnp.finfo(low.dtype).eps * (jnp.abs(centre) + jnp.abs(half))
    first, last = _truncate(centre - half, error), _truncate(centre + half, error)
    length = jnp.maximum(last - first + 1, 1)[:, None]
    pixel = jnp.arange(size, dtype=low.dtype)[None] - first[:, None]
    inside = (pixel >= 0) & (pixel < length)
    position = (jnp.where(inside, pixel, 0) + 0.5) * (cells + 2) / length - 0.5
    position = jnp.clip(position, 0, cells + 1)[..., None]
    cell = jnp.arange(1, cells + 1, dtype=low.dtype)[None, None]
    weight = jnp.maximum(1 - jnp.abs(position - cell), 0)
    return jnp.where(inside[..., None], weight, 0)


def _stretch_aligned(low: jax.Array, high: jax.Array, cells: int, size: int) -> jax.Array:
    """Does the same with boxes that are not rounded."""
    centre = jnp.arange(size, dtype=low.dtype)[None] + 0.5
    length = jnp.where(high > low, high - low, 1)
    # The first cell of the mask has its centre at 0.
    position = (centre - low[:, None]) * (cells / length)[:, None] - 0.5
    cell = jnp.arange(cells, dtype=low.dtype)[None, None]
    return jnp.maximum(1 - jnp.abs(position[..., None] - cell), 0)


def _truncate(x: jax.Array, error: jax.Array) -> jax.Array:
    """Rounds toward zero, but numbers that an error of rounding keeps from a whole one to that.

    XLA replaces quotients by products and joins products and sums. So what is exactly 4 without
    these changes could be 3.9999998 with them, and the mask would move by a pixel.
    """
    nearest = jnp.round(x)
    return jnp.where(jnp.abs(x - nearest) <= error, nearest, jnp.trunc(x))
