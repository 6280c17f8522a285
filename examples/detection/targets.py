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
      ValueError: there is no image, the arrays of an image do not fit together, or an object has
        label 0 or a box that is not finite.
    """
    if max_objects < 1:
        raise SettingError(f"--max-objects must be at least 1, not {max_objects}")
    if not targets:
        raise ValueError("a batch needs at least one image")
    rows = []
    for image, target in enumerate(targets):
        target = {name: np.asarray(value) for name, value in target.items()}
        if not {"boxes", "labels"} <= target.keys() == targets[0].keys():
            raise ValueError(
                f"image {image} has {', '.join(sorted(target)) or 'nothing'}: each image of a batch "
                "needs boxes and labels, and masks if any image has masks"
            )
        number = len(target["labels"])
        for name, value in target.items():
            if len(value) != number:
                raise ValueError(f"image {image} has {number} labels, but {len(value)} {name}")
        if target["boxes"].shape != (number, 4):
            raise ValueError(
                f"image {image}: boxes must be ({number}, 4), not {target['boxes'].shape}"
            )
        if (target["labels"] < 1).any():
            raise ValueError(f"image {image}: labels must be from 1 on, since 0 is the background")
        if not np.isfinite(target["boxes"]).all():
            raise ValueError(f"image {image}: boxes must be finite numbers")
        if number > max_objects:
            raise SettingError(
                f"image {image} of the batch has {number} objects, and there are places for "
                f"{max_objects}: raise --max-objects"
            )
        padded = {
            name: np.concatenate(
                [value, np.zeros((max_objects - number, *value.shape[1:]), value.dtype)]
            )
            for name, value in target.items()
        }
        rows.append({**padded, "valid": np.arange(max_objects) < number})
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
