"""The detection runs of the paper by name, with the paper's settings, and small ones."""

import dataclasses

from examples.detection.config import Config

# Section 4.4 of the paper, and the settings of mmdetection 1 that its authors trained with.
_COCO = Config(
    dataset="coco",
    train_split="train2017",
    eval_split="val2017",
    backbone="resnet50",
    masks=False,
    epochs=12,
    milestones=(8, 11),
    batch_size=16,
    learning_rate=0.02,
    weight_decay=1e-4,
    warmup_steps=500,
    warmup_from=1 / 3,
    clip_norm=35.0,
)
_TWICE = {"epochs": 24, "milestones": (16, 22)}
# A small net and small images, for a CPU. Nothing is tuned, with GC or without.
_SCENES = Config(
    dataset="scenes",
    train_split="train",
    eval_split="test",
    backbone="resnet18",
    masks=True,
    norm="gn",
    frozen_stages=None,
    width=16,
    fpn_channels=32,
    fc_units=128,
    aligned=True,
    anchor_scale=4.0,  # most digits have 15 to 45 pixels
    proposals=200,
    anchor_samples=64,
    roi_samples=48,
    detections=20,
    short_side=128,
    long_side=128,
    max_objects=8,
    mask_cells=56,
    mirror=False,  # a mirrored digit is no digit
    epochs=4,
    evaluate_every=4,
    schedule="cosine",
    batch_size=8,
    learning_rate=0.02,
    weight_decay=1e-4,
    warmup_steps=100,
    clip_norm=35.0,
)


def _presets() -> dict[str, tuple[str, Config]]:
    replace = dataclasses.replace
    presets = {}
    nets = {
        "r50": ("resnet50", "R50"),
        "r101": ("resnet101", "R101"),
        "x101-32x4d": ("resnext101_32x4d", "X101-32x4d"),
        "x101-64x4d": ("resnext101_64x4d", "X101-64x4d"),
    }
    for table, kind, masks in ((5, "Faster", False), (6, "Mask", True)):
        for name, (backbone, title) in nets.items():
            presets[f"table{table}-{name}"] = (
                f"Table {table}, {kind} R-CNN with {title} on COCO; needs --pretrained",
                replace(_COCO, backbone=backbone, masks=masks),
            )
    masked = replace(_COCO, masks=True, box_head="4conv1fc")
    presets["table6-r50-4c1f"] = (
        "Table 6, Mask R-CNN with R50 and a box head of 4 convolutions; needs --pretrained",
        masked,
    )
    presets["table6-r101-gn"] = (
        "Table 6, Mask R-CNN with R101 and GN; needs Detectron's weights as --pretrained",
        replace(masked, backbone="resnet101", norm="gn", pixels="bgr", **_TWICE),
    )
    presets["table6-r50-gn-ws"] = (
        "Table 6, Mask R-CNN with R50, GN and weight standardization; needs --pretrained",
        replace(masked, norm="gn", weight_standardization=True, **_TWICE),
    )
    presets["scenes"] = "small: a narrow Mask R-CNN on digits in scenes", _SCENES
    presets["scenes-overfit"] = (
        "small: the same, trained and evaluated on the same 8 scenes",
        replace(
            _SCENES,
            eval_split="train",
            train_images=8,
            eval_images=8,
            epochs=600,
            evaluate_every=150,
            learning_rate=0.03,
        ),
    )
    return presets


# The name of each run, with a title and its settings.
PRESETS = _presets()
