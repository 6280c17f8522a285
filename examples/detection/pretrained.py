"""Weights of torchvision's detectors: their names and their layouts."""

import re
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from flax import nnx

from examples.detection.backbone import NAMES, create_backbone
from examples.detection.rcnn import BOX_POOL, RCNN
from examples.models.pretrained import (
    LEAVES,
    Place,
    WeightsError,
    find_places,
    put_state,
    to_flax_layout,
)

# Names in the first form of the state dicts, in which torchvision publishes its weights, and in
# the second, which its code has today.
_OLD_NAMES = (
    (r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)", r"\1.0.\2"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
    (r"roi_heads\.mask_head\.mask_fcn1\.(weight|bias)", r"roi_heads.mask_head.0.0.\1"),
    (r"roi_heads\.mask_head\.mask_fcn2\.(weight|bias)", r"roi_heads.mask_head.1.0.\1"),
    (r"roi_heads\.mask_head\.mask_fcn3\.(weight|bias)", r"roi_heads.mask_head.2.0.\1"),
    (r"roi_heads\.mask_head\.mask_fcn4\.(weight|bias)", r"roi_heads.mask_head.3.0.\1"),
)
_RPN_CONV = r"rpn\.head\.conv\.\d+\.0\.weight$"
# So many keys of each kind are listed in an error. A detector has hundreds.
_LISTED = 5


def load_torch_state(model: RCNN, state: Mapping[str, Any]) -> None:
    """Puts the weights of the same detector in torchvision into a model: either all or none.

    The shardings and dtypes of the model stay. Its detections are then torchvision's, up to
    rounding.

    Args:
      model: a detector of `examples.detection.create`, changed in place. torchvision adds 0 to
        the variances in the detectors whose weights it calls ``COCO_V1``, and 1e-5 in all
        others: pass ``norm_epsilon=0.0`` to `create` for the former.
      state: real floating-point arrays by torchvision's keys, in their first form
        (``mask_head.mask_fcn1.weight``) or in their second (``mask_head.0.0.weight``).

    Raises:
      WeightsError: keys are missing, unexpected or of another shape, or values are not finite
        real numbers in the model's dtype.
    """
    problems = put_state(
        model, {modernize(k): v for k, v in state.items()}, find_detector_places(model)
    )
    _check(problems, "detector")


def load_backbone(model: RCNN, state: Mapping[str, Any]) -> None:
    """Puts the weights of a classifier of torchvision or timm into a detector's backbone.

    Args:
      model: a detector of `examples.detection.create`, changed in place.
      state: real floating-point arrays by key. The last layer, ``fc``, is left out.

    Raises:
      WeightsError: as for `load_torch_state`.
    """
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    _check(put_state(model.backbone, state, find_places(model.backbone)), "backbone")


def create_from_state(
    state: Mapping[str, Any], *, norm_epsilon: float | None = None, score_threshold: float
) -> RCNN:
    """Makes the detector of torchvision to which weights belong, and puts them into it.

    Args:
      state: the weights, as in `load_torch_state`. Their names and shapes tell which ResNet or
        ResNeXt the backbone is, its normalization and that of the heads, the kind of the box head,
        whether there is a mask head, and the number of classes.
      norm_epsilon: as in `examples.detection.create`. By default it is what torchvision adds: 0 in
        its first detectors, and 1e-5 in those of the name v2, whose heads are normalized.
      score_threshold: as in `examples.detection.create`.

    Raises:
      WeightsError: the weights are not those of such a detector.
    """
    from examples import detection

    state = {modernize(key): np.asarray(value) for key, value in state.items()}
    stem, pyramid, classifier = (
        _find_shape(state, key, sides)
        for key, sides in (
            ("backbone.body.conv1.weight", 4),
            ("backbone.fpn.layer_blocks.0.0.weight", 4),
            ("roi_heads.box_predictor.cls_score.weight", 2),
        )
    )
    norm = "frozen_bn" if "backbone.body.bn1.running_mean" in state else "gn"
    width = stem[0]
    normalize_heads = "backbone.fpn.layer_blocks.0.1.running_mean" in state
    if norm_epsilon is None:
        norm_epsilon = 1e-5 if normalize_heads else 0.0
    try:
        model = nnx.eval_shape(
            lambda: detection.create(
                _find_backbone(state, norm, width),
                num_classes=classifier[0],
                norm=norm,
                box_head="2fc" if "roi_heads.box_head.fc6.weight" in state else "4conv1fc",
                masks="roi_heads.mask_predictor.conv5_mask.weight" in state,
                fpn_channels=pyramid[0],
                fc_units=classifier[1],
                score_threshold=score_threshold,
                normalize_heads=normalize_heads,
                rpn_convs=max(1, sum(bool(re.match(_RPN_CONV, key)) for key in state)),
                norm_epsilon=norm_epsilon,
                width=width,
                rngs=nnx.Rngs(0),
            )
        )
    except ValueError as error:
        raise WeightsError(f"no detector can have weights of these shapes: {error}") from error
    load_torch_state(model, state)
    return model


