"""Finds each kernel's input axes by inspecting the layers of a Haiku model."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

try:
    import haiku as hk
except ImportError as error:
    raise ImportError("haiku_kernel_axes needs Haiku: pip install dm-haiku") from error

from optax_gc import _roles
from optax_gc._layers import (
    Claim,
    LayerAxes,
    check_layers,
    explain_unclaimed,
    kernel_claim,
    resolve_claims,
)

_ARRAYS = (jax.Array, np.ndarray, jax.ShapeDtypeStruct)


def haiku_kernel_axes(
    transformed: Any, rng: Any, *args: Any, layers: tuple[type, ...] | None = None, **kwargs: Any
) -> LayerAxes:
    """Finds the input axes of a Haiku model's kernels by inspecting its layers.

    The model is traced once, as ``transformed.init(rng, *args, **kwargs)`` would do, but nothing
    is computed. Every layer that is called on the way is inspected. The result is exact for
    Linear (and so for attention), convolutions of any rank, grouped, depthwise and separable,
    transposed convolutions, which Haiku stores as (space..., outputs, inputs), recurrent cores,
    and subclasses of these. ``hk.layer_stack`` adds axis 0, and each layer of a stack is
    centralized separately. For transposed convolutions with strides, see
    :func:`optax_gc.nnx_kernel_axes`.

    Embeddings, norms and biases are left alone. So are the arrays of a layer that is not known;
    :func:`optax_gc.tabulate` lists them. Pass their axes with the method ``replace`` of the
    result.

    Args:
      transformed: what ``hk.transform`` or ``hk.transform_with_state`` returns.
      rng: as for ``transformed.init``.
      *args: as for ``transformed.init``; an array can be a ``jax.ShapeDtypeStruct``.
      layers: the classes whose kernels are centralized, such as ``hk.Linear``; None for all.
      **kwargs: as for ``transformed.init``.

    Returns:
      A function for ``optax_gc.centralize(axes=…)``. It holds no arrays. It raises a ValueError
      that names the leaf in the same cases as that of :func:`optax_gc.nnx_kernel_axes`.

    Raises:
      ImportError: Haiku is not installed.
      TypeError: ``transformed`` is not a transformed function, or ``layers`` is not a tuple of
        classes.
      ValueError: a class in ``layers`` owns no kernel.

    Examples:
      >>> import haiku as hk
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax_gc
      >>> model = hk.transform(lambda x: hk.Linear(2)(hk.Conv1DTranspose(4, 3)(x)))
      >>> x = jnp.zeros((1, 10, 3))
      >>> axes = optax_gc.haiku_kernel_axes(model, jax.random.key(0), x)
      >>> params = jax.eval_shape(model.init, jax.random.key(0), x)
      >>> for layer, found in axes(params).items():
      ...     print(layer, found)
      conv1_d_transpose {'b': None, 'w': (0, 2)}
      linear {'b': None, 'w': (0,)}
    """
    if not isinstance(transformed, (hk.Transformed, hk.TransformedWithState)):
        raise TypeError(
            "transformed must be what hk.transform or hk.transform_with_state returns; got "
            f"{type(transformed).__name__}"
        )
    chosen = check_layers(layers, tuple(_KERNELS))
    claims: dict[tuple[str, str], list[Claim]] = {}
    kinds: dict[str, str] = {}

    def inspect(call, call_args, call_kwargs, context):
        result = call(*call_args, **call_kwargs)
        layer = context.module
        if context.method_name != "__call__":
            return result
        kinds[layer.module_name] = kind = type(layer).__name__
        owner = f"{kind} at {layer.module_name}"
        if isinstance(layer, hk.Embed):
            claims[layer.module_name, "embeddings"] = [Claim(owner, reason="embedding")]
        for known, kernels in _KERNELS.items():
            if isinstance(layer, known):
                for name, value in layer.params_dict().items():
                    module, _, name = name.rpartition("/")
                    letters = kernels(layer, np.ndim(value)).get(name)
                    if module == layer.module_name and letters is not None:
                        claim = kernel_claim(owner, value.shape, letters, isinstance(layer, chosen))
                        claims.setdefault((module, name), []).append(claim)
        return result

    # Only arrays are traced, because a model can decide by other arguments, such as is_training.
    leaves, treedef = jax.tree.flatten((rng, args, kwargs))
    arrays = [leaf if isinstance(leaf, _ARRAYS) else None for leaf in leaves]

    # A new function each time: JAX does not trace a function again that it has traced before.
    def init(arrays):
        pairs = zip(leaves, arrays, strict=True)
        filled = [leaf if array is None else array for leaf, array in pairs]
        rng, args, kwargs = treedef.unflatten(filled)
        return transformed.init(rng, *args, **kwargs)

    with hk.intercept_methods(inspect):
        variables = jax.eval_shape(init, arrays)
    params = variables[0] if isinstance(transformed, hk.TransformedWithState) else variables
    table = {}
    for module, arrays in params.items():
        for name, array in arrays.items():
            kind = next((kinds[inner] for inner in _inside(module) if inner in kinds), "?")
            otherwise = explain_unclaimed(name, array.shape, kind)
            found, stacks = _find_claims(claims, module, name, array.shape)
            table[module, name] = resolve_claims(array.shape, found, otherwise, stacks)
    return LayerAxes(table, "haiku_kernel_axes")


def _find_claims(claims, module, name, shape) -> tuple[list[Claim], tuple[int, ...] | None]:
    """Returns the claims for an array, and the axes that layer_stack has added."""
    for inner in _inside(module):
        its = claims.get((inner, name), [])
        for count in range(0 if inner == module else 1, len(shape)):
            fitting = [each for each in its if not each.shape or each.shape == shape[count:]]
            if fitting:
                return fitting, tuple(range(count))
    return claims.get((module, name), []), None


def _inside(module) -> list[str]:
    """Returns the names that a module can have for itself.

    The layers inside of a layer_stack do not know its name, which comes before theirs in the path.
    """
    parts = module.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _kernel(letters: Callable[[Any, int], str], *names: str):
    return lambda layer, rank: dict.fromkeys(names, letters(layer, rank))


def _conv(layer, rank):
    return _roles.conv(rank)


# For each layer, the roles of its kernels' axes by name, from the kernel's rank.
_KERNELS: dict[type, Callable[[Any, int], dict[str, str]]] = {
    hk.Linear: _kernel(lambda layer, rank: _roles.dense(1, 1), "w"),
    hk.ConvND: _kernel(_conv, "w"),
    hk.DepthwiseConv1D: _kernel(_conv, "w"),
    hk.DepthwiseConv2D: _kernel(_conv, "w"),
    hk.DepthwiseConv3D: _kernel(_conv, "w"),
    hk.ConvNDTranspose: _kernel(
        lambda layer, rank: _roles.conv_transpose(layer.stride, rank, True), "w"
    ),
    hk.GRU: _kernel(lambda layer, rank: _roles.dense(1, 1), "w_i", "w_h"),
}
