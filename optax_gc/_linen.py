"""Which axes of a Linen model's leaves are a neuron's inputs, asked of its layers."""

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
    einsum_inputs,
    kernel_claim,
    left_alone,
    path_names,
    settle,
    unboxed,
)


def linen_kernel_axes(
    module: Any, rngs: Any, *args: Any, layers: tuple[type, ...] | None = None, **kwargs: Any
) -> LayerAxes:
    """Finds the input axes of a Flax Linen model's kernels by asking its layers.

    The model is traced once as by ``module.init(rngs, *args, **kwargs)``, without computing
    anything, and every layer it calls is asked. Exact for Dense, DenseGeneral (so for
    attention), Einsum, Conv of any rank, grouped and depthwise, ConvLocal, ConvTranspose with
    and without ``transpose_kernel``, recurrent cells, and subclasses of these, also under
    ``nn.remat``. Axes that ``nn.vmap`` and ``nn.scan`` stack layers along are found by
    comparing with the shape that the layer itself sees; each layer of a stack is centralized
    alone.

    Embeddings, biases and scales are left alone, and so is what a layer that is not known
    owns: :func:`optax_gc.tabulate` lists it. Give its axes in a function, as shown for
    :func:`optax_gc.nnx_kernel_axes`.

    Args:
      module: a ``linen.Module``.
      rngs: as for ``module.init``.
      *args: as for ``module.init``; arrays or ``jax.ShapeDtypeStruct``.
      layers: the classes whose kernels are centralized, all if None. The class is that of
        the layer that owns the kernel: ``nn.DenseGeneral`` for attention. One that this
        model does not use is no error.
      **kwargs: as for ``module.init``, ``method`` included.

    Returns:
      A callable for ``optax_gc.centralize(axes=…)`` that holds no arrays and takes updates of
      this model, with or without ``'params'`` in front, boxed or not, masked or not. It raises
      a ValueError that names the leaf for one that the model does not have, or has in another
      shape; for one shared by layers with different input axes; and where a stack's axis has
      the size of a neighbour, so that it cannot be told.

    Raises:
      ImportError: Flax is not installed.
      TypeError: ``layers`` is not a tuple of classes.
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
    chosen = check_layers(layers, tuple(_INPUTS))
    claims: dict[tuple[str, ...], list[Claim]] = {}
    kinds: dict[tuple[str, ...], str] = {}

    def ask(call, call_args, call_kwargs, context):
        result = call(*call_args, **call_kwargs)
        layer = context.module
        if layer.scope is None:  # not a part of the model, such as a cell asked for its carry
            return result
        kinds[layer.path] = kind = type(layer).__name__
        owner = f"{kind} at {'/'.join(layer.path) or '<root>'}"
        if isinstance(layer, nn.Embed):
            said = Claim(owner, reason="embedding")
            claims.setdefault(("params", *layer.path, "embedding"), []).append(said)
        owned = layer.variables.get("params", {})
        for known, inputs_of in _INPUTS.items():
            if isinstance(layer, known) and "kernel" in owned:
                shape = np.shape(nn.meta.unbox(owned["kernel"]))
                inputs = inputs_of(layer, len(shape), *call_args, **call_kwargs)
                if inputs is not None:
                    said = kernel_claim(owner, shape, inputs, isinstance(layer, chosen))
                    claims.setdefault(("params", *layer.path, "kernel"), []).append(said)
        return result

    with nn.intercept_methods(ask):
        variables = jax.eval_shape(lambda: module.lazy_init(rngs, *args, **kwargs))
    table = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        names = path_names(unboxed(path))
        collection, *owner = names[:-1]
        while owner and tuple(owner) not in kinds:
            owner.pop()
        otherwise = left_alone(names[-1], leaf.shape, kinds.get(tuple(owner), "?"))
        if collection != "params":
            otherwise = f"in {collection}"
        table[names] = settle(leaf.shape, claims.get(names, ()), otherwise)
    return LayerAxes(table, "linen_kernel_axes", ("params",))


def _first(layer, rank, *args, **kwargs):
    return (0,)


def _dense_general(layer, rank, *args, **kwargs):
    batch, inputs = np.size(layer.batch_dims), np.size(layer.axis)
    return tuple(range(batch, batch + inputs))


def _einsum(layer, rank, *args, **kwargs):
    given = (layer.einsum_str, kwargs.get("einsum_str"), *args[1:])
    equation = next((each for each in given if isinstance(each, str)), None)
    # A subclass may add the equation itself, in the call that it passes on.
    return None if equation is None else einsum_inputs(equation, rank)


def _conv(layer, rank, *args, **kwargs):
    return all_but(-1, rank)


def _conv_local(layer, rank, *args, **kwargs):
    # The kernel is (output positions..., inputs, outputs): each position has neurons of its own.
    return (rank - 2,)


def _conv_transpose(layer, rank, *args, **kwargs):
    return all_but(-2 if layer.transpose_kernel else -1, rank)


# For each layer the input axes of its kernel, from its rank and what the layer was called with.
_INPUTS: dict[type, Callable[..., tuple[int, ...] | None]] = {
    nn.Dense: _first,
    DenseParams: _first,
    nn.DenseGeneral: _dense_general,
    nn.Einsum: _einsum,
    nn.Conv: _conv,
    nn.ConvLocal: _conv_local,
    nn.ConvTranspose: _conv_transpose,
}
