"""Finds each kernel's input axes by inspecting the layers of an NNX model."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

try:
    from flax import nnx
except ImportError as error:
    raise ImportError("nnx_kernel_axes needs Flax: pip install flax") from error

from optax_gc import _roles
from optax_gc._layers import LayerAxes, check_layers, explain_unclaimed, kind_of
from optax_gc._modules import Kernel, Kernels, make_table
from optax_gc._paths import path_names
from optax_gc._stacks import OwnedLeaf


def nnx_kernel_axes(
    model: Any,
    *,
    layers: tuple[type, ...] | None = None,
    stacks: Mapping[str, int | tuple[int, ...]] | None = None,
) -> LayerAxes:
    """Finds the input axes of a Flax NNX model's kernels by inspecting its layers.

    The result is exact for Linear, LinearGeneral (and so for attention), Einsum, Conv of any
    rank, grouped or depthwise, ConvTranspose with and without ``transpose_kernel``, the first
    factor of LoRA (the second is left alone, because it does not see the inputs), recurrent
    cells, and subclasses of these, wherever they are in the model.
    An Einsum is judged by the equation that it was made with. The axes that ``nnx.vmap`` and
    ``nnx.scan`` add are found by comparison with the layer's own kernel shape, and each layer
    of a stack is centralized separately. If several axes could be the stack, as for the output
    of an attention of 12 heads in a stack of 12 layers, the kernel is taken to be stacked like
    the other kernels of the same part of the model, or along its first axes if there are none,
    and ``tabulate`` says so. Pass ``stacks`` to choose the axes yourself. In a dimension with a
    stride above 1, a ConvTranspose is not averaged over its taps, because each tap belongs to a
    neuron of its own (if the stride is smaller than the kernel, to one of a few).

    Embeddings, biases and scales are left alone. So are the arrays of a layer that is not
    known; :func:`optax_gc.tabulate` lists them. Pass their axes by path::

        axes = nnx_kernel_axes(model).replace({"experts/kernel": (1,)})

    Args:
      model: an ``nnx.Module``, or one made by ``nnx.eval_shape``. Only shapes are read.
      layers: the classes whose kernels are centralized; None for all. What counts is the
        layer that owns the kernel, such as ``nnx.LinearGeneral`` in attention. A class that
        this model does not use is not an error.
      stacks: by the path of a part of the model, such as ``"blocks"`` or ``"decoder/blocks"``,
        the axis that vmap or scan added to every kernel in it, or a tuple of these axes. For
        parts that are not listed, the axes are found as described above.

    Returns:
      A function for ``optax_gc.centralize(axes=…)``. It holds no arrays, and accepts the
      updates of ``nnx.Optimizer``, an ``nnx.State`` or the gradient of a module, masked or
      not. It raises a ValueError that names the leaf if the model does not have the leaf or
      has it in another shape, if layers with different input axes share it, or if the axis of
      a stack cannot be determined. Its method ``replace`` sets the axes of such a leaf.

    Raises:
      ImportError: Flax is not installed.
      TypeError: ``model`` is not an NNX model with parameters, or ``layers`` is not a tuple
        of classes.
      ValueError: a class in ``layers`` owns no kernel, or the model has no kernel at a path in
        ``stacks``.

    Examples:
      >>> from flax import nnx
      >>> import optax
      >>> import optax_gc
      >>> model = nnx.Sequential(
      ...     nnx.Conv(3, 8, (5,), rngs=nnx.Rngs(0)), nnx.Linear(8, 2, rngs=nnx.Rngs(0))
      ... )
      >>> axes = optax_gc.nnx_kernel_axes(model)
      >>> print(nnx.to_pure_dict(axes(nnx.state(model, nnx.Param))))
      {'layers': {0: {'bias': None, 'kernel': (0, 1)}, 1: {'bias': None, 'kernel': (0,)}}}
      >>> tx = optax.chain(optax_gc.centralize(axes), optax.sgd(0.1))
      >>> optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

      Only convolutions:

      >>> axes = optax_gc.nnx_kernel_axes(model, layers=(nnx.Conv,))
      >>> print(nnx.to_pure_dict(axes(nnx.state(model, nnx.Param))))
      {'layers': {0: {'bias': None, 'kernel': (0, 1)}, 1: {'bias': None, 'kernel': None}}}
    """
    chosen = check_layers(layers, tuple(_KERNELS))
    leaves = list(_walk(model, (), None, ()))
    if all(leaf.layer is None for leaf in leaves):
        raise TypeError(f"model must be an nnx.Module that has parameters; got {kind_of(model)}")
    known = {**_KERNELS, nnx.Embed: _embedding}
    return make_table(leaves, known, chosen, _explain_unclaimed, stacks, "nnx_kernel_axes")


def _embedding(layer):
    yield Kernel("embedding", reason="embedding")


def _linear(layer):
    yield Kernel("kernel", (layer.in_features, layer.out_features), _roles.dense(1, 1))


def _linear_general(layer):
    batch, inputs = tuple(layer.batch_axis.values()), layer.in_features
    letters = _roles.dense(len(inputs), len(layer.out_features), len(batch))
    yield Kernel("kernel", (*batch, *inputs, *layer.out_features), letters)


def _einsum(layer):
    letters = _roles.einsum(layer.einsum_str, len(layer.kernel_shape))
    if letters is not None:
        yield Kernel("kernel", layer.kernel_shape, letters)


def _conv(layer):
    yield Kernel("kernel", layer.kernel_shape, _roles.conv(len(layer.kernel_shape)))


def _conv_transpose(layer):
    shape = layer.kernel_shape
    yield Kernel(
        "kernel", shape, _roles.conv_transpose(layer.strides, len(shape), layer.transpose_kernel)
    )


def _lora(layer):
    # The layer does not store its rank, so every size that fits both factors is possible.
    a, b = layer.lora_a.shape, layer.lora_b.shape
    for rank in dict.fromkeys(a):
        if _in_order((layer.in_features, rank), a) and _in_order((rank, layer.out_features), b):
            yield Kernel("lora_a", (layer.in_features, rank), _roles.dense(1, 1))
            # Φ of the first factor is Φ of the product. The second factor's inputs are not the
            # inputs of the kernel that is adapted, so it is left alone.
            second = (rank, layer.out_features)
            yield Kernel("lora_b", second, _roles.dense(1, 1), "second factor of LoRA")


_KERNELS: Kernels = {
    nnx.Linear: _linear,
    nnx.LinearGeneral: _linear_general,
    nnx.Einsum: _einsum,
    nnx.Conv: _conv,
    nnx.ConvTranspose: _conv_transpose,
    nnx.LoRA: _lora,
}


def _in_order(part, whole) -> bool:
    rest = iter(whole)
    return all(size in rest for size in part)


def _walk(node, path, layer, above) -> Iterator[OwnedLeaf]:
    """Yields every leaf for every path to it, because gradients repeat the leaves that are shared."""
    value = node
    while isinstance(value, nnx.Variable):
        value = value.get_raw_value()
    # A Variable holds an array, a number, which is a leaf too, or a tree, whose leaves are found below.
    is_variable = value is not node and jax.tree_util.all_leaves([value])
    if is_variable or isinstance(node, (jax.Array, np.ndarray, jax.ShapeDtypeStruct)):
        yield OwnedLeaf(path, node, np.shape(value), layer)
    elif isinstance(node, nnx.Pytree):
        if not any(node is other for other in above):
            for name, child in vars(node).items():
                yield from _walk(child, (*path, str(name)), node, (*above, node))
    else:
        children, _ = jax.tree_util.tree_flatten_with_path(
            node, is_leaf=lambda child: child is not node
        )
        for key, child in children:
            if child is not node:
                yield from _walk(child, path + path_names(key), layer, above)
                if isinstance(node, nnx.Variable):  # nnx.Optimizer takes its updates out of it
                    yield from _walk(child, path, layer, above)


def _explain_unclaimed(leaf) -> str:
    if not isinstance(leaf.value, nnx.Param):
        return "not an nnx.Param"
    return explain_unclaimed(leaf.path[-1], leaf.shape, type(leaf.layer).__name__)
