"""The runs of Tables 5 and 6 have the paper's nets and settings."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from flax import nnx

from examples import detection
from examples.detection.config import Config
from examples.detection.presets import PRESETS
from examples.detection.task import check_settings, create_model, scale_learning_rate
from examples.training.errors import SettingError
from examples.training.optimizers import make_tx, optimizer_spec, schedule_of
from examples.training.sharding import make_mesh

TABLES = [name for name in PRESETS if name.startswith("table")]
# From the ids of 80 classes, as torchvision's detectors with 81 classes count them.
PARAMETERS = {"table5-r50": 41_757_156, "table6-r50": 44_400_693}
FROZEN = 225_344


def make_abstract(config, *, freeze):
    def make():
        model = create_model(config, 81, 0)
        if freeze:
            detection.freeze(model.backbone, config.frozen_stages)
        return model

    return nnx.eval_shape(make)


def count(state):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state))


# What the rows of both tables have in common.
COMMON = {
    "dataset": "coco",
    "train_split": "train2017",
    "eval_split": "val2017",
    "batch_size": 16,
    "learning_rate": 0.02,
    "weight_decay": 1e-4,
    "momentum": 0.9,
    "optimizer": "sgd",
    "schedule": "step",
    "clip_norm": 35.0,
    "gc": "conv+fc",
    "warmup_epochs": 0,
    "warmup_steps": 500,
    "warmup_from": 1 / 3,
    "frozen_stages": 1,
    "rules": "mmdetection",
    "aligned": False,
    "short_side": 800,
    "long_side": 1333,
    "mirror": True,
    "empty_images": False,
}
# In what they differ.
COLUMNS = ("backbone", "masks", "norm", "weight_standardization", "box_head", "pixels", "epochs")
ONCE = ("frozen_bn", False, "2fc", "rgb", 12)
ROWS = {
    "table5-r50": ("resnet50", False, *ONCE),
    "table5-r101": ("resnet101", False, *ONCE),
    "table5-x101-32x4d": ("resnext101_32x4d", False, *ONCE),
    "table5-x101-64x4d": ("resnext101_64x4d", False, *ONCE),
    "table6-r50": ("resnet50", True, *ONCE),
    "table6-r101": ("resnet101", True, *ONCE),
    "table6-x101-32x4d": ("resnext101_32x4d", True, *ONCE),
    "table6-x101-64x4d": ("resnext101_64x4d", True, *ONCE),
    "table6-r50-4c1f": ("resnet50", True, "frozen_bn", False, "4conv1fc", "rgb", 12),
    "table6-r101-gn": ("resnet101", True, "gn", False, "4conv1fc", "bgr", 24),
    "table6-r50-gn-ws": ("resnet50", True, "gn", True, "4conv1fc", "rgb", 24),
}


def test_there_is_a_run_for_each_row_of_both_tables():
    assert ROWS.keys() == set(TABLES)
    for name, row in ROWS.items():
        config = PRESETS[name][1]
        assert tuple(getattr(config, column) for column in COLUMNS) == row, name
        assert config.milestones == {12: (8, 11), 24: (16, 22)}[config.epochs]
        assert {key: getattr(config, key) for key in COMMON} == COMMON, name


def test_the_rules_of_the_tables_are_those_of_mmdetection_1():
    settings = make_abstract(PRESETS["table5-r50"][1], freeze=False).settings
    assert dataclasses.asdict(settings) == {
        "anchor_scale": 8,
        "nominal_strides": True,
        "aspect_ratios": (0.5, 1, 2),
        "pre_nms": (2000, 1000),
        "post_nms": (2000, 1000),
        "proposal_iou": 0.7,
        "proposal_min_size": 0,
        "anchor_iou": (0.3, 0.7),
        "anchor_min_iou": 0.3,
        "anchors_inside_only": True,
        "anchor_samples": 256,
        "anchor_positives": 0.5,
        "roi_iou": (0.5, 0.5),
        "roi_samples": 512,
        "roi_positives": 0.25,
        "anchor_beta": 1 / 9,
        "box_weights": (10, 10, 5, 5),
        "box_beta": 1,
        "score_threshold": 0.05,
        "detection_iou": 0.5,
        "detection_min_size": 0,
        "detections": 100,
        "aligned": False,
    }


def test_the_rate_rises_over_500_steps_from_a_third_and_falls_at_the_milestones():
    config, epoch = PRESETS["table6-r50"][1], 7330
    rate = schedule_of(optimizer_spec(config, steps_per_epoch=epoch), config.learning_rate)
    for step, expected in {
        0: 0.02 / 3,
        250: 0.02 * (1 - 1 / 3),
        500: 0.02,
        8 * epoch - 1: 0.02,
        8 * epoch: 0.002,
        11 * epoch: 0.0002,
    }.items():
        np.testing.assert_allclose(rate(step), expected, rtol=1e-5)


@pytest.mark.parametrize("name", PARAMETERS)
def test_nets_have_torchvisions_parameters_and_the_optimizer_only_trained_ones(name):
    config = PRESETS[name][1]
    every = nnx.state(make_abstract(config, freeze=False), nnx.Param)
    assert count(every) == PARAMETERS[name]
    model = make_abstract(config, freeze=True)
    trained = nnx.state(model, nnx.Param)
    assert count(trained) == PARAMETERS[name] - FROZEN
    tx = make_tx(
        optimizer_spec(config, steps_per_epoch=7330), model, learning_rate=1.0, weight_decay=0.0
    )
    opt_state = jax.eval_shape(tx.init, trained)
    momenta = [leaf for leaf in jax.tree.leaves(opt_state) if leaf.ndim]
    assert count(momenta) == count(trained)


# One of each kind, because a deep net takes seconds to trace.
@pytest.mark.parametrize("name", ["table5-x101-32x4d", "table6-r50-4c1f", "table6-r50-gn-ws"])
def test_nets_of_the_other_kinds_can_be_built(name):
    config = PRESETS[name][1]
    model = make_abstract(config, freeze=True)
    assert (model.mask_head is not None) == config.masks
    assert (
        type(model.box_head).__name__
        == {"2fc": "TwoFC", "4conv1fc": "FourConvOneFC"}[config.box_head]
    )


@pytest.mark.eight_devices
def test_settings_that_do_not_fit_together_are_refused():
    config, mesh = PRESETS["table5-r50"][1], make_mesh(1)
    with pytest.raises(SettingError, match="--pretrained None: layers that are frozen"):
        check_settings(config, 7330, mesh)
    scenes = PRESETS["scenes"][1]
    check_settings(scenes, 250, mesh)
    with pytest.raises(SettingError, match="--warmup-steps 100: the run has only 40 steps"):
        check_settings(scenes, 10, mesh)
    with pytest.raises(
        SettingError, match="--batch-size 7: it must be a multiple of the 2 devices"
    ):
        check_settings(dataclasses.replace(scenes, batch_size=7), 250, make_mesh(2))
    for changes, flag in (
        ({"train_split": "../x"}, "--train-split"),
        ({"frozen_stages": 5}, "--frozen-stages"),
        ({"short_side": 900, "long_side": 800}, "--short-side"),
        ({"max_objects": 0}, "--max-objects"),
    ):
        with pytest.raises(SettingError, match=flag):
            dataclasses.replace(scenes, **changes)
    assert isinstance(scenes, Config)


def test_another_batch_with_the_same_rate_gets_an_advice():
    base = PRESETS["table6-r50"][1]
    assert scale_learning_rate(base, base) is None
    advice = scale_learning_rate(dataclasses.replace(base, batch_size=8), base)
    assert advice is not None
    assert "--learning-rate 0.01" in advice
    both = dataclasses.replace(base, batch_size=8, learning_rate=0.01)
    assert scale_learning_rate(both, base) is None
