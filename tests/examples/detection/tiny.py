"""A Mask R-CNN of a few thousand parameters, which the tests of training share."""

import dataclasses

from examples.detection.presets import PRESETS

BASE = "scenes-overfit"
CONFIG = dataclasses.replace(
    PRESETS[BASE][1],
    width=8,
    fpn_channels=8,
    fc_units=32,
    proposals=40,
    roi_samples=16,
    anchor_samples=32,
    detections=8,
    short_side=64,
    long_side=64,
    mask_cells=28,
    train_images=4,
    eval_images=4,
    batch_size=4,
    epochs=30,
    evaluate_every=30,
    warmup_steps=5,
    norm="frozen_bn",
    frozen_stages=1,
)


def flags_of(config) -> list[str]:
    """Returns the run and the flags that make a configuration."""
    flags = [BASE]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != getattr(PRESETS[BASE][1], field.name):
            flags += ["--" + field.name.replace("_", "-"), str(value)]
    return flags
