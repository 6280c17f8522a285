"""Which axes of a leaf are a neuron's inputs, told from its name and its shape."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax


def kernel_axes(tree: Any, *, out_axis: int = -1, ranks: Sequence[int] = (2, 4)) -> Any:
    """Finds the input axes of dense and 2-D convolution kernels by name and rank.

    A kernel's columns are its weight vectors, one for each output neuron (Section
    3.2 of the paper); its input axes are all the others. They are told only where a
    shape can tell them: a leaf of rank 2 is a dense kernel, (inputs, outputs), one of
    rank 4 a convolution's, (height, width, inputs, outputs), unless its name says
    that it is no kernel. A name is the last string in the leaf's path; ``.value`` of
    a box and list indices are no names, and a leaf without a name goes by its rank.

    Rank 3 and 5 may be a 1-D or 3-D convolution, attention, stacked layers or
    experts, so they are left alone unless ``ranks`` names them.

    Args:
      tree: parameters or gradients, arrays or ``jax.ShapeDtypeStruct``.
      out_axis: the one axis that counts output neurons, negative from the end; -1 for
        Flax and Haiku, 0 for Equinox and PyTorch.
      ranks: the ranks taken for kernels, each at least 2.

    Returns:
      The same tree with, for each leaf, the tuple of its input axes, or None where it
      is left alone: a name that ends in bias, scale, offset or token, holds embed or is
      b; another rank; ``optax.MaskedNode``. For ``optax_gc.centralize(axes=…)``.

    Raises:
      ValueError: ``out_axis`` is not an axis of a kernel, or a rank is below 2.
      TypeError: ``out_axis`` is not an int, or ``ranks`` not a sequence of ints.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_gc
      >>> params = {
      ...     "conv": {"kernel": jnp.ones((3, 3, 16, 32)), "bias": jnp.ones(32)},
      ...     "head": {"kernel": jnp.ones((32, 10))},
      ... }
      >>> optax_gc.kernel_axes(params)
      {'conv': {'bias': None, 'kernel': (0, 1, 2)}, 'head': {'kernel': (0,)}}

      Equinox keeps outputs first:

      >>> import functools
      >>> axes = functools.partial(optax_gc.kernel_axes, out_axis=0)
      >>> axes({"weight": jnp.ones((32, 16, 3, 3))})
      {'weight': (1, 2, 3)}
    """
    if not _is_int(out_axis):
        raise TypeError(f"out_axis must be an int, not {out_axis!r}")
    if not isinstance(ranks, Sequence) or isinstance(ranks, str) or not all(map(_is_int, ranks)):
        raise TypeError(f"ranks must be a sequence of ints such as (2, 4), not {ranks!r}")
    if any(rank < 2 for rank in ranks):
        raise ValueError(f"a kernel has at least 2 axes, inputs and outputs; ranks={ranks!r}")

    def axes_of(path, leaf):
        rank = np.ndim(leaf)
        if rank not in ranks or not is_kernel_name(last_name(path)):
            return None
        if not -rank <= out_axis < rank:
            raise ValueError(
                f"out_axis={out_axis} is not an axis of the leaf {leaf_name(path)} of shape "
                f"{tuple(np.shape(leaf))}"
            )
        return tuple(axis for axis in range(rank) if axis != out_axis % rank)

    return _map_kernels(axes_of, tree)


def conv_kernels(tree: Any) -> Any:
    """Marks 2-D convolution kernels: named as a kernel is, and of rank 4.

    ``centralize(mask=conv_kernels)`` is the paper's "GC on convolutions only" for
    image networks (Tables 1 to 3).

    Args:
      tree: parameters or gradients, arrays or ``jax.ShapeDtypeStruct``.

    Returns:
      The same tree of bool.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_gc
      >>> optax_gc.conv_kernels({"conv": jnp.ones((3, 3, 16, 32)), "head": jnp.ones((32, 10))})
      {'conv': True, 'head': False}
    """
    return _map_kernels(
        lambda path, leaf: np.ndim(leaf) == 4 and is_kernel_name(last_name(path)), tree
    )


def dense_kernels(tree: Any) -> Any:
    """Marks dense kernels: named as a kernel is, and of rank 2.

    Args:
      tree: parameters or gradients, arrays or ``jax.ShapeDtypeStruct``.

    Returns:
      The same tree of bool.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_gc
      >>> optax_gc.dense_kernels({"conv": jnp.ones((3, 3, 16, 32)), "head": jnp.ones((32, 10))})
      {'conv': False, 'head': True}
    """
    return _map_kernels(
        lambda path, leaf: np.ndim(leaf) == 2 and is_kernel_name(last_name(path)), tree
    )


def leaf_name(path: Any) -> str:
    """Names a leaf in messages, also where the whole tree is one leaf."""
    return jax.tree_util.keystr(path) or "<root>"


def _map_kernels(function, tree):
    return jax.tree_util.tree_map_with_path(
        function, tree, is_leaf=lambda node: isinstance(node, optax.MaskedNode)
    )


def is_kernel_name(name: str) -> bool:
    """Whether a name is not one of those that say that a leaf is no kernel."""
    name = name.lower()
    return not (
        name.endswith(("bias", "scale", "offset", "token")) or "embed" in name or name == "b"
    )


def last_name(path: Any) -> str:
    """The last string in a leaf's path, which is its name."""
    # A box adds `.value` behind the name of what it holds (nnx.Variable, Linen's Partitioned).
    while path and isinstance(path[-1], jax.tree_util.GetAttrKey) and path[-1].name == "value":
        path = path[:-1]
    keys = (getattr(key, "name", getattr(key, "key", None)) for key in reversed(path))
    return next((key for key in keys if isinstance(key, str)), "")


def _is_int(value) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
