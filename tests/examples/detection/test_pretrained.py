"""Weights of torchvision's detectors: their names in both forms, their layouts, and what does not fit."""

import re

import jax
import numpy as np
import pytest
from flax import nnx

from examples import detection
from examples.detection import pretrained
from examples.models.pretrained import WeightsError
from tests.examples.detection.nets import NETS, make_state
from tests.examples.detection.references import load_arrays

NAME = "maskrcnn_r18"
# From the second form of torchvision's names back to the first, in which its files are published.
OLD = (
    (r"((?:inner|layer)_blocks\.\d)\.0\.", r"\1."),
    (r"rpn\.head\.conv\.0\.0\.", "rpn.head.conv."),
    (r"mask_head\.0\.0\.", "mask_head.mask_fcn1."),
    (r"mask_head\.1\.0\.", "mask_head.mask_fcn2."),
    (r"mask_head\.2\.0\.", "mask_head.mask_fcn3."),
    (r"mask_head\.3\.0\.", "mask_head.mask_fcn4."),
)


@pytest.fixture(scope="module")
def state():
    return make_state(NAME)


@pytest.fixture
def model():
    """A detector of other weights and no arrays yet."""
    return nnx.eval_shape(
        lambda: detection.create(
            "resnet18", num_classes=6, masks=True, fpn_channels=16, fc_units=48, rngs=nnx.Rngs(0)
        )
    )


def leaves(model):
    return jax.tree.leaves(nnx.state(model))


def test_names_of_published_files_load_too(model, state):
    old = dict(state)
    for pattern, replacement in OLD:
        old = {re.sub(pattern, replacement, key): value for key, value in old.items()}
    assert len(old.keys() - state.keys()) == 2 * 8 + 2 + 8
    assert "roi_heads.mask_head.mask_fcn4.bias" in old
    old["backbone.body.bn1.num_batches_tracked"] = np.array(3)
    pretrained.load_torch_state(model, old)
    other = nnx.clone(model)
    pretrained.load_torch_state(other, state)
    for a, b in zip(leaves(model), leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_all_that_does_not_fit_is_in_one_error_and_nothing_is_loaded(model, state):
    before = leaves(model)
    bad = dict(state)
    del bad["rpn.head.cls_logits.bias"]
    bad["roi_heads.mask_head.4.0.bias"] = np.ones(16, np.float32)
    bad["roi_heads.box_head.fc6.weight"] = np.ones((48, 16 * 36), np.float32)
    bad["roi_heads.box_head.fc7.weight"] = np.full((48, 48), np.nan, np.float32)
    with pytest.raises(WeightsError, match="not the weights of this detector") as error:
        pretrained.load_torch_state(model, bad)
    assert str(error.value).partition(": ")[2] == (
        "missing: rpn.head.cls_logits.bias; unexpected: roi_heads.mask_head.4.0.bias; of another "
        "shape: roi_heads.box_head.fc6.weight (48, 576), not (48, 784); not weights: "
        "roi_heads.box_head.fc7.weight holds numbers that are not finite as float32"
    )
    assert all(a is b for a, b in zip(leaves(model), before, strict=True))


def test_weights_of_another_net_are_refused_in_a_short_line(model):
    with pytest.raises(WeightsError, match=r"and \d+ more") as error:
        pretrained.load_torch_state(model, make_state("fasterrcnn_r18_4conv1fc"))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1500


def test_weights_of_a_classifier_fit_the_backbone(model, state):
    body = {
        key.removeprefix("backbone.body."): value
        for key, value in state.items()
        if key.startswith("backbone.body.")
    }
    body["fc.weight"], body["fc.bias"] = np.ones((9, 512)), np.ones(9)
    pretrained.load_backbone(model, body)
    kernel = model.backbone.conv1.kernel[...]
    np.testing.assert_array_equal(kernel, body["conv1.weight"].transpose(2, 3, 1, 0))
    del body["conv1.weight"]
    with pytest.raises(WeightsError, match=r"of this backbone: missing: conv1\.weight$"):
        pretrained.load_backbone(model, body)


@pytest.mark.parametrize("name", [NAME, "fasterrcnn_r18_4conv1fc", "maskrcnn_r18_v2"])
def test_kind_of_a_detector_is_read_from_its_weights(name):
    state, config = make_state(name), NETS[name]["config"]
    model = pretrained.create_from_state(state, score_threshold=0.3)
    assert model.num_classes == config["num_classes"]
    assert (model.mask_head is not None) == config["masks"]
    assert model.settings.score_threshold == 0.3
    # torchvision adds nothing to the variances of its first detectors.
    assert model.backbone.norm1.epsilon == (1e-5 if name.endswith("v2") else 0)
    assert len(model.rpn.convs) == config.get("rpn_convs", 1)
    key = "roi_heads.box_predictor.cls_score.weight"
    np.testing.assert_array_equal(model.box_predictor.cls_score.kernel[...], state[key].T)


def test_names_and_shapes_over_the_papers_resnext_are_torchvisions():
    arrays = load_arrays("resnext101_32x4d_keys")
    expected = {
        str(key): tuple(side for side in shape.tolist() if side)
        for key, shape in zip(arrays["keys"], arrays["shapes"], strict=True)
    }
    model = nnx.eval_shape(
        lambda: detection.create(
            "resnext101_32x4d",
            num_classes=5,
            masks=True,
            fpn_channels=32,
            fc_units=64,
            rngs=nnx.Rngs(0),
        )
    )
    places = pretrained.find_detector_places(model)
    assert {key: place.shape for key, place in places.items()} == expected


def test_weights_that_are_not_those_of_a_detector_are_refused(state, monkeypatch):
    monkeypatch.setattr(pretrained, "NAMES", ("resnet18",))
    create = pretrained.create_from_state
    options = {"norm_epsilon": 0.0, "score_threshold": 0.3}
    with pytest.raises(WeightsError, match=r"backbone\.body\.conv1\.weight is missing"):
        create({"fc.weight": np.ones((2, 2), np.float32)}, **options)
    key = "backbone.body.layer3.0.conv1.weight"
    with pytest.raises(WeightsError, match="backbone of these weights is none of resnet18 "):
        create({**state, key: np.ones((7, 128, 3, 3), np.float32)}, **options)
    for key, sides in (
        ("backbone.body.conv1.weight", 4),
        ("backbone.fpn.layer_blocks.0.0.weight", 4),
        ("roi_heads.box_predictor.cls_score.weight", 2),
    ):
        for value in (np.float32(3), np.ones(7, np.float32)):
            with pytest.raises(WeightsError, match=f"{key} has {value.ndim} sides, and {sides} in"):
                create({**state, key: value}, **options)
