"""The objects of images are padded to a fixed number of places."""

import numpy as np
import pytest

from examples.detection.targets import stack_targets
from examples.training.errors import SettingError


def make_target(number):
    return {
        "boxes": np.ones((number, 4), np.float32),
        "labels": np.arange(1, number + 1),
        "masks": np.ones((number, 2, 3), np.uint8),
    }


def test_places_without_an_object_are_zero_and_not_valid():
    batch = stack_targets([make_target(2), make_target(0)], 3)
    assert {name: x.shape for name, x in batch.items()} == {
        "boxes": (2, 3, 4),
        "labels": (2, 3),
        "masks": (2, 3, 2, 3),
        "valid": (2, 3),
    }
    assert batch["valid"].tolist() == [[True, True, False], [False] * 3]
    assert batch["labels"].tolist() == [[1, 2, 0], [0, 0, 0]]
    assert batch["boxes"].sum() == 8
    assert batch["masks"].dtype == np.uint8


def test_too_many_objects_are_an_error_that_names_the_flag():
    message = "image 1 of the batch has 4 objects, and there are places for 3: raise --max-objects"
    with pytest.raises(SettingError, match=message):
        stack_targets([make_target(3), make_target(4)], 3)
    with pytest.raises(SettingError, match="--max-objects must be at least 1, not 0"):
        stack_targets([make_target(0)], 0)


def test_arrays_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="image 0 has 2 labels, but 1 masks"):
        stack_targets([{**make_target(2), "masks": np.ones((1, 2, 3))}], 3)
    with pytest.raises(ValueError, match=r"boxes must be \(2, 4\), not \(2, 5\)"):
        stack_targets([{**make_target(2), "boxes": np.ones((2, 5))}], 3)
    without = {name: x for name, x in make_target(2).items() if name != "masks"}
    with pytest.raises(ValueError, match="image 1 has boxes, labels: each image"):
        stack_targets([make_target(2), without], 3)
    with pytest.raises(ValueError, match="image 0 has boxes: each image"):
        stack_targets([{"boxes": np.ones((2, 4))}], 3)
    with pytest.raises(ValueError, match="at least one image"):
        stack_targets([], 3)


def test_objects_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="image 0: labels must be from 1 on"):
        stack_targets([{**make_target(2), "labels": np.array([1, 0])}], 3)
    with pytest.raises(ValueError, match="image 0: boxes must be finite"):
        stack_targets([{**make_target(2), "boxes": np.full((2, 4), np.nan)}], 3)
