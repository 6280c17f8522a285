"""Finds each kernel's input axes by inspecting the layers of a Linen model."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

try:
    from flax import linen as nn
    from flax.linen.recurrent import DenseParams
except ImportError as error:
    raise ImportError("linen_kernel_axes needs Flax: pip install flax") from error

from optax_gc._layers import (
    Claim,
    LayerAxes,
    all_but,
    check_layers,
    conv_transpose_inputs,
    einsum_inputs,
    explain_unclaimed,
    kernel_claim,
    resolve_claims,
)
from optax_gc._paths import path_names, unboxed


def linen_kernel_axes(
    module: Any, rngs: Any, *args: Any, layers: tuple[type, ...] | None = None, **kwargs: Any
) -> LayerAxes:
    """Finds the input axes of a Flax Linen model's kernels by inspecting its layers.

    The model is traced once, as ``module.init(rngs, *args, **kwargs)`` would do, but nothing
    is computed. Every layer that is called on the way is inspected. The result is exact for
    Dense, DenseGeneral (and so for attention), Einsum, Conv of any rank, grouped or depthwise,
    ConvLocal, ConvTranspose with and without ``transpose_kernel``, recurrent cells, and
    subclasses of these, also under ``nn.remat``. The axes that ``nn.vmap`` and ``nn.scan``
    add are found by comparison with the shape that the layer itself sees, and each layer of a
    stack is centralized separately. For ConvTranspose with strides, see
    :func:`optax_gc.nnx_kernel_axes`.

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
      A callable for ``optax_gc.centralize(axes=…)``. It holds no arrays, and accepts updates
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
        found = (
            f"the class {module.__name__}" if isinstance(module, type) else type(module).__name__
        )
        raise TypeError(f"module must be a linen.Module; got {found}")
    chosen = check_layers(layers, tuple(_INPUTS))
    claims: dict[tuple[str, ...], list[Claim]] = {}
    kinds: dict[tuple[str, ...], str] = {}

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
        owned = layer.variables.get("params", {})
        for known, inputs_of in _INPUTS.items():
            if isinstance(layer, known) and "kernel" in owned:
                shape = np.shape(nn.meta.unbox(owned["kernel"]))
                inputs = inputs_of(layer, len(shape), *call_args, **call_kwargs)
                if inputs is not None:
                    claim = kernel_claim(owner, shape, inputs, isinstance(layer, chosen))
                    claims.setdefault(("params", *layer.path, "kernel"), []).append(claim)
        return result

    with nn.intercept_methods(inspect):
        variables = jax.eval_shape(lambda: module.lazy_init(rngs, *args, **kwargs))
    table = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        names = path_names(unboxed(path))
        collection, *owner = names[:-1]
        while owner and tuple(owner) not in kinds:
            owner.pop()
        otherwise = explain_unclaimed(names[-1], leaf.shape, kinds.get(tuple(owner), "?"))
        if collection != "params":
            otherwise = f"in {collection}"
        table[names] = resolve_claims(leaf.shape, claims.get(names, ()), otherwise)
    return LayerAxes(table, "linen_kernel_axes", ("params",))


def _first(layer, rank, *args, **kwargs):
    return (0,)


def _dense_general(layer, rank, *args, **kwargs):
    batch, inputs = np.size(layer.batch_dims), np.size(layer.axis)
    return tuple(range(batch, batch + inputs))


def _einsum(layer, rank, *args, **kwargs):
    given = (layer.einsum_str, kwargs.get("einsum_str"), *args[1:])
    equation = next((each for each in given if isinstance(each, str)), None)
    # A subclass can add the equation in the call that it passes on.
    return None if equation is None else einsum_inputs(equation, rank)


def _conv(layer, rank, *args, **kwargs):
    return all_but(-1, rank)


def _conv_local(layer, rank, *args, **kwargs):
    # The kernel is (output positions..., inputs, outputs), and each position has its own neurons.
    return (rank - 2,)


def _conv_transpose(layer, rank, *args, **kwargs):
    in_axis = rank - 1 if layer.transpose_kernel else rank - 2
    return conv_transpose_inputs(layer.strides, rank - 2, in_axis)


# For each layer, the input axes of its kernel, from its rank and the arguments of the call.
_INPUTS: dict[type, Callable[..., tuple[int, ...] | None]] = {
    nn.Dense: _first,
    DenseParams: _first,
    nn.DenseGeneral: _dense_general,
    nn.Einsum: _einsum,
    nn.Conv: _conv,
    nn.ConvLocal: _conv_local,
    nn.ConvTranspose: _conv_transpose,
}
