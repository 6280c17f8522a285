"""Makes a detector, and finds objects with it."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from examples.detection.backbone import create_backbone
from examples.detection.box_head import Detections
from examples.detection.rcnn import RCNN, MaskDetections
from examples.detection.settings import TORCHVISION, Settings


def create(
    backbone: str,
    *,
    num_classes: int,
    norm: Literal["frozen_bn", "gn"] = "frozen_bn",
    weight_standardization: bool = False,
    box_head: Literal["2fc", "4conv1fc"] = "2fc",
    masks: bool = False,
    fpn_channels: int = 256,
    fc_units: int = 1024,
    anchor_scale: float = 8,
    pre_nms: tuple[int, int] = (2000, 1000),
    post_nms: tuple[int, int] = (2000, 1000),
    detections: int = 100,
    score_threshold: float = 0.05,
    normalize_heads: bool = False,
    rpn_convs: int = 1,
    norm_epsilon: float = 1e-5,
    width: int = 64,
    settings: Settings = TORCHVISION,
    dtype: DTypeLike | None = None,
    rngs: nnx.Rngs,
) -> RCNN:
    """Makes a Faster R-CNN, or a Mask R-CNN, with a feature pyramid.

    Args:
      backbone: a ResNet or ResNeXt of `examples.models.NAMES` that has an ImageNet form.
      num_classes: the number of classes, with the background, which is class 0. torchvision's
        detectors for COCO have 91.
      norm: batch normalization in the backbone with stored statistics that never change, or
        group normalization in the backbone, the pyramid and the heads' convolutions.
      weight_standardization: standardize the kernels of the convolutions in the backbone, the
        pyramid and the heads, but not in the region proposal network.
      box_head: two linear layers, or four convolutions and one linear layer.
      masks: add a mask head, which makes it a Mask R-CNN.
      fpn_channels: the channels of the pyramid and of the heads' convolutions.
      fc_units: the outputs of the box head's linear layers.
      anchor_scale: the side of a square anchor, in strides of its level.
      pre_nms: how many anchors of each level may become proposals, in training and evaluation.
      post_nms: how many proposals an image keeps, in training and evaluation.
      detections: how many detections an image has at most.
      score_threshold: detections have scores above this.
      normalize_heads: with "frozen_bn", normalize in the pyramid and the heads' convolutions too,
        as torchvision's detectors of the name v2 do. With "gn" this is always so.
      rpn_convs: the 3x3 convolutions of the region proposal network. Those of the name v2 have 2.
      norm_epsilon: what the backbone's normalization adds to the variance.
      width: the channels of the backbone's stem.
      settings: all other numbers. Those that are arguments here are taken from the arguments.
      dtype: the dtype of the computation; None is that of images and parameters. Parameters are
        float32, and boxes, scores and losses are at least that.
      rngs: the seed of the parameters (stream ``params``).

    Raises:
      ValueError: a name is unknown, or a size is too small.
    """
    if norm not in ("frozen_bn", "gn"):
        raise ValueError(f'norm must be "frozen_bn" or "gn", not {norm!r}')
    if box_head not in ("2fc", "4conv1fc"):
        raise ValueError(f'box_head must be "2fc" or "4conv1fc", not {box_head!r}')
    if num_classes < 2:
        raise ValueError(
            f"num_classes counts the background too, so it must be at least 2, not {num_classes}"
        )
    for name, pair in {"pre_nms": pre_nms, "post_nms": post_nms}.items():
        if len(pair) != 2 or min(pair) < 1:
            raise ValueError(
                f"{name} must be two numbers of at least 1, for training and evaluation, not {pair}"
            )
    for name, size in {
        "fpn_channels": fpn_channels,
        "fc_units": fc_units,
        "detections": detections,
        "rpn_convs": rpn_convs,
    }.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, not {size}")
    if not 0 <= score_threshold <= 1:
        raise ValueError(f"score_threshold must be from 0 to 1, not {score_threshold}")
    if not anchor_scale > 0:
        raise ValueError(f"anchor_scale must be above 0, not {anchor_scale}")
    settings = dataclasses.replace(
        settings,
        anchor_scale=anchor_scale,
        pre_nms=tuple(pre_nms),
        post_nms=tuple(post_nms),
        detections=detections,
        score_threshold=score_threshold,
    )
    body = create_backbone(
        backbone,
        norm=norm,
        weight_standardization=weight_standardization,
        norm_epsilon=norm_epsilon,
        width=width,
        dtype=dtype,
        rngs=rngs,
    )
    return RCNN(
        body,
        num_classes=num_classes,
        head_norm=norm if norm == "gn" or normalize_heads else None,
        weight_standardization=weight_standardization,
        rpn_convs=rpn_convs,
        box_head=box_head,
        masks=masks,
        fpn_channels=fpn_channels,
        fc_units=fc_units,
        settings=settings,
        dtype=dtype,
        rngs=rngs,
    )


def detect(
    model: RCNN, images: ArrayLike, sizes: ArrayLike | Sequence[tuple[int, int]]
) -> Detections | MaskDetections:
    """Finds the objects in a batch of images.

    It is compiled once for each shape of the images.

    Args:
      model: a detector of `create`.
      images: (B, H, W, 3) floating-point numbers, normalised as for the model's weights. Smaller
        images are padded with zeros at the right and the bottom.
      sizes: (B, 2) the height and width of each image without padding.

    Returns:
      ``boxes`` (B, D, 4), ``scores`` (B, D), ``labels`` (B, D) and ``valid`` (B, D), best first,
      and with a mask head also ``masks`` (B, D, 28, 28), which `paste_masks` draws into an
      image. Places without a detection are at the end and have ``valid`` False. If the net
      computes numbers for an image that are not finite, all of its places are like that, and
      their scores are NaN.

    Raises:
      ValueError: the arrays have other shapes, the images are integers, or an image is empty or
        larger than the padding.
    """
    images, sizes = jnp.asarray(images), jnp.asarray(sizes)
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        raise ValueError(f"images must be (B, H, W, 3), not {images.shape}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images must be normalised floating-point numbers, not {images.dtype}: divide by 255, "
            "subtract the mean and divide by the standard deviation"
        )
    if sizes.shape != (images.shape[0], 2):
        raise ValueError(
            f"sizes must be ({images.shape[0]}, 2), a height and a width for each image, not "
            f"{sizes.shape}"
        )
    if not isinstance(sizes, Tracer):
        largest = images.shape[1:3]
        for i, size in enumerate(np.asarray(sizes)):
            if (size < 1).any() or (size > largest).any():
                raise ValueError(
                    f"the size of image {i} must be from (1, 1) to that of the padded images, "
                    f"{largest}, not {tuple(size.tolist())}"
                )
    graph, state = nnx.split(model)
    return _detect(graph, state, images, sizes)


# Unlike nnx.jit, this also works in a function of the user that is being compiled.
@functools.partial(jax.jit, static_argnums=0)
def _detect(
    graph: nnx.GraphDef[RCNN], state: nnx.State, images: jax.Array, sizes: jax.Array
) -> Detections | MaskDetections:
    return nnx.merge(graph, state, copy=True).detect(images, sizes)
