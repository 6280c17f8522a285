"""Runs share the compiled steps where no setting differs that the steps depend on."""

import dataclasses

from examples.detection.config import Config
from examples.detection.task import net_settings
from tests.examples.detection.tiny import CONFIG

# Another value of every setting, and whether a run with it shares the compiled steps.
OTHER = {
    "epochs": (16, False),
    "batch_size": (2, False),
    "learning_rate": (0.2, True),
    "weight_decay": (0.1, True),
    "gc": ("off", False),
    "seed": (1, True),
    "optimizer": ("adam", False),
    "momentum": (0.5, False),
    "clip_norm": (1.0, False),
    "schedule": ("constant", False),
    "milestones": ((5,), False),
    "warmup_epochs": (2, False),
    "warmup_steps": (2, False),
    "warmup_from": (0.5, False),
    "pretrained": ("weights.safetensors", True),
    "evaluate_every": (3, True),
    "dataset": ("coco", True),
    "train_split": ("other", True),
    "eval_split": ("other", True),
    "backbone": ("resnet34", False),
    "masks": (False, False),
    "norm": ("gn", False),
    "weight_standardization": (True, False),
    "box_head": ("4conv1fc", False),
    "frozen_stages": (2, False),
    "width": (4, False),
    "fpn_channels": (4, False),
    "fc_units": (4, False),
    "rules": ("torchvision", False),
    "aligned": (False, False),
    "anchor_scale": (2.0, False),
    "proposals": (20, False),
    "anchor_samples": (8, False),
    "roi_samples": (8, False),
    "detections": (4, False),
    "pixels": ("bgr", True),
    "short_side": (32, True),
    "long_side": (128, True),
    "max_objects": (9, True),
    "mask_cells": (14, True),
    "mirror": (False, True),
    "train_images": (3, True),
    "eval_images": (3, True),
    "empty_images": (True, True),
    "dtype": ("bfloat16", False),
}
# What must change with a setting.
WITH = {"milestones": {"schedule": "step"}, "warmup_epochs": {"warmup_steps": 0}}


def test_runs_share_steps_if_no_setting_differs_that_the_steps_depend_on():
    assert OTHER.keys() == {field.name for field in dataclasses.fields(Config)}
    for name, (value, shared) in OTHER.items():
        changes = {name: value}
        changes |= WITH.get(name, {})
        config = dataclasses.replace(CONFIG, **changes)
        assert (net_settings(config) == net_settings(CONFIG)) == shared, name