def _find_shape(state: Mapping[str, np.ndarray], key: str, sides: int) -> tuple[int, ...]:
    """Returns the shape of an array that every detector has, with so many sides."""
    if key not in state:
        found = f"; one of its keys is {min(state)}" if state else ""
        raise WeightsError(
            "these are not the weights of a Faster or Mask R-CNN of torchvision over a ResNet or a "
            f"ResNeXt with a feature pyramid: {key} is missing{found}"
        )
    shape = state[key].shape
    if len(shape) != sides:
        raise WeightsError(f"{key} has {len(shape)} sides, and {sides} in torchvision")
    return shape


def _find_backbone(
    state: Mapping[str, np.ndarray], norm: Literal["frozen_bn", "gn"], width: int
) -> str:
    """Returns the name of the ResNet or ResNeXt whose names and shapes the weights have."""
    prefix = "backbone.body."
    shapes = {
        key.removeprefix(prefix): value.shape
        for key, value in state.items()
        if key.startswith(prefix) and not key.endswith("num_batches_tracked")
    }
    for name in NAMES:
        body = nnx.eval_shape(
            lambda name=name: create_backbone(
                name,
                norm=norm,
                weight_standardization=False,
                norm_epsilon=1e-5,
                width=width,
                dtype=None,
                rngs=nnx.Rngs(0),
            )
        )
        if shapes == {key: place.shape for key, place in find_places(body).items()}:
            return name
    raise WeightsError(
        f"the backbone of these weights is none of {', '.join(NAMES)} (width {width})"
    )


def modernize(key: str) -> str:
    """Returns the name that a key of the first form of torchvision's state dicts has in the second.

    >>> modernize("roi_heads.mask_head.mask_fcn2.bias")
    'roi_heads.mask_head.1.0.bias'
    """
    for old, new in _OLD_NAMES:
        key = re.sub(f"^{old}$", new, key)
    return key


def _check(problems: Mapping[str, list[str]], part: str) -> None:
    if problems:
        listed = "; ".join(f"{what}: {_shorten(keys)}" for what, keys in problems.items())
        raise WeightsError(f"these are not the weights of this {part}: {listed}")


def _shorten(keys: list[str]) -> str:
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return ", ".join(keys[:_LISTED]) + more


def find_detector_places(model: RCNN) -> dict[str, Place]:
    """Returns the place of each of torchvision's keys in a detector."""
    places = {
        f"backbone.body.{key}": place._replace(path=("backbone", *place.path))
        for key, place in find_places(model.backbone).items()
    }
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        if path[0] != "backbone":
            places[_torch_key(path)] = _find_place(path, variable.shape)
    return places


def _find_place(path: tuple[Any, ...], shape: tuple[int, ...]) -> Place:
    match path:
        case ("box_head", "fc6" | "fc", "kernel"):
            # The layer follows pooled features, whose channels come first in PyTorch.
            return Place(path, shape[::-1], _channels_last)
        case (_, "conv5_mask", "kernel"):
            # A transposed convolution. PyTorch's inputs come first, and its kernel is not flipped.
            height, width, inputs, outputs = shape
            return Place(path, (inputs, outputs, height, width), _flip_transposed)
        case _ if len(shape) == 4:
            return Place(path, (shape[3], shape[2], *shape[:2]), to_flax_layout)
        case _:
            return Place(path, shape[::-1], to_flax_layout)


def _channels_last(value: np.ndarray) -> np.ndarray:
    outputs = value.shape[0]
    return value.reshape(outputs, -1, BOX_POOL, BOX_POOL).transpose(2, 3, 1, 0).reshape(-1, outputs)


def _flip_transposed(value: np.ndarray) -> np.ndarray:
    return value[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)


def _torch_key(path: tuple[Any, ...]) -> str:
    """Returns torchvision's key of a variable outside of the backbone."""
    *modules, leaf = path
    match modules:
        case ["fpn", blocks, i, layer]:
            module = f"backbone.fpn.{blocks}.{i}.{_UNIT[layer]}"
        case ["rpn", "convs", i]:
            module = f"rpn.head.conv.{i}.0"
        case ["rpn", layer]:
            module = f"rpn.head.{layer}"
        case [("box_head" | "mask_head") as head, "convs", i, layer]:
            module = f"roi_heads.{head}.{i}.{_UNIT[layer]}"
        case ["box_head", "fc"]:
            # It is the sixth in a list that has the four convolutions and a flattening before it.
            module = "roi_heads.box_head.5"
        case ["mask_head", layer]:
            module = f"roi_heads.mask_predictor.{layer}"
        case _:
            module = "roi_heads." + ".".join(modules)
    return f"{module}.{LEAVES[leaf]}"


# The place of each layer of a `ConvNorm` in torchvision's block.
_UNIT = {"conv": 0, "norm": 1}
