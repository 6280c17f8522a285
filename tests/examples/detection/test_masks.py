"""Mask targets and pasted masks equal torchvision's, and have the right properties."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.detection.data import crop_mask
from examples.detection.masks import paste_masks, project_masks_on_boxes
from tests.examples.detection.references import load_arrays

paste = jax.jit(paste_masks, static_argnames="size")
project = jax.jit(project_masks_on_boxes, static_argnames=("output_size", "aligned"))


def test_pasted_probabilities_equal_those_of_torchvision():
    arrays = load_arrays("op_paste_masks")
    pasted = paste(arrays["paste/masks"][:, 0], arrays["paste/boxes"], size=(64, 80))
    np.testing.assert_allclose(pasted, arrays["paste/out"][:, 0], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(pasted > 0.5, arrays["paste/binary"][:, 0])


@pytest.mark.parametrize("size", [(64, 80), (97, 53)])
def test_pasted_masks_equal_those_of_torchvision_for_boxes_of_any_kind(size):
    # The whole image, larger than it, below a pixel, partly outside, empty, of 28 pixels.
    arrays = load_arrays(f"paste_{size[0]}x{size[1]}")
    pasted = np.asarray(paste(arrays["masks"], arrays["boxes"], size=size))
    expected = np.unpackbits(arrays["pasted"], axis=-1, count=size[1]).astype(bool)
    np.testing.assert_array_equal(pasted > 0.5, expected)
    sums = pasted.sum((1, 2), dtype=np.float64)
    np.testing.assert_allclose(sums, arrays["sums"], rtol=1e-5, atol=1e-3)


def test_larger_image_has_the_same_masks_and_zeros():
    arrays = load_arrays("paste_64x80")
    small = np.asarray(paste(arrays["masks"], arrays["boxes"], size=(64, 80)))
    large = np.asarray(paste(arrays["masks"], arrays["boxes"], size=(96, 96)))
    np.testing.assert_array_equal(large[:, :64, :80], small)


def test_padding_of_any_numbers_changes_no_other_mask():
    boxes = np.array([[2, 2, 9, 9], [np.nan] * 4, [-1e30, -1e30, 1e30, 1e30], [0] * 4], np.float32)
    pasted = np.asarray(paste(np.ones((4, 28, 28), np.float32), boxes, size=(12, 12)))
    assert np.isfinite(pasted).all()
    assert pasted[0].sum() > 0
    assert pasted[1].sum() == 0


def test_mask_targets_equal_those_of_torchvision():
    arrays = load_arrays("mask_targets")
    masks = np.unpackbits(arrays["masks"], axis=-1, count=190)
    targets = project(masks, arrays["rois"], arrays["matched"], output_size=28)
    np.testing.assert_allclose(targets, arrays["targets"], rtol=0, atol=1e-4)


def test_mask_that_covers_its_box_only_has_the_same_targets():
    arrays = load_arrays("mask_targets")
    masks = np.unpackbits(arrays["masks"], axis=-1, count=190)
    # A frame of whole pixels, from which nothing is cut off.
    frame = np.array([20, 10, 180, 140], np.float32)
    masks[:, :10] = masks[:, 140:] = masks[:, :, :20] = masks[:, :, 180:] = 0
    whole = project(masks, arrays["rois"], arrays["matched"], output_size=28, aligned=True)
    cropped = project(
        masks[:, 10:140, 20:180],
        arrays["rois"],
        arrays["matched"],
        output_size=28,
        frames=np.tile(frame, (4, 1)),
        aligned=True,
    )
    # At the edge of a crop its outermost pixels are repeated, so cells there may differ.
    assert np.abs(whole - cropped).mean() < 1e-3


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize(("side", "difference"), [(40, 0.006), (320, 0.003)])
def test_mask_in_the_cells_of_its_box_has_the_targets_of_the_whole_image(side, difference, aligned):
    y, x = np.mgrid[:400, :400] - 199.5
    mask = (2 * x / side) ** 2 + (2.6 * y / side) ** 2 < 1
    ys, xs = np.nonzero(mask)
    box = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], np.float32)
    shifts = np.array([[0, 0, 0, 0], [-9, 4, 7, -5], [12, 8, -5, 3]], np.float32)
    rois, matched = box + shifts * side / 100, np.zeros(3, np.int32)
    whole = project(mask[None], rois, matched, output_size=28, aligned=aligned)
    cells = crop_mask(mask, box, 112)[None]
    cropped = project(cells, rois, matched, output_size=28, frames=box[None], aligned=aligned)
    assert np.abs(whole - cropped).mean() < difference


@settings(max_examples=20, deadline=None)
@given(st.integers(4, 40), st.integers(4, 40), st.integers(20, 60), st.integers(20, 60))
def test_pasting_inverts_the_aligned_target_of_a_box(x, y, width, height):
    image = np.zeros((110, 110), np.float32)
    image[y : y + height, x : x + width] = 1
    around = np.array([[x - 4, y - 4, x + width + 4, y + height + 4]], np.float32)
    target = project(image[None], around, np.zeros(1, np.int32), output_size=28, aligned=True)
    pasted = np.asarray(paste(target, around, size=image.shape))[0] > 0.5
    wrong = (pasted != image).sum()
    # At most the pixels along the edge, which a cell of up to 2.4 pixels blurs.
    assert wrong <= 2 * (width + height) + 4


def test_masks_without_boxes_are_an_error_with_both_shapes():
    with pytest.raises(ValueError, match=r"need boxes .* not \(2, 28, 28\) and \(1, 4\)"):
        paste_masks(np.zeros((2, 28, 28)), np.zeros((1, 4)), (8, 8))
