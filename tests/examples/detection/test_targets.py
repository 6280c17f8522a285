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


def without_masks(number):
    return {name: x for name, x in make_target(number).items() if name != "masks"}


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([], "at least one image"),
        ([{"boxes": np.ones((2, 4))}], "image 0 has boxes: each image"),
        ([make_target(2), without_masks(2)], "image 1 has boxes, labels: each image"),
        ([{**make_target(2), "masks": np.ones((1, 2, 3))}], "image 0 has 2 labels, but 1 masks"),
        ([{**make_target(2), "boxes": np.ones((2, 5))}], r"boxes must be \(2, 4\), not \(2, 5\)"),
        ([{**make_target(2), "labels": np.ones((2, 1), int)}], "one number for each object"),
        (
            [make_target(2), {**make_target(1), "masks": np.ones((1, 2, 4))}],
            r"the masks of image 1 are \(2, 4\), and those of image 0 \(2, 3\)",
        ),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(targets, message):
    with pytest.raises(ValueError, match=message):
        stack_targets(targets, 3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": [1, 0]}, "labels must be from 1 on"),
        ({"labels": [1.0, 2.0]}, "labels must be whole numbers, not float64"),
        ({"boxes": np.full((2, 4), np.nan)}, "boxes must be finite"),
        (
            {"boxes": [[0, 0, 1, 1], [5, 5, 9, 2]]},
            r"box 1 is \[5, 5, 9, 2\], .* not \(x, y, width, height\)",
        ),
        ({"masks": np.full((2, 2, 3), 255)}, "masks must be from 0 to 1"),
        ({"masks": np.full((2, 2, 3), np.nan)}, "masks must be from 0 to 1"),
    ],
)
def test_objects_that_cannot_be_are_refused(arrays, message):
    with pytest.raises(ValueError, match=f"image 1: {message}"):
        stack_targets([make_target(1), {**make_target(2), **arrays}], 3)


def test_the_empty_lists_of_an_image_without_objects_do_not_change_the_dtypes():
    full = {"boxes": [[1, 2, 3, 4]], "labels": [7]}
    batch = stack_targets([full, {"boxes": [], "labels": []}], 2)
    assert batch["boxes"].tolist() == [[[1, 2, 3, 4], [0] * 4], [[0] * 4] * 2]
    assert (batch["boxes"].dtype, batch["labels"].dtype) == (np.float32, np.int32)
    assert batch["valid"].tolist() == [[True, False], [False, False]]
