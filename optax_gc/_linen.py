"""Finds each kernel's input axes by inspecting the layers of a Linen model."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

try:
    from flax import linen as nn
    from flax import struct
    from flax.linen.recurrent import DenseParams
except ImportError as error:
    raise ImportError("linen_kernel_axes needs Flax: pip install flax") from error

from optax_gc import _roles
from optax_gc._layers import (
    Claim,
    LayerAxes,
    check_layers,
    explain_unclaimed,
    kernel_claim,
    kind_of,
    resolve_claims,
)
from optax_gc._paths import path_names, unboxed


class _Stacked(struct.PyTreeNode, nn.meta.AxisMetadata):
    """A kernel in a box that records every axis that lifted transforms add to it."""

    value: Any
    stacks: tuple[int, ...] = struct.field(pytree_node=False)

    def unbox(self):
        return self.value

    def replace_boxed(self, val):
        return self.replace(value=val)

    def add_axis(self, index, params):
        del params
        index %= np.ndim(nn.meta.unbox(self.value))
        moved = tuple(axis + (axis >= index) for axis in self.stacks)
        return self.replace(stacks=tuple(sorted((*moved, index))))

    def remove_axis(self, index, params):
        del params
        index %= np.ndim(nn.meta.unbox(self.value))
        rest = (axis for axis in self.stacks if axis != index)
        return self.replace(stacks=tuple(axis - (axis > index) for axis in rest))


def linen_kernel_axes(
    module: Any, rngs: Any, *args: Any, layers: tuple[type, ...] | None = None, **kwargs: Any
) -> LayerAxes:
    """Finds the input axes of a Flax Linen model's kernels by inspecting its layers.

    The model is traced once, as ``module.init(rngs, *args, **kwargs)`` would do, but nothing
    is computed. Every layer that is called on the way is inspected. The result is exact for
    Dense, DenseGeneral (and so for attention), Einsum, Conv of any rank, grouped or depthwise,
    ConvLocal, ConvTranspose with and without ``transpose_kernel``, recurrent cells, and
    subclasses of these, also under ``nn.remat``. ``nn.vmap``, ``nn.scan`` and
    ``nn.remat_scan`` report which axes they add, and each layer of a stack is centralized
    separately. For ConvTranspose with strides, see :func:`optax_gc.nnx_kernel_axes`.

    Embeddings, biases and scales are left alone. So are the arrays of a layer that is not
    known; :func:`optax_gc.tabulate` lists them. Pass their axes with the method ``replace``
    of the result, as shown for :func:`optax_gc.nnx_kernel_axes`.

    Args:
      module: a ``linen.Module``.
      rngs: as for ``module.init``.
      *args: as for ``module.init``; arrays or ``jax.ShapeDtypeStruct``.
      layers: the classes whose kernels are centralized; None for all. What counts is the
        layer that owns the kernel, such as ``nn.DenseGeneral`` in attention. A class that
        this model does not use is not an error.
      **kwargs: as for ``module.init``, including ``method``.

    Returns:
      A function for ``optax_gc.centralize(axes=…)``. It holds no arrays, and accepts updates
      of this model with or without ``'params'`` at the top, boxed or not, masked or not. It
      raises a ValueError that names the leaf in the same cases as that of
      :func:`optax_gc.nnx_kernel_axes`.

    Raises:
      ImportError: Flax is not installed.
      TypeError: ``module`` is not a Linen module, or ``layers`` is not a tuple of classes.
      ValueError: a class in ``layers`` owns no kernel.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax import linen as nn
      >>> import optax_gc
      >>> model = nn.Sequential([nn.Conv(8, (5,)), nn.Dense(2)])
      >>> x = jnp.zeros((1, 10, 3))
      >>> axes = optax_gc.linen_kernel_axes(model, jax.random.key(0), x)
      >>> for layer, found in axes(model.init(jax.random.key(0), x)["params"]).items():
      ...     print(layer, found)
      layers_0 {'bias': None, 'kernel': (0, 1)}
      layers_1 {'bias': None, 'kernel': (0,)}
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a linen.Module; got {kind_of(module)}")
    chosen = check_layers(layers, tuple(_KERNELS))
    claims: dict[tuple[str, ...], list[Claim]] = {}
    kinds: dict[tuple[str, ...], str] = {}
    boxed = True

    def inspect(call, call_args, call_kwargs, context):
        result = call(*call_args, **call_kwargs)
        layer = context.module
        if layer.scope is None:  # not a part of the model, such as a cell that only makes its carry
            return result
        kinds[layer.path] = kind = type(layer).__name__
        owner = f"{kind} at {'/'.join(layer.path) or '<root>'}"
        if isinstance(layer, nn.Embed):
            claim = Claim(owner, reason="embedding")
            claims.setdefault(("params", *layer.path, "embedding"), []).append(claim)
        kernel = layer.variables.get("params", {}).get("kernel")
        for known, letters_of in _KERNELS.items():
            if isinstance(layer, known) and kernel is not None:
                shape = np.shape(nn.meta.unbox(kernel))
                letters = letters_of(layer, len(shape), *call_args, **call_kwargs)
                if letters is not None:
                    claim = kernel_claim(owner, shape, letters, isinstance(layer, chosen))
                    claims.setdefault(("params", *layer.path, "kernel"), []).append(claim)
                if boxed and not isinstance(kernel, _Stacked):
                    layer.put_variable("params", "kernel", _Stacked(kernel, ()))
        return result

    def trace():
        claims.clear()
        kinds.clear()
        with nn.intercept_methods(inspect):
            return jax.eval_shape(lambda: module.lazy_init(rngs, *args, **kwargs))

    try:
        variables = trace()
    except Exception:  # noqa: BLE001
        # Some modules, such as nn.SpectralNorm, fail on parameters in boxes. Without boxes the
        # added axes are found from the shapes, and an error of the model itself is raised again.
        boxed = False
        variables = trace()
    table = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(
        variables, is_leaf=lambda node: isinstance(node, _Stacked)
    ):
        names = path_names(unboxed(path))
        stacks = leaf.stacks if isinstance(leaf, _Stacked) else None
        shape = np.shape(nn.meta.unbox(leaf))
        collection, *owner = names[:-1]
        while owner and tuple(owner) not in kinds:
            owner.pop()
        otherwise = explain_unclaimed(names[-1], shape, kinds.get(tuple(owner), "?"))
        if collection != "params":
            otherwise = f"in {collection}"
        table[names] = resolve_claims(shape, claims.get(names, ()), otherwise, stacks)
    return LayerAxes(table, "linen_kernel_axes", ("params",))


