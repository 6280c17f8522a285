"""What whole detectors find equals what torchvision's find, stage by stage."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from examples import detection
from examples.detection import detector
from examples.detection.rcnn import BOX_POOL
from tests.examples.detection.nets import (
    NETS,
    REFERENCES,
    make_images,
    make_net,
    make_tiny_net,
    to_nhwc,
)
from tests.examples.detection.references import load_arrays

close = functools.partial(np.testing.assert_allclose, atol=1e-4, rtol=1e-4)


@pytest.fixture(params=REFERENCES)
def name(request):
    return request.param


@functools.cache
def evaluate(name):
    """Computes every stage of a reference in evaluation."""

    @nnx.jit
    def run(model, images, sizes):
        pyramid = model.pyramid(images)
        anchors = model.anchors(images.shape[1:3], pyramid)
        logits, codes = model.rpn(pyramid)
        proposals = model.proposals(logits, codes, anchors, sizes, training=False)
        pooled = model.pool(pyramid, proposals.boxes, BOX_POOL)
        features = model.box_head(pooled)
        return {
            "pyramid": pyramid,
            "rpn": (logits, codes),
            "proposals": proposals,
            "pooled": pooled,
            "features": features,
            "predicted": model.box_predictor(features),
            "detections": model.detect(images, sizes),
        }

    return jax.tree.map(np.asarray, run(make_net(name), *make_images(name)))


def test_features_equal_torchvisions(name):
    expected, found = load_arrays(name), evaluate(name)
    start = 0
    for level, x in zip(("p2", "p3", "p4", "p5", "p6"), found["pyramid"], strict=True):
        close(x, to_nhwc(expected[f"eval/{level}"]))
        logits = to_nhwc(expected[f"eval/rpn_logits_{level}"]).reshape(2, -1)
        codes = to_nhwc(expected[f"eval/rpn_deltas_{level}"]).reshape(2, -1, 4)
        stop = start + logits.shape[1]
        close(found["rpn"][0][:, start:stop], logits)
        close(found["rpn"][1][:, start:stop], codes)
        start = stop
    assert start == found["rpn"][0].shape[1]


def test_proposals_and_box_head_equal_torchvisions(name):
    expected, found = load_arrays(name), evaluate(name)
    for i in range(2):
        boxes = expected[f"eval/proposals_{i}"]
        assert found["proposals"].valid[i].sum() == len(boxes)
        np.testing.assert_allclose(found["proposals"].boxes[i], boxes, atol=1e-2)
        close(found["proposals"].scores[i], expected[f"eval/proposal_scores_{i}"])
    logits, codes = found["predicted"]
    close(found["pooled"].mean((2, 3)).reshape(120, -1), expected["eval/box_pooled_mean"])
    close(found["features"].reshape(120, -1), expected["eval/box_features"])
    close(logits.reshape(120, -1), expected["eval/class_logits"])
    close(codes.reshape(120, -1), expected["eval/box_deltas"])


@pytest.mark.parametrize("name", [*REFERENCES, "maskrcnn_r18_v2"])
def test_detections_equal_torchvisions(name):
    expected, found = load_arrays(name), evaluate(name)["detections"]
    _, sizes = make_images(name)
    for i in range(2):
        number = len(expected[f"eval/det_labels_{i}"])
        assert found.valid[i].sum() == number
        np.testing.assert_array_equal(found.labels[i, :number], expected[f"eval/det_labels_{i}"])
        np.testing.assert_allclose(
            found.boxes[i, :number], expected[f"eval/det_boxes_{i}"], atol=1e-2
        )
        close(found.scores[i, :number], expected[f"eval/det_scores_{i}"])
        if NETS[name]["config"]["masks"]:
            close(found.masks[i, :number], expected[f"eval/det_masks28_{i}"])
            size = tuple(sizes[i].tolist())
            pasted = detection.paste_masks(found.masks[i], found.boxes[i], size) > 0.5
            packed = expected[f"eval/det_pasted_{i}"]
            np.testing.assert_array_equal(np.packbits(pasted[:number], axis=-1), packed)


def test_detecting_compiles_once_for_each_shape_and_inside_a_compiled_function():
    model, sizes = make_tiny_net(), np.array([[64, 64], [50, 40]])
    images = jnp.asarray(np.random.default_rng(0).standard_normal((2, 64, 64, 3)), jnp.float32)
    program: Any = detector._detect
    before = program._cache_size()
    first = detection.detect(model, images, sizes)
    detection.detect(model, -images, sizes[::-1])
    assert program._cache_size() == before + 1
    inside = jax.eval_shape(lambda *args: detection.detect(model, *args), images, sizes)
    assert first.valid.any()
    assert jax.tree.map(jnp.shape, inside) == jax.tree.map(jnp.shape, first)
    assert (np.asarray(first.boxes) <= sizes[:, [1, 0, 1, 0]][:, None]).all()


def test_an_image_that_gives_numbers_that_are_not_finite_is_known_by_its_scores():
    images = np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype(np.float32)
    sizes = np.array([[64, 64], [50, 40]])
    whole = detection.detect(make_tiny_net(), images, sizes)
    images[1, 3, 3] = np.nan
    found = detection.detect(make_tiny_net(), images, sizes)
    assert whole.valid[1].any()
    assert not found.valid[1].any()
    assert np.isnan(found.scores[1]).all()
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b[0]), found, whole)


@pytest.mark.parametrize(
    "layer",
    [
        "rpn/cls_logits",
        "rpn/bbox_pred",
        "box_predictor/cls_score",
        "box_predictor/bbox_pred",
        "mask_head/mask_fcn_logits",
    ],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_layer_hides_numbers_that_are_not_finite(layer, value):
    model = nnx.clone(make_tiny_net())
    part, name = layer.split("/")
    bias = getattr(getattr(model, part), name).bias
    bias.set_value(bias.get_value().at[-1].set(value))
    found = detection.detect(model, jnp.ones((1, 64, 64, 3)), [(64, 64)])
    assert np.isnan(found.scores).all()
    assert not found.valid.any()


def test_images_of_one_pixel_are_no_error():
    found = detection.detect(make_tiny_net(), jnp.ones((1, 1, 1, 3)), [(1, 1)])
    assert isinstance(found, detection.MaskDetections)
    assert found.masks.shape == (1, 5, 28, 28)
    assert ((found.boxes >= 0) & (found.boxes <= 1)).all()
