"""Makes the detectors of the references again, whose weights have their names as seeds, and a tiny one."""

import functools
import json
import math
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from examples import detection
from examples.detection import pretrained
from tests.examples.detection.references import DATA, make_input

NETS = json.loads((DATA / "nets.json").read_text())
# The detectors of which torchvision computed every stage.
REFERENCES = ("maskrcnn_r18", "fasterrcnn_r18_4conv1fc")


def make_weight(key: str, shape: Sequence[int], kind: str, factor: float = 1.0) -> np.ndarray:
    """Makes an array of weights. Its key in PyTorch is the seed."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    match kind:
        case "conv_weight" | "linear_weight":
            value = rng.standard_normal(shape) * (0.8 * math.sqrt(2 / math.prod(shape[1:])))
        case "bias":
            value = rng.standard_normal(shape) * 0.05
        case "norm_weight":
            value = 1 + 0.1 * rng.standard_normal(shape)
        case "norm_bias" | "running_mean":
            value = 0.1 * rng.standard_normal(shape)
        case "running_var":
            value = 1 + 0.2 * rng.random(shape)
        case _:
            raise ValueError(kind)
    return (value * factor).astype(np.float32)


def make_state(name: str) -> dict[str, np.ndarray]:
    """Makes the weights of a reference by torchvision's keys."""
    return {entry[0]: make_weight(*entry) for entry in NETS[name]["keys"]}


@functools.cache
def make_net(name: str) -> detection.RCNN:
    """Makes the detector of a reference. In training it draws every anchor and region."""
    config = NETS[name]["config"]
    settings = detection.Settings(
        anchor_samples=20_000, roi_samples=460, roi_positives=0.1, proposal_min_size=1e-3
    )
    model = nnx.eval_shape(
        lambda: detection.create(
            config["backbone"],
            num_classes=config["num_classes"],
            norm=config["norm"],
            box_head=config["head"],
            masks=config["masks"],
            normalize_heads=config.get("normalize_heads", False),
            rpn_convs=config.get("rpn_convs", 1),
            fpn_channels=config["fpn"],
            fc_units=config["fc"],
            anchor_scale=config["anchor_scale"],
            pre_nms=config["pre_nms"],
            post_nms=config["post_nms"],
            detections=config["detections"],
            settings=settings,
            rngs=nnx.Rngs(0),
        )
    )
    pretrained.load_torch_state(model, make_state(name))
    return model


def make_images(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Makes the images (B, H, W, 3) of a reference, padded with zeros, and their sizes (B, 2)."""
    net = NETS[name]
    shapes = np.asarray(net["image_shapes"])[:, 1:]
    images = np.zeros((len(shapes), *shapes.max(0), 3), np.float32)
    for image, seed, shape in zip(images, net["image_names"], net["image_shapes"], strict=True):
        image[: shape[1], : shape[2]] = make_input(seed, tuple(shape)).transpose(1, 2, 0)
    return images, shapes


def to_nhwc(x: Any) -> np.ndarray:
    return np.moveaxis(np.asarray(x), 1, -1)


create_tiny_net = functools.partial(
    detection.create,
    "resnet18",
    num_classes=3,
    masks=True,
    fpn_channels=8,
    fc_units=16,
    width=8,
    anchor_scale=2,
    pre_nms=(40, 20),
    post_nms=(20, 10),
    detections=5,
    settings=detection.Settings(anchor_samples=16, roi_samples=8),
)


@functools.cache
def make_tiny_net() -> detection.RCNN:
    """Makes a Mask R-CNN of a few thousand random weights."""
    model = nnx.eval_shape(lambda: create_tiny_net(rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)

    def fill(x):
        """Makes a kernel of the usual size, and vectors near 1, without compiling anything."""
        values = rng.standard_normal(x.shape) / np.sqrt(max(1, np.prod(x.shape[:-1])))
        return jnp.asarray(values if len(x.shape) > 1 else 1 + 0.1 * values, x.dtype)

    nnx.update(model, jax.tree.map(fill, nnx.state(model)))
    return model
