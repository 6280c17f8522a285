"""Finds each kernel's input axes by inspecting the layers of an Equinox model."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

try:
    import equinox as eqx
except ImportError as error:
    raise ImportError("equinox_kernel_axes needs Equinox: pip install equinox") from error

from optax_gc._layers import LayerAxes, check_layers, explain_unclaimed, kind_of
from optax_gc._modules import Kernel, Kernels, make_table
from optax_gc._paths import path_names
from optax_gc._roles import INPUT, OUTPUT, taps
from optax_gc._stacks import OwnedLeaf


def equinox_kernel_axes(
    model: Any,
    *,
    layers: tuple[type, ...] | None = None,
    stacks: Mapping[str, int | tuple[int, ...]] | None = None,
) -> LayerAxes:
    """Finds the input axes of an Equinox model's kernels by inspecting its layers.

    The result is exact for Linear, Conv and ConvTranspose of every rank and grouping, the cells
    GRUCell and LSTMCell, what is built of them (MLP, MultiheadAttention), and subclasses of
    these, wherever they are in the model. Equinox stores the outputs first. The axes that
    ``eqx.filter_vmap`` adds are found as by :func:`optax_gc.nnx_kernel_axes`, which also
    describes what a ConvTranspose with strides does.

    Embeddings, norms and biases are left alone. So are the arrays of a layer that is not known;
    :func:`optax_gc.tabulate` lists them. Pass their axes with the method ``replace`` of the
    result.

    Args:
      model: an ``eqx.Module`` or another tree of them, also one made by
        ``eqx.filter_eval_shape``. Only shapes are read.
      layers: the classes whose kernels are centralized, such as ``eqx.nn.Conv``; None for all.
      stacks: as for :func:`optax_gc.nnx_kernel_axes`.

    Returns:
      A function for ``optax_gc.centralize(axes=…)``. It holds no arrays, and accepts the
      gradients of ``eqx.filter_grad``. It raises a ValueError that names the leaf in the same
      cases as that of :func:`optax_gc.nnx_kernel_axes`.

    Raises:
      ImportError: Equinox is not installed.
      TypeError: ``model`` has no Equinox module with arrays, or ``layers`` is not a tuple of
        classes.
      ValueError: a class in ``layers`` owns no kernel, or the model has no kernel at a path in
        ``stacks``.

    Examples:
      >>> import equinox as eqx
      >>> import jax
      >>> import optax_gc
      >>> model = eqx.nn.MLP(3, 2, 8, 1, key=jax.random.key(0))
      >>> params = eqx.filter(model, eqx.is_inexact_array)
      >>> print(optax_gc.equinox_kernel_axes(model)(params).layers[0].weight)
      (1,)
    """
    chosen = check_layers(layers, tuple(_KERNELS))
    leaves = list(_walk(model, (), None))
    if all(leaf.layer is None for leaf in leaves):
        raise TypeError(f"model must have Equinox modules with arrays; got {kind_of(model)}")
    known = {**_KERNELS, eqx.nn.Embedding: _embedding}
    return make_table(leaves, known, chosen, _explain_unclaimed, stacks, "equinox_kernel_axes")


def _embedding(layer):
    yield Kernel("weight", reason="embedding")


# "scalar" means one feature that has no axis in the data. The kernel still has an axis for it.
def _size(features):
    return 1 if features == "scalar" else features


def _linear(layer):
    shape = (_size(layer.out_features), _size(layer.in_features))
    yield Kernel("weight", shape, OUTPUT + INPUT)


def _conv(layer):
    shape = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)
    yield Kernel("weight", shape, OUTPUT + INPUT * (len(shape) - 1))


def _conv_transpose(layer):
    shape = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)
    yield Kernel("weight", shape, OUTPUT + INPUT + taps(layer.stride, len(shape) - 2))


def _gru(layer):
    yield Kernel("weight_ih", (3 * layer.hidden_size, layer.input_size), OUTPUT + INPUT)
    yield Kernel("weight_hh", (3 * layer.hidden_size, layer.hidden_size), OUTPUT + INPUT)


def _lstm(layer):
    yield Kernel("weight_ih", (4 * layer.hidden_size, layer.input_size), OUTPUT + INPUT)
    yield Kernel("weight_hh", (4 * layer.hidden_size, layer.hidden_size), OUTPUT + INPUT)


_KERNELS: Kernels = {
    eqx.nn.Linear: _linear,
    eqx.nn.Conv: _conv,
    eqx.nn.ConvTranspose: _conv_transpose,
    eqx.nn.GRUCell: _gru,
    eqx.nn.LSTMCell: _lstm,
}


def _walk(node, path, layer) -> Iterator[OwnedLeaf]:
    if isinstance(node, (jax.Array, np.ndarray, jax.ShapeDtypeStruct)):
        yield OwnedLeaf(path, node, node.shape, layer)
        return
    owner = node if isinstance(node, eqx.Module) else layer
    children, _ = jax.tree_util.tree_flatten_with_path(
        node, is_leaf=lambda child: child is not node
    )
    for key, child in children:
        if child is not node:
            yield from _walk(child, path + path_names(key), owner)


_NORMS = (eqx.nn.LayerNorm, eqx.nn.RMSNorm, eqx.nn.GroupNorm, eqx.nn.BatchNorm, eqx.nn.WeightNorm)


def _explain_unclaimed(leaf) -> str:
    # These layers claim all of their kernels, so no other array of theirs is one.
    known = isinstance(leaf.layer, (*_NORMS, *_KERNELS))
    if known:
        return "not a kernel"
    return explain_unclaimed(leaf.path[-1], leaf.shape, type(leaf.layer).__name__)
