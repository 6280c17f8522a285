"""Input axes of kernels, inferred from a leaf's name and shape."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
import optax

from optax_gc._paths import last_name, leaf_name

# A tree whose leaves are tuples of ints or None, a prefix of one, or a function from the updates
# to one.
Axes: TypeAlias = Callable[[Any], Any] | Any
# A tree of bool, a prefix of one, or a function from the updates to one.
Mask: TypeAlias = Callable[[Any], Any] | Any


def kernel_axes(tree: Any, *, out_axis: int = -1, ranks: Sequence[int] = (2, 4)) -> Any:
    """Finds the input axes of dense and 2-D convolution kernels by name and rank.

    A kernel has one weight vector for each output neuron (Section 3.2 of the paper), and
    its input axes are all axes but that of the outputs. A leaf of rank 2 is taken for a
    dense kernel, (inputs, outputs), and a leaf of rank 4 for a convolution's, (height,
    width, inputs, outputs), unless its name marks it as something else. A leaf's name is
    the last string in its path. List indices and the ``.value`` of a box are not names. A
    leaf without a name is judged only by its rank.

    A leaf of rank 3 or 5 can be a 1-D or 3-D convolution, attention, stacked layers or
    experts. It is left alone unless ``ranks`` contains its rank.

    Args:
      tree: parameters or gradients, arrays or ``jax.ShapeDtypeStruct``.
      out_axis: the axis of the output neurons; negative numbers count from the end. It is
        -1 for Flax and Haiku, and 0 for Equinox and PyTorch.
      ranks: the ranks of leaves that are kernels, each at least 2.

    Returns:
      The same tree, in which each leaf is the tuple of its input axes, or None if it is left
      alone. That is a leaf of another rank, an ``optax.MaskedNode``, or a leaf whose name
      ends in bias, scale, offset or token, contains embed, or is b. The tree is meant for
      ``optax_gc.centralize(axes=…)``.

    Raises:
      ValueError: ``out_axis`` is not an axis of a kernel, ``ranks`` is empty, or a rank is
        below 2.
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

      Equinox stores the outputs first:

      >>> import functools
      >>> axes = functools.partial(optax_gc.kernel_axes, out_axis=0)
      >>> axes({"weight": jnp.ones((32, 16, 3, 3))})
      {'weight': (1, 2, 3)}
    """
    if not _is_int(out_axis):
        raise TypeError(f"out_axis must be an int, not {out_axis!r}")
    if not isinstance(ranks, Sequence) or isinstance(ranks, str) or not all(map(_is_int, ranks)):
        raise TypeError(f"ranks must be a sequence of ints such as (2, 4), not {ranks!r}")
    if not ranks:
        raise ValueError("ranks=() centralizes nothing; pass ranks such as (2, 4)")
    if any(rank < 2 for rank in ranks):
        raise ValueError(f"a kernel has at least 2 axes, inputs and outputs; ranks={ranks!r}")
    return _map_kernels(lambda path, leaf: decide(path, leaf, out_axis, ranks)[0], tree)


def decide(
    path: Any, leaf: Any, out_axis: int = -1, ranks: Sequence[int] = (2, 4)
) -> tuple[tuple[int, ...] | None, str]:
    """Returns the input axes of one leaf by the rule of `kernel_axes`, or None and the reason."""
    name, rank = last_name(path), np.ndim(leaf)
    if "embed" in name.lower():
        return None, "embedding by name"
    if rank < 2 or not is_kernel_name(name):
        return None, "not a kernel by name"
    if rank not in ranks:
        return None, f"rank {rank} is {'ambiguous' if rank not in (2, 4) else 'not in ranks'}"
    if not -rank <= out_axis < rank:
        raise ValueError(
            f"out_axis={out_axis} is not an axis of the leaf {leaf_name(path)} of shape "
            f"{tuple(np.shape(leaf))}"
        )
    return tuple(axis for axis in range(rank) if axis != out_axis % rank), ""


def conv_kernels(tree: Any) -> Any:
    """Marks the kernels of 2-D convolutions: the leaves of rank 4 whose name may be a kernel's.

    ``centralize(mask=conv_kernels)`` centralizes only convolutions, as the paper does for
    image networks in Tables 1 to 3.

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
    """Marks dense kernels: the leaves of rank 2 whose name may be a kernel's.

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


def _map_kernels(function, tree):
    return jax.tree_util.tree_map_with_path(
        function, tree, is_leaf=lambda node: isinstance(node, optax.MaskedNode)
    )


def is_kernel_name(name: str) -> bool:
    """Returns False for names that mark a leaf as something other than a kernel: bias, scale, …"""
    name = name.lower()
    return not (
        name.endswith(("bias", "scale", "offset", "token")) or "embed" in name or name == "b"
    )


def _is_int(value) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
