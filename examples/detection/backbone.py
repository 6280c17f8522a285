"""The backbone of a detector: the stages of a ResNet or ResNeXt of `examples.models`."""

from typing import Literal

from flax import nnx
from jax.typing import DTypeLike

from examples import models
from examples.models.resnet import ResNet

# The nets that have the four stages of which a feature pyramid is built.
NAMES = tuple(
    name for name in models.NAMES if models.is_resnet(name) and "imagenet" in models.forms(name)
)


class Frozen(nnx.Variable):
    """A parameter that is never trained.

    Its type is not `nnx.Param`. So no gradient is computed for it, the optimizer does not see
    it, and checkpoints hold it with the other variables that are not trained.
    """


def create_backbone(
    name: str,
    *,
    norm: Literal["frozen_bn", "gn"],
    weight_standardization: bool,
    norm_epsilon: float,
    width: int,
    dtype: DTypeLike | None,
    rngs: nnx.Rngs,
) -> ResNet:
    """Makes a ResNet or ResNeXt without its last layer.

    Args:
      name: one of `NAMES`.
      norm: batch normalization with stored statistics that never change, or group
        normalization.
      weight_standardization, norm_epsilon, width, dtype, rngs: as in `examples.models.create`.

    Raises:
      ValueError: the net is unknown, or is not one of which a pyramid can be built.
    """
    if name not in NAMES:
        raise ValueError(f"the backbone must be one of {', '.join(NAMES)}, not {name!r}")
    net = models.create(
        name,
        num_classes=None,
        norm="gn" if norm == "gn" else "bn",
        frozen_bn=norm == "frozen_bn",
        weight_standardization=weight_standardization,
        norm_epsilon=norm_epsilon,
        width=width,
        dtype=dtype,
        rngs=rngs,
    )
    assert isinstance(net, ResNet)
    return net


def freeze(backbone: ResNet, stages: int = 1) -> None:
    """Turns the parameters of the stem and of the first stages into `Frozen` ones, in place.

    The paper's detectors freeze the stem and one stage. Scales and biases of normalization in
    the later stages stay trained.

    Args:
      backbone: the net to change.
      stages: how many stages to freeze, besides the stem.

    Raises:
      ValueError: the net has fewer stages, or the number is negative.
    """
    if not 0 <= stages <= len(backbone.stages):
        raise ValueError(f"stages must be from 0 to {len(backbone.stages)}, not {stages}")
    for part in (backbone.conv1, backbone.norm1, *backbone.stages[:stages]):
        for _, module in nnx.iter_modules(part):
            for name, value in list(vars(module).items()):
                if isinstance(value, nnx.Param):
                    setattr(module, name, Frozen(value.get_value()))