def _dense(layer, rank, *args, **kwargs):
    return _roles.dense(1, 1)


def _dense_general(layer, rank, *args, **kwargs):
    batch, inputs = np.size(layer.batch_dims), np.size(layer.axis)
    return _roles.dense(inputs, rank - batch - inputs, batch)


def _einsum(layer, rank, *args, **kwargs):
    given = (layer.einsum_str, kwargs.get("einsum_str"), *args[1:])
    equation = next((each for each in given if isinstance(each, str)), None)
    # A subclass can add the equation in the call that it passes on.
    return None if equation is None else _roles.einsum(equation, rank)


def _conv(layer, rank, *args, **kwargs):
    return _roles.conv(rank)


def _conv_local(layer, rank, *args, **kwargs):
    # The kernel is (output positions..., inputs, outputs), and each position has its own neurons.
    return _roles.dense(1, 1, batch=rank - 2)


def _conv_transpose(layer, rank, *args, **kwargs):
    return _roles.conv_transpose(layer.strides, rank, layer.transpose_kernel)


# For each layer, a function from the kernel's rank and the call's arguments to its axes' roles.
_KERNELS: dict[type, Callable[..., str | None]] = {
    nn.Dense: _dense,
    DenseParams: _dense,
    nn.DenseGeneral: _dense_general,
    nn.Einsum: _einsum,
    nn.Conv: _conv,
    nn.ConvLocal: _conv_local,
    nn.ConvTranspose: _conv_transpose,
}
