"""Detections equal torchvision's, and the heads are trained with the right regions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.detection.box_head import sample_rois, select_detections
from examples.detection.rpn import Proposals
from examples.detection.settings import TORCHVISION, Settings
from tests.examples.detection.references import load_arrays

select = jax.jit(select_detections, static_argnames="settings")


@pytest.fixture(scope="module")
def outputs():
    """The outputs of a box head for two images of 120 regions and 9 classes."""
    arrays = load_arrays("detections")
    boxes = np.stack([arrays["proposals_0"], arrays["proposals_1"]])
    return (
        arrays["class_logits"].reshape(2, 120, 9),
        arrays["box_deltas"].reshape(2, 120, 9, 4),
        Proposals(jnp.asarray(boxes), jnp.ones((2, 120)), jnp.ones((2, 120), bool)),
        np.array([[240, 320], [200, 260]]),
    )


def test_detections_equal_torchvisions(outputs):
    expected = load_arrays("detections")
    found = select(*outputs, settings=TORCHVISION)
    assert found.valid.sum(1).tolist() == [100, 0]
    np.testing.assert_array_equal(found.labels[0], expected["labels_0"])
    np.testing.assert_allclose(found.boxes[0], expected["boxes_0"], atol=1e-2)
    np.testing.assert_allclose(found.scores[0], expected["scores_0"], atol=1e-4)
    assert not found.boxes[1].any()
    assert not found.labels[1].any()


def test_fewer_places_hold_the_best_detections(outputs):
    all_found = select(*outputs, settings=TORCHVISION)
    found = select(*outputs, settings=Settings(detections=7))
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y[:, :7]), found, all_found)


def test_regions_that_are_not_valid_are_never_detected(outputs):
    logits, codes, proposals, sizes = outputs
    valid = np.zeros((2, 120), bool)
    valid[0, :8] = True
    few = select(logits, codes, proposals._replace(valid=valid), sizes, settings=TORCHVISION)
    logits, codes, boxes = (np.array(x) for x in (logits, codes, proposals.boxes))
    for x in (logits, codes, boxes):
        x[~valid] = np.nan
    garbage = proposals._replace(boxes=boxes, valid=valid)
    other = select(logits, codes, garbage, sizes, settings=TORCHVISION)
    jax.tree.map(np.testing.assert_array_equal, few, other)
    assert 0 < few.valid.sum() < 100


@functools.partial(jax.jit, static_argnames="settings")
def sample(key, proposals, boxes, labels, valid, *, settings):
    return sample_rois(key, proposals, boxes, labels, valid, settings=settings)


def make_proposals():
    """Returns 30 proposals, of which the first ten lie on an object and the last five do not count."""
    boxes = np.tile(np.array([[100, 100, 120, 120]], np.float32), (30, 1))
    boxes[:10] = [0, 0, 20, 20]
    valid = np.arange(30) < 25
    boxes[25:] = np.nan
    return Proposals(jnp.asarray(boxes), jnp.ones(30), jnp.asarray(valid))


OBJECTS = (
    np.array([[np.nan] * 4, [0, 0, 20, 21], [0, 0, 0, 0]], np.float32),
    np.array([7, 3, 9]),
    np.array([False, True, False]),
)


def test_regions_of_objects_come_first_in_exact_numbers():
    settings = Settings(roi_samples=16, roi_positives=0.5)
    rois = sample(jax.random.key(0), make_proposals(), *OBJECTS, settings=settings)
    assert rois.labels.tolist() == 8 * [3] + 8 * [0]
    assert rois.valid.all()
    assert (rois.matched[:8] == 1).all()
    np.testing.assert_array_equal(rois.boxes[8:, 0], 100)
    assert jnp.isfinite(rois.targets).all()


def test_objects_are_regions_too_and_missing_regions_are_not_valid():
    settings = Settings(roi_samples=64, roi_positives=0.5)
    rois = sample(jax.random.key(0), make_proposals(), *OBJECTS, settings=settings)
    # Ten proposals and the object itself, and fifteen proposals on the background.
    assert rois.labels.tolist() == 11 * [3] + 53 * [0]
    assert rois.valid.tolist() == [i < 26 for i in range(64)]
    np.testing.assert_array_equal(rois.boxes[10], OBJECTS[0][1])


def test_without_objects_every_region_is_background():
    boxes, labels, _ = OBJECTS
    rois = sample(
        jax.random.key(0), make_proposals(), boxes, labels, np.zeros(3, bool), settings=TORCHVISION
    )
    assert not rois.labels.any()
    assert rois.valid.sum() == 25
    assert jnp.isfinite(rois.boxes).all()
    assert jnp.isfinite(rois.targets).all()
