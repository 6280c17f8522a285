"""The paper's classification runs by name, with the paper's settings, and small ones beside them."""

import dataclasses
from typing import Literal

from examples import datasets, models
from examples.training.optimizers import GC, Optimizer, Schedule


@dataclasses.dataclass(frozen=True)
class Config:
    """All that decides what a run's numbers are, up to rounding."""

    dataset: str
    """One of examples.datasets.NAMES."""
    model: str
    """One of examples.models.NAMES."""
    epochs: int
    """Passes over the training images."""
    batch_size: int
    """Images a step, of all devices together; the last images of an epoch that fill no batch are left out."""
    learning_rate: float
    """At the start, behind the warm-up."""
    weight_decay: float
    """Of every parameter. Coupled (L2) in sgd, adam and adagrad; decoupled in sgdw and adamw."""
    gc: GC = "conv+fc"
    """Where gradients are centralized. "optax.centralize" averages over other axes, as a control."""
    seed: int = 0
    """Of weights, order, augmentation and the draw of train_images."""
    optimizer: Optimizer = "sgd"
    momentum: float = 0.9
    """Of sgd and sgdw."""
    schedule: Schedule = "step"
    milestones: tuple[int, ...] = ()
    """Epochs after which the step schedule multiplies the rate by 0.1."""
    warmup_epochs: int = 0
    """Epochs of linear warm-up."""
    head_learning_rate: float | None = None
    """A rate of its own for the last layer, as in fine-tuning; it follows the same schedule."""
    label_smoothing: float = 0.0
    pretrained: str | None = None
    """Weights to start from, all but the last layer's: a .safetensors or .pth file of PyTorch, or the folder of a run."""
    stem: models.Stem = "imagenet"
    norm: Literal["bn", "gn"] = "bn"
    weight_standardization: bool = False
    width: int | None = None
    """Channels of the stem; None for the net's own."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; parameters stay float32."""
    train_images: int | None = None
    """Train on this many images, drawn by the seed."""
    validation: int = 0
    """Hold out this many training images and evaluate on them: the test set is not touched."""
    classes: tuple[int, ...] | None = None
    """Keep these classes alone."""
    pad: int = 0
    """Set images in a black frame of this many pixels first."""
    pool: int = 1
    """Then average blocks of this many pixels squared."""
    evaluate_every: int = 1
    """Epochs between evaluations; the last epoch always has one."""

    def __post_init__(self):
        def need(condition: bool, field: str, what: str):
            if not condition:
                flag = "--" + field.replace("_", "-")
                raise ValueError(f"{flag} {getattr(self, field)}: {what}")

        need(self.dataset in datasets.NAMES, "dataset", f"one of {', '.join(datasets.NAMES)}")
        need(self.model in models.NAMES, "model", f"one of {', '.join(models.NAMES)}")
        for field in ("epochs", "batch_size", "pool", "evaluate_every"):
            need(getattr(self, field) >= 1, field, "at least 1")
        for field in ("learning_rate", "head_learning_rate"):
            rate = getattr(self, field)
            need(rate is None or 0 < rate < float("inf"), field, "a positive number")
        need(0 <= self.weight_decay < float("inf"), "weight_decay", "0 or more")
        need(0 <= self.momentum < 1, "momentum", "at least 0 and below 1")
        need(0 <= self.label_smoothing < 1, "label_smoothing", "at least 0 and below 1")
        need(0 <= self.seed < 2**32, "seed", "0 to 2**32 - 1")
        need(self.pad >= 0, "pad", "0 or more")
        need(0 <= self.warmup_epochs < self.epochs, "warmup_epochs", "fewer than --epochs")
        inside = all(self.warmup_epochs < milestone < self.epochs for milestone in self.milestones)
        need(
            inside and list(self.milestones) == sorted(set(self.milestones)),
            "milestones",
            "epochs in rising order, behind the warm-up and before the end",
        )
        need(
            bool(self.milestones) == (self.schedule == "step"),
            "milestones",
            "the step schedule needs them, the others have none",
        )


