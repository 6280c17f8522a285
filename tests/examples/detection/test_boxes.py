"""Geometry and coding of boxes equal torchvision's, and have the right properties for any boxes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from examples.detection import boxes as operations
from tests.examples.detection.references import load_arrays

WEIGHTS = {"w10_5": (10.0, 10.0, 5.0, 5.0), "w1_1": (1.0, 1.0, 1.0, 1.0)}
# Compiled once for all examples of the properties.
box_iou, encode, decode = map(
    jax.jit, (operations.box_iou, operations.encode_boxes, operations.decode_boxes)
)


@st.composite
def proper_boxes(draw):
    """Eight boxes with sides from 1 to 500 pixels."""
    corner = draw(hnp.arrays(np.float32, (8, 2), elements=st.floats(-500, 500, width=32)))
    side = draw(hnp.arrays(np.float32, (8, 2), elements=st.floats(1, 500, width=32)))
    return np.concatenate([corner, corner + side], axis=-1)


def test_iou_equals_that_of_torchvision():
    arrays = load_arrays("op_box_iou")
    iou = box_iou(arrays["random/boxes1"], arrays["random/boxes2"])
    np.testing.assert_allclose(iou, arrays["random/iou"], rtol=1e-6, atol=1e-7)


def test_iou_of_boxes_without_area_is_zero():
    arrays = load_arrays("op_box_iou")
    expected = arrays["degenerate/iou"]
    assert np.isnan(expected).any()
    iou = box_iou(arrays["degenerate/boxes"], arrays["degenerate/boxes"])
    np.testing.assert_allclose(iou, np.nan_to_num(expected), rtol=1e-6)


def test_iou_with_padding_of_any_numbers_is_zero():
    # Padded places may hold anything.
    box = jnp.array([[0.0, 0.0, 8.0, 8.0]])
    padding = np.array([[np.nan] * 4, [0] * 4, [-1e30, -1e30, 1e30, 1e30], [1e30] * 4], np.float32)
    np.testing.assert_array_equal(operations.box_iou(box, padding), np.zeros((1, 4)))


@settings(max_examples=50, deadline=None)
@given(proper_boxes(), proper_boxes())
def test_iou_is_symmetric_and_at_most_one(a, b):
    iou = np.asarray(box_iou(a, b))
    np.testing.assert_array_equal(iou, np.asarray(box_iou(b, a)).T)
    assert (iou >= 0).all()
    assert (iou <= 1 + 1e-6).all()
    np.testing.assert_allclose(np.diag(box_iou(a, a)), 1, rtol=1e-5)


def test_clipping_equals_that_of_torchvision():
    arrays = load_arrays("op_box_coder")
    clip = jax.jit(operations.clip_boxes_to_image)
    clipped = clip(arrays["clip/boxes"], jnp.array([120, 180]))
    np.testing.assert_array_equal(clipped, arrays["clip/out"].astype(np.float32))


def test_large_boxes_are_those_that_torchvision_keeps():
    arrays = load_arrays("op_box_coder")
    large = operations.is_large(jnp.asarray(arrays["remove_small/boxes"]), 4.0)
    np.testing.assert_array_equal(np.flatnonzero(large), arrays["remove_small/keep"])


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_coding_equals_that_of_torchvision(name, dtype, x64):
    arrays = load_arrays("op_box_coder")
    tolerance = {np.float32: 1e-5, np.float64: 1e-12}[dtype]

    def get(key):
        return arrays[key].astype(dtype) if arrays[key].dtype == np.float32 else arrays[key]

    codes = operations.encode_boxes(
        get(f"encode_{name}/gt"), get(f"encode_{name}/proposals"), WEIGHTS[name]
    )
    np.testing.assert_allclose(codes, get(f"encode_{name}/codes"), tolerance, tolerance)
    assert codes.dtype == dtype

    decoded = operations.decode_boxes(
        get(f"decode_{name}/rel_codes"), get(f"decode_{name}/boxes"), WEIGHTS[name]
    )
    expected = get(f"decode_{name}/out")
    np.testing.assert_allclose(decoded, expected, tolerance, 1e2 * tolerance)

    codes = get(f"decode_multiclass_{name}/rel_codes").reshape(20, 3, 4)
    boxes = get(f"decode_multiclass_{name}/boxes")[:, None]
    decoded = operations.decode_boxes(codes, boxes, WEIGHTS[name])
    expected = get(f"decode_multiclass_{name}/out")
    np.testing.assert_allclose(decoded, expected, tolerance, 1e2 * tolerance)


@settings(max_examples=50, deadline=None)
@given(proper_boxes(), proper_boxes())
def test_decoding_inverts_encoding(boxes, proposals):
    # Sides of 1 to 500 pixels can differ by more than the largest factor of a decoded box.
    side = boxes[:, 2:] - boxes[:, :2]
    proposals[:, 2:] = proposals[:, :2] + np.maximum(proposals[:, 2:] - proposals[:, :2], side / 60)
    decoded = decode(encode(boxes, proposals), proposals)
    np.testing.assert_allclose(decoded, boxes, rtol=1e-4, atol=0.05)


def test_code_of_padding_is_finite():
    box = jnp.array([[3.0, 4.0, 10.0, 9.0]])
    empty = jnp.zeros((1, 4))
    assert np.isfinite(operations.encode_boxes(box, empty)).all()
    assert np.isfinite(operations.encode_boxes(empty, box)).all()


def test_decoded_side_is_limited():
    box = jnp.array([[0.0, 0.0, 16.0, 16.0]])
    decoded = operations.decode_boxes(jnp.full((1, 4), 1e4).at[:, :2].set(0), box)
    np.testing.assert_allclose(decoded[:, 2:] - decoded[:, :2], 1000, rtol=1e-5)
