"""Which axes of an NNX model's leaves are a neuron's inputs, asked of its layers."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

try:
    from flax import nnx
except ImportError as error:
    raise ImportError("nnx_kernel_axes needs Flax: pip install flax") from error

from optax_gc._layers import (
    Claim,
    LayerAxes,
    all_but,
    check_layers,
    einsum_inputs,
    kernel_claim,
    left_alone,
    path_names,
    settle,
)


def nnx_kernel_axes(model: Any, *, layers: tuple[type, ...] | None = None) -> LayerAxes:
    """Finds the input axes of a Flax NNX model's kernels by asking its layers.

    Exact for Linear, LinearGeneral (so for attention), Einsum, Conv of any rank, grouped
    and depthwise, ConvTranspose with and without ``transpose_kernel``, the factors of LoRA,
    recurrent cells, and subclasses of these, wherever they are in the model. Axes that
    ``nnx.vmap`` and ``nnx.scan`` stack layers along are found by comparing with the layer's
    own kernel shape; each layer of a stack is centralized alone. An Einsum is taken by the
    equation it was built with.

    Embeddings, biases and scales are left alone, and so is what a layer that is not known
    owns: :func:`optax_gc.tabulate` lists it. Give its axes in a function::

        found = nnx_kernel_axes(model)

        def axes(updates):
            tree = found(updates)
            tree["experts"]["kernel"] = (1,)
            return tree

    Args:
      model: an ``nnx.Module``, or one made by ``nnx.eval_shape``. Only shapes are read.
      layers: the classes whose kernels are centralized, all if None. The class is that of
        the layer that owns the kernel: ``nnx.LinearGeneral`` for attention. One that this
        model does not use is no error.

    Returns:
      A callable for ``optax_gc.centralize(axes=…)`` that holds no arrays and takes updates
      of this model: those of ``nnx.Optimizer``, an ``nnx.State`` or the gradient of a module,
      masked or not. It raises a ValueError that names the leaf for one that the model does
      not have, or has in another shape; for one shared by layers with different input axes;
      and where a stack's axis has the size of a neighbour, so that it cannot be told.

    Raises:
      ImportError: Flax is not installed.
      TypeError: ``layers`` is not a tuple of classes.
      ValueError: a class in ``layers`` owns no kernel.

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

      Convolutions only:

      >>> axes = optax_gc.nnx_kernel_axes(model, layers=(nnx.Conv,))
      >>> print(nnx.to_pure_dict(axes(nnx.state(model, nnx.Param))))
      {'layers': {0: {'bias': None, 'kernel': (0, 1)}, 1: {'bias': None, 'kernel': None}}}
    """
    chosen = check_layers(layers, tuple(_KERNELS))
    leaves = list(_walk(model, (), None, ()))
    if leaves and all(leaf.layer is None for leaf in leaves):
        raise TypeError(f"model must be an nnx.Module, not a {type(model).__name__}")
    # By identity: what several layers share is one leaf, with a path for each of them.
    claims: dict[int, list[Claim]] = {}
    for leaf in leaves:
        claims.setdefault(id(leaf.value), []).extend(_claims(leaf, chosen))
    table = {
        leaf.path: settle(leaf.value.shape, claims[id(leaf.value)], _otherwise(leaf))
        for leaf in leaves
    }
    return LayerAxes(table, "nnx_kernel_axes")


class _Leaf(NamedTuple):
    """A Variable, or an array that is in none, and the module that holds it."""

    path: tuple[str, ...]
    value: Any
    layer: Any


def _linear(layer):
    yield "kernel", (layer.in_features, layer.out_features), (0,)


def _linear_general(layer):
    batch, inputs = tuple(layer.batch_axis.values()), layer.in_features
    axes = tuple(range(len(batch), len(batch) + len(inputs)))
    yield "kernel", (*batch, *inputs, *layer.out_features), axes


def _einsum(layer):
    inputs = einsum_inputs(layer.einsum_str, len(layer.kernel_shape))
    if inputs is not None:
        yield "kernel", layer.kernel_shape, inputs


def _conv(layer):
    yield "kernel", layer.kernel_shape, all_but(-1, len(layer.kernel_shape))


def _conv_transpose(layer):
    out_axis = -2 if layer.transpose_kernel else -1
    yield "kernel", layer.kernel_shape, all_but(out_axis, len(layer.kernel_shape))


def _lora(layer):
    # It does not keep its rank: take every size that fits both factors, stacked or not.
    a, b = layer.lora_a.shape, layer.lora_b.shape
    for rank in dict.fromkeys(a):
        if _in_order((layer.in_features, rank), a) and _in_order((rank, layer.out_features), b):
            yield "lora_a", (layer.in_features, rank), (0,)
            yield "lora_b", (rank, layer.out_features), (0,)


# For each layer its kernels: their names, the shapes it made them in, and their input axes.
_KERNELS: dict[type, Callable[[Any], Iterable[tuple[str, Any, Any]]]] = {
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


def _walk(node, path, layer, above) -> Iterator[_Leaf]:
    """Every leaf by every path to it: a module's gradient has shared leaves more than once."""
    is_array = isinstance(node, (nnx.Variable, jax.Array, np.ndarray, jax.ShapeDtypeStruct))
    if is_array and hasattr(node, "shape"):  # a Variable may hold a number or a tree instead
        yield _Leaf(path, node, layer)
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


def _claims(leaf, chosen) -> Iterator[Claim]:
    owner = f"{type(leaf.layer).__name__} at {'/'.join(leaf.path[:-1]) or '<root>'}"
    if isinstance(leaf.layer, nnx.Embed) and leaf.value is leaf.layer.embedding:
        yield Claim(owner, reason="embedding")
    for kind, kernels in _KERNELS.items():
        for name, shape, inputs in kernels(leaf.layer) if isinstance(leaf.layer, kind) else ():
            if leaf.value is getattr(leaf.layer, name):
                yield kernel_claim(owner, shape, inputs, isinstance(leaf.layer, chosen))


def _otherwise(leaf) -> str:
    if not isinstance(leaf.value, nnx.Param):
        return "not an nnx.Param"
    return left_alone(leaf.path[-1], leaf.value.shape, type(leaf.layer).__name__)
