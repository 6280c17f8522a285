"""Input axes of kernels, inferred from a leaf's name and shape."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
import optax

from optax_gc._paths import last_name, leaf_name, path_names

# A tree whose leaves are tuples of ints or None, a prefix of one, or a function from the updates
# to one.
Axes: TypeAlias = Callable[[Any], Any] | Any
# A tree of bool, a prefix of one, or a function from the updates to one.
Mask: TypeAlias = Callable[[Any], Any] | Any


def kernel_axes(tree: Any, *, out_axis: int = -1, ranks: Sequence[int] = (2, 4)) -> Any:
    """Finds the input axes of dense and 2-D convolution kernels by name and rank.

    A kernel has one weight vector for each output neuron (Section 3.2 of the paper), and
    its input axes are all axes except that of the outputs. A leaf of rank 2 is taken for a
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
      alone. That is a leaf of another rank, an ``optax.MaskedNode``, or a leaf whose name is
      not a kernel's: one that is b or cls, contains embed or rel_pos, or ends in bias,
      biases, scale, scales, offset, gamma, beta, token, emb, pos, position, positions,
      table, codebook, a_log or lora_b. The tree is meant for
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
    if not is_int(out_axis):
        raise TypeError(f"out_axis must be an int, not {out_axis!r}")
    if not isinstance(ranks, Sequence) or isinstance(ranks, str) or not all(map(is_int, ranks)):
        raise TypeError(f"ranks must be a sequence of ints such as (2, 4), not {ranks!r}")
    if not ranks:
        raise ValueError("ranks=() centralizes nothing; pass ranks such as (2, 4)")
    if any(rank < 2 for rank in ranks):
        raise ValueError(f"a kernel has at least 2 axes, inputs and outputs; ranks={ranks!r}")
    return _map_kernels(lambda path, leaf: decide(path, leaf, out_axis, ranks)[0], tree)


def decide(
    path: Any, leaf: Any, out_axis: int = -1, ranks: Sequence[int] = (2, 4)
) -> tuple[tuple[int, ...] | None, str]:
    """Returns the input axes of one leaf by the rule of `kernel_axes`, and a note.

    If the axes are None, the note says why the leaf is left alone. Otherwise it is empty, or says
    what kind of kernel the leaf is assumed to be although its name does not show it.
    """
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
    sure = rank > 2 or name.lower() in ("", "w", "weight", "kernel")
    note = "" if sure else "taken for dense kernels only by their rank"
    return tuple(axis for axis in range(rank) if axis != out_axis % rank), note


def conv_kernels(tree: Any, *, ranks: Sequence[int] = (4,)) -> Any:
    """Marks the kernels of convolutions: the leaves of rank 4 whose name may be a kernel's.

    ``centralize(mask=conv_kernels)`` centralizes only 2-D convolutions, as the paper does for
    image networks in Tables 1 to 3. To include convolutions with three spatial dimensions, pass
    their rank to both rules::

        ranks = (4, 5)
        centralize(
            functools.partial(kernel_axes, ranks=ranks),
            mask=functools.partial(conv_kernels, ranks=ranks),
        )

    Args:
      tree: parameters or gradients, arrays or ``jax.ShapeDtypeStruct``.
      ranks: the ranks of leaves that are convolutions.

    Returns:
      The same tree of bool.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_gc
      >>> optax_gc.conv_kernels({"conv": jnp.ones((3, 3, 16, 32)), "head": jnp.ones((32, 10))})
      {'conv': True, 'head': False}
    """
    return _map_kernels(
        lambda path, leaf: np.ndim(leaf) in ranks and is_kernel_name(last_name(path)), tree
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


def exclude(*names: str) -> Callable[[Any], Any]:
    """Returns a mask for all leaves except those of the named parts of a model.

    ``centralize(mask=exclude("head"))`` centralizes everything but the head, in any framework.

    Args:
      *names: names of layers, modules or leaves. A name matches every key of that name in a
        leaf's path. Slashes join the keys of a longer path, such as ``"decoder/head"``.

    Returns:
      A function from a tree to a tree of bool, which ``optax.masked`` and the ``mask`` of
      ``centralize``, of the diagnostics and of the decay of :func:`adamw` also take.

    Raises:
      TypeError: a name is not a string, or there is none.
      ValueError: when the mask is applied, no leaf is in a part of that name.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_gc
      >>> params = {"conv": {"kernel": jnp.ones((3, 3, 2, 4))}, "head": {"kernel": jnp.ones((4, 2))}}
      >>> optax_gc.exclude("head")(params)
      {'conv': {'kernel': True}, 'head': {'kernel': False}}
    """
    if not names or not all(isinstance(name, str) and name for name in names):
        raise TypeError(f'exclude takes names such as "head", not {names!r}')
    parts = {name: tuple(name.split("/")) for name in names}

    def mask(tree):
        found = set()

        def keep(path, leaf):
            del leaf
            # A key of Haiku is a path of its own, such as "mlp/~/linear_1".
            keys = tuple("/".join(path_names(path)).split("/"))
            starts = range(len(keys))
            matches = {
                name
                for name, part in parts.items()
                if any(keys[start : start + len(part)] == part for start in starts)
            }
            found.update(matches)
            return not matches

        marked = jax.tree_util.tree_map_with_path(keep, tree)
        # A tree in which other leaves are masked need not have every part.
        nodes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, optax.MaskedNode))
        if not any(isinstance(node, optax.MaskedNode) for node in nodes):
            for name in names:
                if name not in found:
                    raise ValueError(f"exclude({name!r}): no leaf is in a part of this name")
        return marked

    return mask


def _map_kernels(function, tree):
    return jax.tree_util.tree_map_with_path(
        function, tree, is_leaf=lambda node: isinstance(node, optax.MaskedNode)
    )


# The ends of names that only something other than a kernel has: biases and scales, tokens that are
# put before a sequence, tables of positions, codebooks, the decays of state-space layers, and the
# second factor of LoRA, which does not see the inputs.
_NO_KERNEL = (
    *("bias", "biases", "scale", "scales", "offset", "gamma", "beta", "token", "emb"),
    *("pos", "position", "positions", "table", "codebook", "a_log", "lora_b"),
)


def is_kernel_name(name: str) -> bool:
    """Returns False for names that mark a leaf as something other than a kernel: bias, scale, …"""
    name = name.lower()
    is_other = name.endswith(_NO_KERNEL) or "embed" in name or "rel_pos" in name
    return not (is_other or name in ("b", "cls"))


def is_int(value: Any) -> bool:
    """Returns whether a value is an int of Python or NumPy, which True is not."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
