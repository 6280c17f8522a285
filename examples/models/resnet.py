"""ResNet (He et al. 2016) and ResNeXt (Xie et al. 2017), for ImageNet and CIFAR."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
from flax import nnx

from examples.models import layers


def _downsample(
    in_features: int, out_features: int, stride: int, conv: Callable, norm: Callable
) -> nnx.List:
    """Makes the projection of a skip connection. It is empty if the shape does not change."""
    if stride == 1 and in_features == out_features:
        return nnx.List([])
    return nnx.List([conv(in_features, out_features, (1, 1), stride), norm(out_features)])


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a skip connection."""

    def __init__(
        self,
        in_features: int,
        inner: int,
        out_features: int,
        stride: int,
        *,
        groups: int,
        conv: Callable,
        norm: Callable,
    ):
        conv3x3 = functools.partial(conv, kernel_size=(3, 3), padding=1, feature_group_count=groups)
        self.conv1 = conv3x3(in_features, inner, strides=stride)
        self.norm1 = norm(inner)
        self.conv2 = conv3x3(inner, out_features)
        self.norm2 = norm(out_features)
        self.downsample = _downsample(in_features, out_features, stride, conv, norm)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        for layer in self.downsample:
            x = layer(x)
        return nnx.relu(x + y)


class Bottleneck(nnx.Module):
    """Convolutions of 1x1, 3x3 and 1x1. That of 3x3 has the stride, and the groups of ResNeXt."""

    def __init__(
        self,
        in_features: int,
        inner: int,
        out_features: int,
        stride: int,
        *,
        groups: int,
        conv: Callable,
        norm: Callable,
    ):
        self.conv1 = conv(in_features, inner, (1, 1))
        self.norm1 = norm(inner)
        self.conv2 = conv(inner, inner, (3, 3), stride, padding=1, feature_group_count=groups)
        self.norm2 = norm(inner)
        self.conv3 = conv(inner, out_features, (1, 1))
        self.norm3 = norm(out_features)
        self.downsample = _downsample(in_features, out_features, stride, conv, norm)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = nnx.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        for layer in self.downsample:
            x = layer(x)
        return nnx.relu(x + y)


class ResNet(nnx.Module):
    """A stem, three or four stages of residual blocks, an average and perhaps a linear layer.

    The ImageNet form has a 7x7 stem of stride 2 and max-pooling. The CIFAR form has a stem
    of 3x3 (or ``cifar_kernel``) and stride 1. Stage i = 0, 1, … has
    ``expansion * width * 2**i`` channels, and every stage except the first halves the image.

    Kernels are initialized as in the paper's nets: Kaiming normal by fan-out in the ImageNet
    form, and PyTorch's default in the CIFAR form. The linear layer has PyTorch's default in
    both, with a bias of 0.

    Args:
      block: `BasicBlock` or `Bottleneck`.
      depths: the number of blocks in each stage.
      expansion: the output channels of a stage, divided by ``width * 2**i``.
      cardinality: the number of groups of the 3x3 convolutions.
      base_width: the channels of one group in the first stage of a net of width 64. The
        groups of a narrower net shrink in proportion, to at least one channel.
      cifar_kernel: the size of the CIFAR stem's kernel.
      num_classes, stem, width, in_channels, rngs: as in `examples.models.create`.
      conv, norm, linear: functions that make the layers; their dtype is set already.

    Attributes:
      stage_features: the number of channels that each stage puts out.
    """

    def __init__(
        self,
        block: Callable,
        depths: Sequence[int],
        *,
        expansion: int,
        cardinality: int = 1,
        base_width: int = 64,
        cifar_kernel: int = 3,
        num_classes: int | None,
        stem: Literal["imagenet", "cifar"],
        width: int,
        in_channels: int,
        conv: Callable[..., Any],
        norm: Callable[..., Any],
        linear: Callable[..., Any],
        rngs: nnx.Rngs,
    ):
        imagenet = stem == "imagenet"
        init = layers.kaiming_fan_out_init if imagenet else layers.torch_default_init
        conv = functools.partial(conv, use_bias=False, padding=0, kernel_init=init, rngs=rngs)
        norm = functools.partial(norm, rngs=rngs)
        kernel = 7 if imagenet else cifar_kernel

        self.stem = stem
        self.conv1 = conv(
            in_channels, width, (kernel, kernel), 2 if imagenet else 1, padding=kernel // 2
        )
        self.norm1 = norm(width)
        stages, features = [], width
        for i, depth in enumerate(depths):
            planes = width * 2**i
            inner = cardinality * max(1, planes * base_width // 64)
            blocks = []
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(
                    block(
                        features,
                        inner,
                        planes * expansion,
                        stride,
                        groups=cardinality,
                        conv=conv,
                        norm=norm,
                    )
                )
                features = planes * expansion
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.stage_features = tuple(width * expansion * 2**i for i in range(len(depths)))
        if num_classes is not None:
            init = layers.torch_default_init
            self.fc = linear(features, num_classes, kernel_init=init, rngs=rngs)

    def features(self, x: jax.Array) -> tuple[jax.Array, ...]:
        """Returns the output of each stage, which a detector calls C2 to C5.

        Args:
          x: images, (N, H, W, in_channels).

        Returns:
          An array (N, H_i, W_i, C_i) for each stage: at the strides 4, 8, 16 and 32 in the
          ImageNet form, and 1, 2, 4 (and 8) in the CIFAR form.
        """
        x = nnx.relu(self.norm1(self.conv1(x)))
        if self.stem == "imagenet":
            x = layers.max_pool(x, 3, 2, padding=1)
        outputs = []
        for stage in self.stages:
            for block in stage:
                x = block(x)
            outputs.append(x)
        return tuple(outputs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the logits (N, num_classes) of images (N, H, W, in_channels)."""
        return self.head(self.features(x)[-1])

    def head(self, x: jax.Array) -> jax.Array:
        """Returns the logits (N, num_classes) of the last stage's output.

        Raises:
          AttributeError: the net was made without its last layer.
        """
        if not hasattr(self, "fc"):
            raise AttributeError("this net has no last layer: it was made with num_classes=None")
        return self.fc(layers.global_average_pool(x))


def _resnet(block: Callable, depths: Sequence[int], **spec: int) -> Callable[..., ResNet]:
    return functools.partial(ResNet, block, depths, **spec)


resnet8 = _resnet(BasicBlock, (1, 1, 1), expansion=1)
resnet20 = _resnet(BasicBlock, (3, 3, 3), expansion=1)
resnet18 = _resnet(BasicBlock, (2, 2, 2, 2), expansion=1)
resnet34 = _resnet(BasicBlock, (3, 4, 6, 3), expansion=1)
resnet50 = _resnet(Bottleneck, (3, 4, 6, 3), expansion=4)
resnet101 = _resnet(Bottleneck, (3, 4, 23, 3), expansion=4)
# Its blocks have twice as many output channels as their 3x3 convolution, so 2 * 4 * width.
resnext29_4x64d = _resnet(
    Bottleneck, (3, 3, 3), expansion=8, cardinality=4, base_width=64, cifar_kernel=1
)
resnext50_32x4d = _resnet(Bottleneck, (3, 4, 6, 3), expansion=4, cardinality=32, base_width=4)
resnext101_32x4d = _resnet(Bottleneck, (3, 4, 23, 3), expansion=4, cardinality=32, base_width=4)
resnext101_64x4d = _resnet(Bottleneck, (3, 4, 23, 3), expansion=4, cardinality=64, base_width=4)
