"""Object detection in JAX with the operations and the numbers of torchvision.

`create` makes a Faster or a Mask R-CNN, and `detect` finds objects with it. Images are NHWC,
normalised, and padded with zeros at the right and the bottom. Boxes are (x1, y1, x2, y2) in pixels.

>>> import jax.numpy as jnp
>>> from flax import nnx
>>> from examples import detection
>>> model = detection.create(
...     "resnet18", num_classes=3, fpn_channels=8, fc_units=16, width=8, masks=True,
...     pre_nms=(40, 20), post_nms=(20, 10), detections=5, rngs=nnx.Rngs(0),
... )
>>> found = detection.detect(model, jnp.zeros((1, 64, 64, 3)), [(50, 64)])
>>> found.boxes.shape, found.masks.shape
((1, 5, 4), (1, 5, 28, 28))
>>> detection.paste_masks(found.masks[0], found.boxes[0], (50, 64)).shape
(5, 50, 64)
"""

import importlib
from typing import TYPE_CHECKING, Any

from examples.detection.settings import MMDETECTION_1, TORCHVISION, Settings

if TYPE_CHECKING:
    from examples.detection.backbone import freeze
    from examples.detection.box_head import Detections
    from examples.detection.box_nms import batched_nms, nms
    from examples.detection.detector import create, detect
    from examples.detection.masks import paste_masks
    from examples.detection.rcnn import RCNN, MaskDetections
    from examples.detection.targets import stack_targets

__all__ = [
    "MMDETECTION_1",
    "RCNN",
    "TORCHVISION",
    "Detections",
    "MaskDetections",
    "Settings",
    "batched_nms",
    "create",
    "detect",
    "freeze",
    "nms",
    "paste_masks",
    "stack_targets",
]

# These modules import JAX and Flax, which takes seconds that the help of a program can do without.
_MODULES = {
    "RCNN": "rcnn",
    "Detections": "box_head",
    "MaskDetections": "rcnn",
    "batched_nms": "box_nms",
    "create": "detector",
    "detect": "detector",
    "freeze": "backbone",
    "nms": "box_nms",
    "paste_masks": "masks",
    "stack_targets": "targets",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
