"""The settings of a classification run."""

import dataclasses
from typing import Literal

from examples.training.settings import Settings

# Written out here so that the command line can list them without importing a net or a reader.
Dataset = Literal[
    "cifar100",
    "imagenet",
    "mini_imagenet",
    "aircraft",
    "cars",
    "dogs",
    "cub",
    "digits",
    "mnist5k",
    "fashion_mnist",
]
Model = Literal[
    "resnet8",
    "resnet20",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnext29_4x64d",
    "resnext50_32x4d",
    "resnext101_32x4d",
    "resnext101_64x4d",
    "vgg11",
    "densenet121",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """The settings that determine the results of a classification run, up to rounding."""

    dataset: Dataset
    """The data set."""
    model: Model
    """The network."""
    head_learning_rate: float | None = None
    """The learning rate of the last layer in fine-tuning, if it has its own. It follows the same schedule."""
    label_smoothing: float = 0.0
    """The share of each label that is spread over all classes."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """The first layers: those for large images (imagenet), or those for small images (cifar)."""
    norm: Literal["bn", "gn"] = "bn"
    """The normalization: batch normalization (bn) or group normalization (gn)."""
    groups: int | None = None
    """The number of groups of group normalization. By default 32, or fewer in a narrow net, so that each group has at least two channels."""
    weight_standardization: bool = False
    """Standardize the kernel of every convolution."""
    width: int | None = None
    """The number of channels of the first layer, with which every layer scales. By default, the published one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The number format of the computation. Parameters are always float32."""
    train_images: int | None = None
    """Train on only this many images. The seed chooses them."""
    validation: int = 0
    """Hold out this many training images and evaluate on them instead of the test images."""
    classes: tuple[int, ...] | None = None
    """Keep only the images of these classes."""
    pad: int = 0
    """Pad images with this many black pixels on every side."""
    pool: int = 1
    """After padding, average over squares of this many pixels a side."""

    def __post_init__(self):
        super().__post_init__()
        rate = self.head_learning_rate
        self.require(
            rate is None or 0 < rate < float("inf"),
            "head_learning_rate",
            "it must be a positive number",
        )
        self.require(
            0 <= self.label_smoothing < 1, "label_smoothing", "it must be at least 0 and below 1"
        )
        self.require(self.pad >= 0, "pad", "it must be 0 or more")
        self.require(self.pool >= 1, "pool", "it must be at least 1")
        self.require(self.validation >= 0, "validation", "it must be 0 or more")
        self.require(
            self.groups is None or self.norm == "gn",
            "groups",
            "only group normalization has groups: pass --norm gn too",
        )
        for field in ("width", "train_images", "groups"):
            value = getattr(self, field)
            self.require(value is None or value >= 1, field, "it must be at least 1")
