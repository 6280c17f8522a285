"""Targets: the objects of images, padded to a fixed number of places for training."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from examples.training.errors import SettingError


def stack_targets(
    targets: Sequence[Mapping[str, ArrayLike]], max_objects: int
) -> dict[str, np.ndarray]:
    """Stacks the objects of the images of a batch.

    Args:
      targets: for each image ``boxes`` (G, 4), ``labels`` (G,) from 1 and, for a detector with
        masks, ``masks`` (G, h, w) of zeros and ones. A mask covers the padded image, or the box
        in ``mask_frames`` (G, 4). G may differ, and may be 0.
      max_objects: the number of places for the objects of an image, at least 1.

    Returns:
      The same arrays with ``max_objects`` places after the axis of the images, and ``valid``,
      which is False in places without an object.

    Raises:
      SettingError: an image has more objects than places, or ``max_objects`` is below 1.
      ValueError: there is no image, the arrays of an image do not fit together or to those of the
        first image, or an object cannot be: its label is not a whole number from 1 on, its box is
        not finite or is turned around, or its mask has other numbers than 0 to 1.
    """
    if max_objects < 1:
        raise SettingError(f"--max-objects must be at least 1, not {max_objects}")
    if not targets:
        raise ValueError("a batch needs at least one image")
    rows = []
    for image, target in enumerate(targets):
        if not {"boxes", "labels"} <= target.keys() == targets[0].keys():
            raise ValueError(
                f"image {image} has {', '.join(sorted(target)) or 'nothing'}: each image of a batch "
                "needs boxes and labels, and masks if any image has masks"
            )
        objects = _check_objects(image, target)
        number = len(objects["labels"])
        if number > max_objects:
            raise SettingError(
                f"image {image} of the batch has {number} objects, and there are places for "
                f"{max_objects}: raise --max-objects"
            )
        row = {
            name: np.concatenate(
                [value, np.zeros((max_objects - number, *value.shape[1:]), value.dtype)]
            )
            for name, value in objects.items()
        }
        for name, value in row.items():
            if rows and value.shape != rows[0][name].shape:
                raise ValueError(
                    f"the {name} of image {image} are {value.shape[1:]}, and those of image 0 "
                    f"{rows[0][name].shape[1:]}: all images of a batch have the same padded size"
                )
        rows.append({**row, "valid": np.arange(max_objects) < number})
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _check_objects(image: int, target: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    """Returns the arrays of an image. Boxes are floating-point numbers, and labels are int32."""
    objects = {name: np.asarray(value) for name, value in target.items()}
    labels = objects["labels"]
    number = labels.size
    if labels.ndim != 1:
        raise ValueError(f"image {image}: labels must be one number for each object")
    for name, value in objects.items():
        if len(value) != number:
            raise ValueError(f"image {image} has {number} labels, but {len(value)} {name}")
    # An image without objects may have an empty list of boxes, whose shape and dtype are others.
    boxes = objects["boxes"] if number else np.zeros((0, 4), np.float32)
    if boxes.shape != (number, 4):
        raise ValueError(f"image {image}: boxes must be ({number}, 4), not {boxes.shape}")
    if number and not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"image {image}: labels must be whole numbers, not {labels.dtype}")
    if (labels < 1).any():
        raise ValueError(f"image {image}: labels must be from 1 on, since 0 is the background")
    if not np.isfinite(boxes).all():
        raise ValueError(f"image {image}: boxes must be finite numbers")
    turned = np.flatnonzero((boxes[:, 2:] < boxes[:, :2]).any(1))
    if turned.size:
        raise ValueError(
            f"image {image}: box {turned[0]} is {boxes[turned[0]].tolist()}, whose second corner is "
            "before the first: boxes are (x1, y1, x2, y2), not (x, y, width, height)"
        )
    masks = objects.get("masks")
    if masks is not None and not ((masks >= 0) & (masks <= 1)).all():
        raise ValueError(f"image {image}: masks must be from 0 to 1: divide those of 255 by it")
    if not np.issubdtype(boxes.dtype, np.floating):
        boxes = boxes.astype(np.float32)
    return {**objects, "boxes": boxes, "labels": labels.astype(np.int32)}
