"""The settings of a detection run."""

import dataclasses
from typing import Literal

from examples.training.settings import Settings

Backbone = Literal[
    "resnet18", "resnet34", "resnet50", "resnet101", "resnext101_32x4d", "resnext101_64x4d"
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """The settings that determine the results of a detection run, up to rounding."""

    dataset: Literal["coco", "scenes"]
    """The data set, in COCO's format: the folder --data-dir (coco), or digits in scenes, which are made there or in runs/scenes if the folder does not exist (scenes)."""
    batch_size: int
    """The number of images in a step, over all devices. The last batch of an epoch is filled with images that it has already seen, for each of the shapes to which images are padded."""
    train_split: str
    """The images to train on: the folder TRAIN-SPLIT with annotations/instances_TRAIN-SPLIT.json."""
    eval_split: str
    """The images to evaluate on."""
    backbone: Backbone
    """The network of whose stages the feature pyramid is built."""
    masks: bool
    """Predict masks too: a Mask R-CNN instead of a Faster R-CNN."""
    norm: Literal["frozen_bn", "gn"] = "frozen_bn"
    """Batch normalization with the statistics of the pretrained weights (frozen_bn), or group normalization in backbone, pyramid and heads (gn)."""
    weight_standardization: bool = False
    """Standardize the kernels of the convolutions in backbone, pyramid and heads."""
    box_head: Literal["2fc", "4conv1fc"] = "2fc"
    """The box head: two linear layers, or four convolutions and one linear layer."""
    frozen_stages: int | None = 1
    """Do not train the stem and this many stages. None trains everything."""
    width: int = 64
    """The number of channels of the stem, with which the backbone scales."""
    fpn_channels: int = 256
    """The number of channels of the pyramid and of the heads' convolutions."""
    fc_units: int = 1024
    """The number of outputs of the heads' linear layers."""
    rules: Literal["mmdetection", "torchvision"] = "mmdetection"
    """Whose rules for matching and losses: those of the paper's detectors (mmdetection), or torchvision's."""
    aligned: bool = False
    """Shift RoIAlign and mask targets by half a pixel, and do not round boxes to whole pixels when masks are drawn. This improves results on small images."""
    anchor_scale: float = 8.0
    """The side of a square anchor, in strides of its level. With 8, the smallest square anchor has 32 pixels. An object that is much smaller than the smallest anchors is not learned."""
    proposals: int = 2000
    """The number of proposals of an image in training, and of anchors of a level from which they are chosen. Evaluation takes half."""
    anchor_samples: int = 256
    """The number of anchors of an image that the loss sees."""
    roi_samples: int = 512
    """The number of regions of an image that the heads' losses see."""
    detections: int = 100
    """The largest number of detections of an image."""
    pixels: Literal["rgb", "bgr", "fashion_mnist"] = "rgb"
    """The order and scale of the colors that the pretrained weights expect: torchvision's (rgb), Detectron's (bgr), or those of a run of examples.train_classifier on Fashion-MNIST (fashion_mnist)."""
    short_side: int = 800
    """Resize each image until its shorter side has this many pixels, or its longer side as many as --long-side."""
    long_side: int = 1333
    """The largest length of the longer side of a resized image, in pixels."""
    max_objects: int = 100
    """The largest number of objects in a training image. An image with more is an error."""
    mask_cells: int = 112
    """The rows and columns that an object's mask has in its box."""
    mirror: bool = True
    """Mirror half of the training images from left to right. Mirrored digits or letters are wrong."""
    train_images: int | None = None
    """Train on only this many images: the first ones that have objects."""
    eval_images: int | None = None
    """Evaluate on only this many images: the first ones."""
    empty_images: bool = False
    """Train on images without objects too."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The number format of the computation. Parameters and losses are always float32."""

    def __post_init__(self):
        super().__post_init__()
        for field in (
            "width", "fpn_channels", "fc_units", "anchor_samples", "roi_samples", "detections",
            "short_side", "long_side", "max_objects", "mask_cells", "train_images", "eval_images",
        ):  # fmt: skip
            value = getattr(self, field)
            self.require(value is None or value >= 1, field, "it must be at least 1")
        self.require(
            0 < self.anchor_scale < float("inf"), "anchor_scale", "it must be a positive number"
        )
        self.require(self.proposals >= 2, "proposals", "it must be at least 2")
        self.require(self.roi_samples >= 4, "roi_samples", "it must be at least 4")
        self.require(
            self.frozen_stages is None or 0 <= self.frozen_stages <= 4,
            "frozen_stages",
            "it must be from 0 to 4, or None",
        )
        self.require(
            self.short_side <= self.long_side, "short_side", "it must not be above --long-side"
        )
        for field in ("train_split", "eval_split"):
            name = getattr(self, field)
            plain = name.replace("_", "").replace("-", "").isalnum()
            self.require(plain, field, "it must be a name of letters and digits")
