"""The parameter trees on which the cost of GC is measured. They are only shapes, without arrays."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from examples import models
from examples.benchmarks import flags, vit
from optax_gc import centralize, kernel_axes, nnx_kernel_axes


class Tree(NamedTuple):
    """Parameters as shapes, the input axes of each leaf or None, and the GC that a user would write."""

    name: str
    params: Any
    axes: Any
    gc: optax.GradientTransformation

    @property
    def parameters(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    @property
    def leaves(self) -> list[tuple[jax.ShapeDtypeStruct, tuple[int, ...] | None]]:
        """Each leaf with its input axes."""
        axes = jax.tree.leaves(self.axes, is_leaf=lambda node: node is None or type(node) is tuple)
        return list(zip(jax.tree.leaves(self.params), axes, strict=True))

    @property
    def means_bytes(self) -> int:
        """The bytes of the means, which are one float32 for each weight vector."""
        return sum(
            4 * leaf.size // math.prod(leaf.shape[axis] for axis in axes)
            for leaf, axes in self.leaves
            if axes
        )

    @property
    def timed(self) -> bool:
        """Returns whether the tree is timed. With 1e9 parameters that would take minutes."""
        return self.parameters < 5e8


def create(name: str) -> Tree:
    """Makes one of `flags.TREES`.

    The nets are those of torchvision for 1000 classes, except ResNet-20, which is the CIFAR net for 10
    classes. ``vit_b16`` is a transformer of 12 layers. ``1e7x400`` has 400 square dense kernels with
    1e7 parameters in all.

    Raises:
      ValueError: an unknown name. The message lists the known ones, with the nearest first.
    """
    flags.check_tree(name)
    if name == "vit_b16":
        model = nnx.eval_shape(lambda: vit.ViT(rngs=nnx.Rngs(0)))
        params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        # The axes cannot be inferred from shapes, because attention keeps its heads as an axis.
        axes = nnx_kernel_axes(model)(params)
        return Tree(name, params, axes, centralize(axes))
    if name in flags.NETS:
        stem, classes = ("cifar", 10) if name == "resnet20" else ("imagenet", 1000)
        model = nnx.eval_shape(
            lambda: models.create(name, num_classes=classes, stem=stem, rngs=nnx.Rngs(0))
        )
        params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        return Tree(name, params, kernel_axes(params), centralize())
    parameters, leaves = flags.SYNTHETIC[name]
    # A multiple of 8, so that eight devices can share a kernel.
    side = 8 * round((parameters / leaves) ** 0.5 / 8)
    params = {f"layer{i:04}": {"kernel": _shape(side, side)} for i in range(leaves)}
    return Tree(name, params, kernel_axes(params), centralize())


def _shape(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)
