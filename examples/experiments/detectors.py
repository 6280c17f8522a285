"""Tables 5 and 6 of the paper: detectors, at the paper's scale and at that of a CPU.

At the scale of a CPU, narrow detectors of digits in scenes are fine-tuned from narrow classifiers of
Fashion-MNIST, as the paper fine-tunes detectors of COCO from classifiers of ImageNet. PLAN.md fixes
all of it.
"""

import dataclasses
from typing import Any

from examples.classification.config import Config as Classifier
from examples.classification.presets import PRESETS as CLASSIFIERS
from examples.detection.config import Config
from examples.detection.presets import PRESETS
from examples.experiments.columns import Column, Experiment, Metric
from examples.training.settings import GC

BOX_AP = Metric("test_box_AP", "box AP", factor=100)
MASK_AP = Metric("test_mask_AP", "mask AP", factor=100)

_WIDTH = 8
# Without normalization in the heads, detectors diverge at lower rates than with it.
_RATES = {"frozen_bn": (0.01, 0.03, 0.1), "gn": (0.03, 0.1, 0.3)}
_SEEDS = 8
# A detector like the small one of `detection.presets`, which is half as wide and sees fewer scenes.
_CPU = dataclasses.replace(
    PRESETS["scenes"][1],
    pixels="fashion_mnist",
    frozen_stages=1,
    width=_WIDTH,
    fpn_channels=16,
    fc_units=64,
    train_images=400,
    batch_size=4,
    epochs=6,
    evaluate_every=6,
    warmup_steps=50,
)


@dataclasses.dataclass(frozen=True)
class DetectorColumn(Column[Config]):
    """A column of detectors. The runs of its grid are evaluated on the validation scenes.

    Attributes:
      paper_masks: the paper's mean mask AP of each arm; `paper` has the box AP.
    """

    paper_masks: tuple[float, ...] = ()

    def paper_of(self, metric: Metric) -> tuple[float, ...]:
        """Returns the paper's mean of each arm."""
        return self.paper_masks if metric == MASK_AP else self.paper

    def grid_config(self, arm: GC, rate: float, seed: int) -> Config:
        """Returns a run of the grid."""
        return dataclasses.replace(
            self.config, gc=arm, learning_rate=rate, seed=seed, eval_split="validation"
        )


def backbones() -> tuple[Column[Classifier], ...]:
    """Returns the classifiers that the small detectors are fine-tuned from."""
    # Padded to 64x64, so that the last stage still has 2x2 pixels.
    config = dataclasses.replace(
        CLASSIFIERS["table1-resnet18"][1],
        dataset="fashion_mnist",
        stem="imagenet",
        width=_WIDTH,
        pad=18,
        train_images=10_000,
        batch_size=50,
        epochs=5,
        schedule="cosine",
        milestones=(),
        evaluate_every=5,
    )
    kinds: dict[str, dict[str, Any]] = {
        "fashion-bn": {},
        "fashion-gn": {"norm": "gn"},
        "fashion-gn-ws": {"norm": "gn", "weight_standardization": True},
    }
    return tuple(
        Column(name, dataclasses.replace(config, **kind), arms=("off",), seeds=1)
        for name, kind in kinds.items()
    )


def _small(
    name: str, paper: tuple[tuple[float, ...], tuple[float, ...]], **changes: Any
) -> DetectorColumn:
    settings = {"norm": "frozen_bn", "pretrained": "fashion-bn", "box_head": "2fc"} | changes
    config = dataclasses.replace(_CPU, **settings)
    return DetectorColumn(
        name,
        config,
        seeds=_SEEDS,
        rates=_RATES[config.norm],
        paper=paper[0],
        paper_masks=paper[1],
    )


def _full(
    name: str, run: str, weights: str, paper: tuple[tuple[float, ...], tuple[float, ...]]
) -> DetectorColumn:
    config = dataclasses.replace(PRESETS[run][1], pretrained=weights)
    return DetectorColumn(name, config, seeds=1, paper=paper[0], paper_masks=paper[1])


def table5() -> Experiment[Any]:
    """Returns Table 5: Faster R-CNN."""
    paper = {
        "R50": ("table5-r50", "resnet50.pth", ((36.4, 37.0), ())),
        "R101": ("table5-r101", "resnet101.pth", ((38.5, 38.9), ())),
        "X101-32x4d": ("table5-x101-32x4d", "resnext101_32x4d.safetensors", ((40.1, 40.7), ())),
        "X101-64x4d": ("table5-x101-64x4d", "resnext101_64x4d.safetensors", ((41.3, 41.6), ())),
    }
    return Experiment(
        "Box AP of Faster R-CNN",
        {
            "paper": tuple(_full(name, *row) for name, row in paper.items()),
            "cpu": (_small("R-narrow", paper["R50"][2], masks=False),),
        },
        metrics=(BOX_AP,),
        trainer="detector",
    )


def table6() -> Experiment[Any]:
    """Returns Table 6: Mask R-CNN."""
    paper = {
        "R50": ("table6-r50", "resnet50.pth", ((37.4, 37.9), (34.1, 34.7))),
        "R101": ("table6-r101", "resnet101.pth", ((39.4, 40.0), (35.9, 36.2))),
        "X101-32x4d": (
            "table6-x101-32x4d",
            "resnext101_32x4d.safetensors",
            ((41.1, 41.6), (37.1, 37.4)),
        ),
        "X101-64x4d": (
            "table6-x101-64x4d",
            "resnext101_64x4d.safetensors",
            ((42.1, 42.8), (38.0, 38.4)),
        ),
        "R50 4c1f": ("table6-r50-4c1f", "resnet50.pth", ((37.5, 38.4), (33.9, 34.6))),
        "R101 GN": ("table6-r101-gn", "resnet101_gn.pth", ((41.1, 41.7), (36.9, 37.4))),
        "R50 GN+WS": ("table6-r50-gn-ws", "resnet50_gn_ws.pth", ((40.0, 40.6), (36.1, 36.6))),
    }
    conv: dict[str, Any] = {"box_head": "4conv1fc"}
    group: dict[str, Any] = {**conv, "norm": "gn", "pretrained": "fashion-gn"}
    standard: dict[str, Any] = {
        **group,
        "weight_standardization": True,
        "pretrained": "fashion-gn-ws",
    }
    return Experiment(
        "Box AP and mask AP of Mask R-CNN",
        {
            "paper": tuple(_full(name, *row) for name, row in paper.items()),
            "cpu": (
                _small("R-narrow", paper["R50"][2]),
                _small("R-narrow 4c1f", paper["R50 4c1f"][2], **conv),
                _small("R-narrow GN", paper["R101 GN"][2], **group),
                _small("R-narrow GN+WS", paper["R50 GN+WS"][2], **standard),
            ),
        },
        metrics=(BOX_AP, MASK_AP),
        trainer="detector",
    )
