"""Proposals equal torchvision's, and the loss sees the right anchors."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis.extra.numpy import arrays

from examples.detection.anchors import compute_strides, make_anchors
from examples.detection.rpn import propose, sample_anchors
from examples.detection.settings import MMDETECTION_1, TORCHVISION, Settings
from tests.examples.detection.references import load_arrays

FEATURES = [(64, 80), (32, 40), (16, 20), (8, 10), (4, 5)]
ANCHORS = make_anchors(FEATURES, compute_strides((256, 320), FEATURES), [32, 64, 128, 256, 512])
SIZES = np.array([[256, 320], [216, 264]])
propose_all = jax.jit(
    jax.vmap(
        lambda logits, codes, size: propose(
            logits, codes, ANCHORS, size, pre_nms=300, post_nms=150, settings=TORCHVISION
        )
    )
)


@pytest.fixture(scope="module")
def reference():
    return load_arrays("proposals")


def test_proposals_equal_torchvisions(reference):
    found = propose_all(reference["logits"], reference["deltas"], SIZES)
    for i in range(2):
        number = len(reference[f"boxes_{i}"])
        assert found.valid[i].tolist() == [place < number for place in range(150)]
        np.testing.assert_allclose(found.boxes[i, :number], reference[f"boxes_{i}"], atol=1e-2)
        np.testing.assert_allclose(found.scores[i, :number], reference[f"scores_{i}"], atol=1e-4)


def test_places_without_a_proposal_are_zero_and_not_valid(reference):
    # A code that is not a number proposes nothing. Only one anchor is left.
    logits = np.zeros_like(reference["logits"])
    codes = np.full_like(reference["deltas"], np.nan)
    logits[:, 5], codes[:, 5] = 1, 0
    found = propose_all(logits, codes, SIZES)
    assert found.valid.sum(1).tolist() == [1, 1]
    assert found.valid[:, 0].all()
    assert not found.boxes[:, 1:].any()
    assert not found.scores[:, 1:].any()


@functools.partial(jax.jit, static_argnames="settings")
def sample(key, anchors, boxes, valid, *, settings):
    return sample_anchors(key, anchors, boxes, valid, np.array([64, 64]), settings=settings)


GRID = np.concatenate(make_anchors([(8, 8)], [(8, 8)], [16]))
BOXES = np.array([[10, 10, 26, 26], [1e4, -1e4, 2e4, 5e9]], np.float32)


def test_anchors_of_objects_and_background_are_drawn_in_exact_numbers():
    settings = Settings(anchor_samples=20)
    labels, codes = sample(
        jax.random.key(0), GRID, BOXES, np.array([True, False]), settings=settings
    )
    assert 1 <= (labels == 1).sum() <= 10
    assert ((labels == 1) | (labels == 0)).sum() == 20
    assert jnp.isfinite(codes).all()
    others, _ = sample(jax.random.key(1), GRID, BOXES, np.array([True, False]), settings=settings)
    assert (labels != others).any()


def test_without_objects_all_that_is_drawn_is_background():
    labels, codes = sample(
        jax.random.key(0), GRID, BOXES, np.array([False, False]), settings=TORCHVISION
    )
    assert set(labels.tolist()) == {0}
    assert jnp.isfinite(codes).all()


def test_anchors_that_leave_the_image_can_be_left_out():
    settings = MMDETECTION_1
    labels, _ = sample(jax.random.key(0), GRID, BOXES, np.array([True, False]), settings=settings)
    inside = (GRID[:, :2] >= 0).all(1) & (GRID[:, 2:] <= 64).all(1)
    assert (np.asarray(labels)[~inside] == -1).all()
    assert (labels == 1).any()


@hypothesis.given(
    arrays(np.float32, (6, 2), elements=st.integers(-4, 64).map(float)),
    arrays(np.float32, (6, 2), elements=st.integers(1, 68).map(float)),
)
@hypothesis.settings(max_examples=50, deadline=None)
def test_a_mirrored_image_has_the_mirrored_anchors_inside(corner, sides):
    anchors = np.concatenate([corner, corner + sides], 1)
    turned = 64 - anchors[:, [2, 3, 0, 1]]  # from left to right and from top to bottom
    # Without objects, all that is inside is background.
    labels, mirrored = (
        sample(jax.random.key(0), each, BOXES, np.zeros(2, bool), settings=MMDETECTION_1)[0]
        for each in (anchors, turned)
    )
    inside = (anchors >= 0).all(1) & (anchors <= 64).all(1)
    assert ((labels == 0) == inside).all()
    assert (labels == mirrored).all()
