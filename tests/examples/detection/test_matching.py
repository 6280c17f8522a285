"""Matching equals torchvision's, also for padding and for objects that share their best anchor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.detection.boxes import box_iou
from examples.detection.matching import (
    BELOW_LOW_THRESHOLD,
    BETWEEN_THRESHOLDS,
    match_boxes,
)
from tests.examples.detection.references import load_arrays

match = jax.jit(
    match_boxes,
    static_argnames=("high_threshold", "low_threshold", "allow_low_quality_matches", "min_quality"),
)
rpn = {"high_threshold": 0.7, "low_threshold": 0.3, "allow_low_quality_matches": True}


@pytest.mark.parametrize("rules", ["lowq", "plain"])
@pytest.mark.parametrize("thresholds", ["0.7_0.3", "0.5_0.5"])
@pytest.mark.parametrize("size", ["small", "larger"])
def test_matches_equal_those_of_torchvision(size, thresholds, rules):
    arrays = load_arrays("op_matcher")
    case = f"{size}_{thresholds}_{rules}"
    objects = arrays[f"{case}/gt"]
    high, low = map(float, thresholds.split("_"))
    matches = match(
        box_iou(arrays[f"{case}/anchors"], objects),
        jnp.ones(len(objects), bool),
        high_threshold=high,
        low_threshold=low,
        allow_low_quality_matches=rules == "lowq",
    )
    np.testing.assert_array_equal(matches, arrays[f"{case}/matches"])


def test_anchor_that_is_best_for_two_objects_keeps_its_own_best():
    arrays = load_arrays("op_matcher")
    quality = arrays["matrix_conflict/quality"].T
    matches = match(quality, jnp.ones(4, bool), **rpn)
    np.testing.assert_array_equal(matches, arrays["matrix_conflict/matches"])
    # The last object overlaps nothing. So without a smallest overlap every anchor is matched.
    assert (matches >= 0).all()
    matches = match(quality, jnp.ones(4, bool), min_quality=0.3, **rpn)
    assert (matches < 0).any()


@pytest.mark.parametrize("image", [0, 1, 2])
@pytest.mark.parametrize("garbage", [0.0, np.nan, 1e30])
def test_assignment_equals_that_of_torchvision_whatever_the_padding_holds(image, garbage):
    # Image 1 has no object, image 2 has the same object twice.
    arrays = load_arrays("assignment")
    anchors, objects = arrays["anchors"], arrays[f"gt_{image}"]
    padded = np.full((9, 4), garbage, np.float32)
    padded[: len(objects)] = objects
    valid = jnp.arange(9) < len(objects)
    with jax.numpy_rank_promotion("raise"):
        matches = match(box_iou(anchors, padded), valid, **rpn)
    # torchvision's labels of anchors: 1, 0, and -1 for those between the thresholds.
    labels = np.where(matches >= 0, 1, np.where(matches == BETWEEN_THRESHOLDS, -1, 0))
    np.testing.assert_array_equal(labels, arrays["rpn_labels"][image])
    matched_boxes = padded[np.maximum(matches, 0)][labels == 1]
    expected = arrays[f"rpn_matched_boxes_{image}"][labels == 1]
    np.testing.assert_array_equal(matched_boxes, expected)

    matches = match(box_iou(anchors, padded), valid, high_threshold=0.5, low_threshold=0.5)
    positive = arrays["roi_labels"][image] > 0
    np.testing.assert_array_equal(matches >= 0, positive)
    np.testing.assert_array_equal(
        np.asarray(matches)[positive], arrays["roi_matched"][image][positive]
    )


def test_everything_is_background_without_an_object():
    for objects in (0, 3):
        matches = match(jnp.zeros((5, objects)), jnp.zeros(objects, bool), **rpn)
        np.testing.assert_array_equal(matches, [BELOW_LOW_THRESHOLD] * 5)


def test_overlap_at_the_threshold_is_a_match():
    iou = jnp.array([[0.75], [0.5], [0.25]])
    matches = match(iou, jnp.ones(1, bool), high_threshold=0.75, low_threshold=0.5)
    np.testing.assert_array_equal(matches, [0, BETWEEN_THRESHOLDS, BELOW_LOW_THRESHOLD])
