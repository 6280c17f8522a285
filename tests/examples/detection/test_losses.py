"""Losses equal torchvision's, also without objects, and do not depend on the padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.detection import losses
from examples.detection.masks import project_masks_on_boxes
from tests.examples.detection.references import load_arrays


@pytest.mark.parametrize(("name", "beta"), [("1", 1.0), ("0.1111", 1 / 9), ("0.5", 0.5)])
def test_smooth_l1_loss_equals_that_of_torch(name, beta, x64):
    arrays = load_arrays("op_losses")
    case = f"smooth_l1_beta{name}"
    pred, target = (jnp.asarray(arrays[f"{case}/{key}"], np.float64) for key in ("pred", "target"))
    loss = losses.smooth_l1_loss(pred, target, beta)
    np.testing.assert_allclose(loss, arrays[f"{case}/none"], rtol=1e-12, atol=1e-15)
    gradient = jax.grad(lambda x: losses.smooth_l1_loss(x, target, beta).sum())(pred)
    np.testing.assert_allclose(gradient, arrays[f"{case}/grad_sum"], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_losses_of_the_box_head_equal_those_of_torchvision(dtype, x64):
    arrays = load_arrays("op_losses")
    logits, deltas, targets = (
        jnp.asarray(arrays[f"fastrcnn/{key}"], dtype)
        for key in ("class_logits", "box_regression", "regression_targets")
    )
    labels = jnp.asarray(arrays["fastrcnn/labels"])
    class_loss, box_loss = losses.fastrcnn_loss(
        logits, deltas.reshape(15, 6, 4), labels, targets, jnp.ones(15, bool)
    )
    tolerance = {np.float32: 1e-5, np.float64: 1e-12}[dtype]
    np.testing.assert_allclose(class_loss, arrays["fastrcnn/classification_loss"], rtol=tolerance)
    np.testing.assert_allclose(box_loss, arrays["fastrcnn/box_loss"], rtol=tolerance)


def test_loss_of_the_mask_head_equals_that_of_torchvision():
    arrays = load_arrays("op_losses")
    matched = arrays["maskrcnn/matched_idxs"]
    targets = project_masks_on_boxes(
        arrays["maskrcnn/gt_masks"], arrays["maskrcnn/proposals"], matched
    )
    np.testing.assert_allclose(targets, arrays["maskrcnn/mask_targets"], rtol=0, atol=1e-5)
    loss = losses.maskrcnn_loss(
        jnp.asarray(arrays["maskrcnn/mask_logits"].transpose(0, 2, 3, 1)),
        jnp.asarray(arrays["maskrcnn/gt_labels"][matched]),
        targets,
        jnp.ones(5, bool),
    )
    np.testing.assert_allclose(loss, arrays["maskrcnn/loss"], rtol=1e-5)


def test_loss_of_proposals_is_that_of_its_parts():
    # These are torchvision's sums by hand. Three anchors count, and one of them is an object.
    logits = jnp.array([[2.0, -1.0], [0.5, 3.0]])
    labels = jnp.array([[1, 0], [-1, 0]])
    deltas = jnp.zeros((2, 2, 4)).at[0, 0].set(jnp.array([0.05, 1.0, 0.0, 0.0]))
    objectness, box = losses.rpn_loss(logits, deltas, labels, jnp.zeros((2, 2, 4)))
    cross_entropy = np.log1p(np.exp([-2.0, -1.0, 3.0])).sum() / 3
    np.testing.assert_allclose(objectness, cross_entropy, rtol=1e-6)
    smooth = 0.5 * 0.05**2 * 9 + (1 - 0.5 / 9)
    np.testing.assert_allclose(box, smooth / 3, rtol=1e-6)


def total(predictions, targets, counted):
    """The sum of all losses of two images with three places."""
    labels = jnp.where(counted, jnp.array([[1, 2, 1], [0, 1, 2]]), -1)
    objectness, deltas, logits, codes, masks = predictions
    codes_target, mask_target = targets
    parts = losses.rpn_loss(objectness, deltas, jnp.minimum(labels, 1), codes_target)
    parts += losses.fastrcnn_loss(logits, codes, labels, codes_target, counted)
    return sum(parts) + losses.maskrcnn_loss(masks, labels, mask_target, counted & (labels > 0))


@pytest.fixture(scope="module")
def value_and_gradient():
    return jax.jit(jax.value_and_grad(total))


def make_arguments(seed=0):
    rng = np.random.default_rng(seed)
    shapes = (), (4,), (3,), (3, 4), (5, 5, 3)
    predictions = [rng.standard_normal((2, 3, *shape)).astype(np.float32) for shape in shapes]
    return predictions, [rng.random((2, 3, *s)).astype(np.float32) for s in ((4,), (5, 5))]


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e30])
def test_places_that_do_not_count_change_neither_loss_nor_gradient(garbage, value_and_gradient):
    counted = np.array([[True, True, False], [True, False, False]])
    predictions, targets = make_arguments()
    expected, expected_gradient = value_and_gradient(predictions, targets, counted)

    def spoil(x):
        return np.where(counted.reshape(2, 3, *[1] * (x.ndim - 2)), x, np.float32(garbage))

    value, gradient = value_and_gradient(*jax.tree.map(spoil, (predictions, targets)), counted)
    np.testing.assert_array_equal(value, expected)
    jax.tree.map(np.testing.assert_array_equal, gradient, expected_gradient)


def test_batch_in_which_nothing_counts_has_no_loss(value_and_gradient):
    value, gradient = value_and_gradient(*make_arguments(), np.zeros((2, 3), bool))
    assert value == 0
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, np.zeros_like(x)), gradient)