_CIFAR = Config(
    dataset="cifar100",
    model="resnet18",
    stem="cifar",
    epochs=200,
    batch_size=128,
    learning_rate=0.1,
    weight_decay=5e-4,
    milestones=(60, 120, 180),
    gc="conv",
)
_IMAGENET = Config(
    dataset="imagenet",
    model="resnet50",
    epochs=100,
    batch_size=256,
    learning_rate=0.1,
    weight_decay=1e-4,
    milestones=(30, 60, 90),
    gc="conv",
)
_FINE_GRAINED = Config(
    dataset="aircraft",
    model="resnet50",
    epochs=100,
    batch_size=256,
    learning_rate=0.01,
    head_learning_rate=0.1,
    weight_decay=1e-4,
    milestones=(50, 80),
)
_MINI_IMAGENET = dataclasses.replace(
    _IMAGENET, dataset="mini_imagenet", batch_size=128, gc="conv+fc"
)
# Chosen for seconds to minutes on a laptop's CPU, not tuned for either arm.
_SMALL = Config(
    dataset="digits",
    model="resnet8",
    stem="cifar",
    norm="gn",
    width=8,
    epochs=15,
    batch_size=50,
    learning_rate=0.1,
    weight_decay=5e-4,
    schedule="cosine",
)


def _runs() -> dict[str, tuple[str, Config]]:
    replace = dataclasses.replace
    runs = {}
    for model, title in {
        "resnet18": "R18",
        "resnet101": "R101",
        "resnext29_4x64d": "X29",
        "vgg11": "V11",
        "densenet121": "D121",
    }.items():
        runs[f"table1-{model}"] = f"Table 1, {title} on CIFAR-100", replace(_CIFAR, model=model)
    for optimizer, rate, decay in (
        ("sgd", 0.1, 5e-4),
        ("adam", 0.001, 5e-4),
        ("adagrad", 0.01, 5e-4),
        ("sgdw", 0.1, 1e-3),
        ("adamw", 0.001, 1e-3),
    ):
        runs[f"table2-{optimizer}"] = (
            f"Table 2, R50 on CIFAR-100 by {optimizer}",
            replace(
                _CIFAR,
                model="resnet50",
                optimizer=optimizer,
                learning_rate=rate,
                weight_decay=decay,
            ),
        )
    for model in ("resnet50", "resnet101"):
        for norm in ("bn", "gn"):
            figure = " and Figure 6" if (model, norm) == ("resnet50", "gn") else ""
            runs[f"table3-{model}-{norm}"] = (
                f"Table 3{figure}, {model} with {norm.upper()} on ImageNet",
                replace(_IMAGENET, model=model, norm=norm),
            )
    for name in ("aircraft", "cars", "dogs", "cub"):
        runs[f"table4-{name}"] = (
            f"Table 4 and Figure 7, fine-tuning R50 on {name}; give --pretrained",
            replace(_FINE_GRAINED, dataset=name),
        )
    runs["figure5-bn"] = "Figure 5, R50 on Mini-ImageNet", _MINI_IMAGENET
    runs["figure5-bn-ws"] = (
        "Figure 5, the same with weight standardization",
        replace(_MINI_IMAGENET, weight_standardization=True),
    )
    runs["digits"] = "small: ResNet-8 on 8x8 digits", _SMALL
    runs["mnist5k"] = (
        "small: ResNet-8 on 300 images of MNIST at 14x14",
        replace(_SMALL, dataset="mnist5k", epochs=25, train_images=300, pool=2),
    )
    runs["fashion-mnist"] = (
        "small: ResNet-8 on 1000 images of Fashion-MNIST at 14x14",
        replace(
            _SMALL,
            dataset="fashion_mnist",
            epochs=25,
            train_images=1000,
            pool=2,
            evaluate_every=5,
        ),
    )
    runs["fashion-mnist-resnet20"] = (
        "ResNet-20 on all of Fashion-MNIST",
        replace(
            _SMALL,
            dataset="fashion_mnist",
            model="resnet20",
            norm="bn",
            width=None,
            batch_size=128,
        ),
    )
    return runs


# name: (what it is, its config)
RUNS = _runs()
