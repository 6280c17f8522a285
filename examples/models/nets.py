"""Makes each net by its name."""

import difflib
from collections.abc import Callable
from typing import Any, Literal

from flax import nnx
from jax.typing import DTypeLike

from examples.models import layers, resnet
from examples.models.densenet import DenseNet121
from examples.models.resnet import ResNet
from examples.models.vgg import VGG11

Stem = Literal["imagenet", "cifar"]

# The constructor and the default width of each net.
_NETS: dict[str, tuple[Callable[..., Any], int]] = {
    "resnet8": (resnet.resnet8, 16),
    "resnet20": (resnet.resnet20, 16),
    "resnet18": (resnet.resnet18, 64),
    "resnet34": (resnet.resnet34, 64),
    "resnet50": (resnet.resnet50, 64),
    "resnet101": (resnet.resnet101, 64),
    "resnext29_4x64d": (resnet.resnext29_4x64d, 64),
    "resnext50_32x4d": (resnet.resnext50_32x4d, 64),
    "resnext101_32x4d": (resnet.resnext101_32x4d, 64),
    "resnext101_64x4d": (resnet.resnext101_64x4d, 64),
    "vgg11": (VGG11, 64),
    "densenet121": (DenseNet121, 64),
}
_CIFAR_ONLY = ("resnet8", "resnet20", "resnext29_4x64d")

NAMES = tuple(_NETS)


def forms(name: str) -> tuple[Stem, ...]:
    """Returns the values of ``stem`` that a net has."""
    return ("cifar",) if name in _CIFAR_ONLY else ("imagenet", "cifar")


def is_resnet(name: str) -> bool:
    """Returns whether a net is a ResNet or a ResNeXt."""
    return name.startswith(("resnet", "resnext"))


def create(
    name: str,
    *,
    num_classes: int | None,
    stem: Stem = "imagenet",
    norm: Literal["bn", "gn"] = "bn",
    groups: int | None = None,
    weight_standardization: bool = False,
    frozen_bn: bool = False,
    norm_epsilon: float = 1e-5,
    width: int | None = None,
    in_channels: int = 3,
    dtype: DTypeLike | None = None,
    rngs: nnx.Rngs,
) -> ResNet | VGG11 | DenseNet121:
    """Makes one of the paper's nets.

    Each net takes images (N, H, W, in_channels) and returns logits (N, num_classes). It starts
    in training mode; ``model.eval()`` and ``model.train()`` change the mode.

    Args:
      name: one of `NAMES`.
      num_classes: the number of logits. None makes a ResNet without its last layer, which has
        only `ResNet.features`, for a detector.
      stem: the ImageNet form of torchvision, or the form that the paper trains on CIFAR,
        which has a stem of stride 1 without pooling.
      norm: batch or group normalization. In each step, running
        statistics keep 0.9 of their old value. The running variance is the biased one, which
        is smaller than PyTorch's by (n-1)/n for n values in a channel.
      groups: the number of groups of every group normalization, by default that of
        `layers.num_groups`.
      weight_standardization: standardize the kernel of every convolution.
      frozen_bn: normalize with the stored statistics in training too, and never change them.
      norm_epsilon: what the normalization adds to the variance.
      width: the channels of the stem, by default 16 in ResNet-8 and ResNet-20 and 64 in all
        others. Every layer scales with it.
      in_channels: the channels of the images.
      dtype: the dtype of the computation and of the logits; parameters are always float32.
        None is the common dtype of images and parameters.
      rngs: the seeds of the parameters (stream ``params``) and of the dropout in VGG-11's
        ImageNet form (stream ``dropout``).

    Raises:
      ValueError: a name, stem or norm is unknown, the net does not have this form, batch
        normalization is to be frozen in a net without it, groups are given for a net without group
        normalization, the net needs its last layer, or a size is below 1.
      SettingError: the groups do not divide the channels of a layer.
    """
    if name not in _NETS:
        nearest = difflib.get_close_matches(name, NAMES, n=len(NAMES), cutoff=0.0)
        raise ValueError(f"no net is called {name!r}; there are {', '.join(nearest)}")
    if stem not in ("imagenet", "cifar"):
        raise ValueError(f'stem must be "imagenet" or "cifar", not {stem!r}')
    if stem not in forms(name):
        raise ValueError(f'{name} has only a CIFAR form: pass stem="cifar"')
    if norm not in ("bn", "gn"):
        raise ValueError(f'norm must be "bn" or "gn", not {norm!r}')
    if groups is not None and norm != "gn":
        raise ValueError('groups needs norm="gn": batch normalization has none')
    if frozen_bn and norm != "bn":
        raise ValueError('frozen_bn needs norm="bn": group normalization stores no statistics')
    build, default_width = _NETS[name]
    width = default_width if width is None else width
    if num_classes is None and not is_resnet(name):
        raise ValueError(f"num_classes=None needs a ResNet or ResNeXt, and {name} is neither")
    for key, size in {
        "num_classes": num_classes,
        "width": width,
        "in_channels": in_channels,
        "groups": groups,
    }.items():
        if size is not None and size < 1:
            raise ValueError(f"{key} must be at least 1, not {size}")

    make = layers.make_layers(
        norm,
        groups=groups,
        weight_standardization=weight_standardization,
        frozen_bn=frozen_bn,
        norm_epsilon=norm_epsilon,
        dtype=dtype,
    )
    return build(
        num_classes=num_classes,
        stem=stem,
        width=width,
        in_channels=in_channels,
        conv=make.conv,
        norm=make.norm,
        linear=make.linear,
        rngs=rngs,
    )
