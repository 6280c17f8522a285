"""NMS equals torchvision's and a plain loop in NumPy. It is exact and stable for any boxes."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from examples.detection import batched_nms, nms
from examples.detection.boxes import box_iou
from tests.examples.detection.references import load_arrays

# One program serves most tests: all are padded to so many boxes.
PLACES = 2304
compiled = jax.jit(batched_nms)


def suppress(boxes, scores, threshold, classes=None, valid=None):
    """Returns the kept boxes. Garbage fills the places after the last box."""
    count = len(scores)
    classes = np.zeros(count, np.int32) if classes is None else classes
    valid = np.ones(count, bool) if valid is None else valid
    padding = PLACES - count
    garbage = np.resize(np.array([np.nan, -1e30, 0, 1e30], np.float32), (padding, 4))
    indices, number = compiled(
        np.concatenate([boxes, garbage]),
        np.concatenate([scores, np.resize(np.array([np.inf, np.nan, 0], np.float32), padding)]),
        np.concatenate([classes, np.zeros(padding, np.int32)]),
        jnp.float32(threshold),
        valid=np.concatenate([valid, np.zeros(padding, bool)]),
    )
    assert (indices[number:] == PLACES).all()
    return np.asarray(indices[:number])


def nms_by_loop(boxes, scores, classes, threshold, valid):
    """Computes NMS by its definition, one box after the other, in float64."""
    boxes = boxes.astype(np.float64)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1)
    chosen = []
    for i in np.argsort(-scores, kind="stable"):
        if not valid[i]:
            continue
        for j in chosen:
            low = np.maximum(boxes[i, :2], boxes[j, :2])
            high = np.minimum(boxes[i, 2:], boxes[j, 2:])
            intersection = np.prod(np.maximum(high - low, 0))
            union = area[i] + area[j] - intersection
            if classes[i] == classes[j] and intersection > threshold * union:
                break
        else:
            chosen.append(i)
    return chosen


@pytest.mark.parametrize("threshold", [0.5, 0.7])
@pytest.mark.parametrize("scores", ["distinct", "ties"])
def test_small_sets_equal_those_of_torchvision(scores, threshold):
    arrays = load_arrays("op_nms")
    for kind in ("nms", "batched"):
        case = f"{kind}_{scores}_{threshold}"
        boxes, classes = arrays[f"{case}/boxes"], arrays.get(f"{case}/idxs")
        indices = suppress(boxes, arrays[f"{case}/scores"], threshold, classes)
        np.testing.assert_array_equal(indices, arrays[f"{case}/keep"])


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_overlap_equal_to_the_threshold_suppresses_nothing(threshold):
    arrays = load_arrays("op_nms")
    case = f"exact_{threshold}"
    indices = suppress(arrays[f"{case}/boxes"], arrays[f"{case}/scores"], threshold)
    np.testing.assert_array_equal(indices, arrays[f"{case}/keep"])


def test_overlap_that_rounds_above_the_threshold_suppresses():
    # The first overlap is 3/10. The nearest float32 is greater than 0.3, with which torchvision
    # compares in float64.
    boxes = jnp.array([[0.0, 0.0, 10.0, 1.0], [0.0, 0.0, 3.0, 1.0], [9.0, 0.0, 11.0, 1.0]])
    indices, number = nms(boxes, jnp.array([0.9, 0.8, 0.7]), 0.3)
    assert indices[:number].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("name", "threshold"), [("nms_257", 0.5), ("nms_1000", 0.7), ("nms_2049", 0.7)]
)
def test_large_sets_equal_those_of_torchvision(name, threshold):
    arrays = load_arrays(name)
    boxes, scores = arrays["boxes"], arrays["scores"]
    np.testing.assert_array_equal(suppress(boxes, scores, threshold), arrays["keep"])
    indices = suppress(boxes, scores, threshold, arrays["groups"])
    np.testing.assert_array_equal(indices, arrays["keep_batched"])


def test_limited_number_of_outputs_is_the_beginning_of_all():
    arrays = load_arrays("nms_2049")
    limited = jax.jit(nms, static_argnames=("iou_threshold", "max_outputs"))
    indices, number = limited(arrays["boxes"], arrays["scores"], iou_threshold=0.7, max_outputs=300)
    assert number == 300
    np.testing.assert_array_equal(indices, arrays["keep"][:300])


def test_chain_of_600_boxes_is_exact():
    arrays = load_arrays("nms_chain")
    boxes, scores, order = arrays["boxes"], arrays["scores"], arrays["perm"]
    np.testing.assert_array_equal(suppress(boxes, scores, 0.5), arrays["keep"])
    shifted = boxes + np.float32(20000)
    np.testing.assert_array_equal(suppress(shifted, scores, 0.5), arrays["keep_shifted"])
    permuted = suppress(boxes[order], scores[order], 0.5)
    np.testing.assert_array_equal(permuted, arrays["keep_permuted"])


def test_equal_scores_are_taken_in_the_order_of_boxes():
    arrays = load_arrays("nms_plateau")
    indices = suppress(arrays["boxes"], arrays["scores"], 0.5)
    np.testing.assert_array_equal(indices, arrays["keep_stable"])


def test_classes_do_not_meet_at_coordinates_of_20000():
    # Class 90 moved by 90 · 20011, as torchvision's trick moves it, would have whole pixels only.
    small = [[0.0, 0.0, 0.2, 0.2], [0.0, 0.0, 0.2, 0.1], [0.3, 0.3, 0.4, 0.4]]
    boxes = np.array([*small, [20000.0, 20000.0, 20010.0, 20010.0]], np.float32)
    scores = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    assert suppress(boxes, scores, 0.4, np.array([90, 90, 90, 0])).tolist() == [0, 2, 3]
    assert suppress(boxes, scores, 0.4, np.array([90, 89, 90, 0])).tolist() == [0, 1, 2, 3]


@st.composite
def cases(draw):
    """24 boxes on a grid, where overlaps at the threshold and ties of scores are frequent."""
    corner = draw(hnp.arrays(np.int32, (24, 2), elements=st.integers(0, 12)))
    side = draw(hnp.arrays(np.int32, (24, 2), elements=st.integers(0, 8)))
    boxes = np.concatenate([corner, corner + side], axis=-1).astype(np.float32)
    scores = draw(hnp.arrays(np.int32, 24, elements=st.integers(0, 9))).astype(np.float32) / 10
    classes = draw(hnp.arrays(np.int32, 24, elements=st.integers(0, 2)))
    valid = draw(hnp.arrays(np.bool_, 24))
    return boxes, scores, classes, valid


@settings(max_examples=100, deadline=None)
@given(cases(), st.sampled_from([0.25, 0.5]))
def test_any_boxes_give_what_the_definition_gives(case, threshold):
    boxes, scores, classes, valid = case
    indices = suppress(boxes, scores, threshold, classes, valid)
    assert indices.tolist() == nms_by_loop(boxes, scores, classes, threshold, valid)


@settings(max_examples=20, deadline=None)
@given(cases())
def test_scores_that_are_not_numbers_are_padding(case):
    boxes, scores, classes, valid = case
    expected = suppress(boxes, scores, 0.5, classes, valid)
    scores = np.where(valid, scores, np.nan).astype(np.float32)
    np.testing.assert_array_equal(suppress(boxes, scores, 0.5, classes), expected)


def test_batches_of_different_depth_under_vmap():
    chain, plain = load_arrays("nms_chain"), load_arrays("nms_1000")
    boxes = np.stack([chain["boxes"], plain["boxes"][:600]])
    scores = np.stack([chain["scores"], plain["scores"][:600]])
    indices, numbers = jax.jit(jax.vmap(lambda b, s: nms(b, s, 0.5)))(boxes, scores)
    for image in range(2):
        expected = suppress(boxes[image], scores[image], 0.5)
        np.testing.assert_array_equal(indices[image, : numbers[image]], expected)


def test_gradient_goes_through_the_chosen_scores_only():
    arrays = load_arrays("nms_257")

    @jax.jit
    @jax.grad
    def gradient(scores):
        indices, number = nms(jnp.asarray(arrays["boxes"]), scores, 0.5)
        chosen = scores.at[indices].get(mode="clip")
        return jnp.where(jnp.arange(257) < number, chosen, 0).sum()

    expected = np.zeros(257)
    expected[arrays["keep"]] = 1
    np.testing.assert_array_equal(gradient(arrays["scores"]), expected)


def test_no_box_at_all():
    indices, number = nms(jnp.zeros((0, 4)), jnp.zeros(0), 0.5)
    assert indices.shape == (0,)
    assert number == 0


def test_no_valid_box():
    nothing = suppress(
        np.ones((3, 4), np.float32), np.ones(3, np.float32), 0.5, None, np.zeros(3, bool)
    )
    assert nothing.tolist() == []


def test_valid_scores_of_minus_infinity_are_kept():
    boxes = np.array([[0, 0, 1, 1], [5, 5, 6, 6]], np.float32)
    assert suppress(boxes, np.array([-np.inf, 1], np.float32), 0.5).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("boxes", "scores", "options", "message"),
    [
        (np.zeros((2, 4)), np.zeros(3), {}, r"not \(2, 4\), \(3,\) and \(3,\)"),
        (np.zeros((3, 5)), np.zeros(3), {}, r"not \(3, 5\)"),
        (np.zeros(4), 0.5, {}, r"not \(4,\), \(\) and \(\)"),
        (
            np.zeros((3, 4)),
            np.zeros(3),
            {"valid": np.ones(1, bool)},
            r"valid must be \(3,\) .* not \(1,\)",
        ),
        (np.zeros((3, 4)), np.zeros(3), {"max_outputs": -1}, "max_outputs must be at least 0"),
        (np.zeros((3, 4)), np.zeros(3), {"iou_threshold": 50}, "from 0 to 1, not 50"),
        (np.zeros((3, 4)), np.zeros(3), {"iou_threshold": np.nan}, "from 0 to 1, not nan"),
    ],
)
def test_what_does_not_fit_together_is_an_error(boxes, scores, options, message):
    with pytest.raises(ValueError, match=message):
        nms(boxes, scores, **{"iou_threshold": 0.5, **options})


def test_whole_numbers_are_boxes_and_scores_too():
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 8], [20, 0, 29, 9]])
    indices, number = nms(boxes, np.array([1, 3, 2]), 0.5, valid=np.array([True, True, False]))
    assert indices[: int(number)].tolist() == [1]


def test_second_call_is_not_traced_again(monkeypatch):
    traces = []

    def count(*boxes):
        traces.append(1)
        return box_iou(*boxes)

    monkeypatch.setattr(sys.modules[nms.__module__], "box_iou", count)
    boxes, scores = jnp.zeros((37, 4)), jnp.arange(37.0)  # a size of no other test
    nms(boxes, scores, 0.5)
    first = len(traces)
    assert first > 0
    nms(boxes + 1, scores, 0.6)
    assert len(traces) == first
