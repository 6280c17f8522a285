"""Which leaf of an axes tree or a mask belongs to which leaf of the updates."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_gc._axes import leaf_name

NO_AXES = "no axes given"


class Leaf(NamedTuple):
    """A leaf of the updates and the axes, non-negative, that are averaged over.

    ``axes`` is None where the leaf is left alone, for ``reason``.
    """

    path: tuple[Any, ...]
    value: Any
    axes: tuple[int, ...] | None
    reason: str


def resolve(tree: Any, axes: Any, mask: Any = None) -> tuple[list[Leaf], Any]:
    """Says for each leaf of `tree` what `axes` and `mask`, callables or prefix trees, mean for it.

    Returns the leaves in order and the tree's structure, in which None and MaskedNode are leaves.

    Raises ValueError or TypeError, naming the leaf, for a prefix that does not fit, for axes that
    a leaf does not have, and for values that are no axes or no bool.
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_absent)
    if _is_function(axes):
        axes = axes(tree)
        if axes is None and not jax.tree_util.treedef_is_leaf(treedef):
            raise TypeError("the axes callable returned None, not a tree of axes")
    if _is_function(mask):
        mask = mask(tree)
    axes = _broadcast(axes, tree, _is_axes, "axes")
    mask = [True] * len(leaves) if mask is None else _broadcast(mask, tree, _is_leaf, "mask")
    resolved = []
    for (path, value), its_axes, its_mask in zip(leaves, axes, mask, strict=True):
        used, reason = None, ""
        if is_absent(value) or not _checked_mask(its_mask, value, path):
            reason = "masked"
        elif not _is_inexact(value):
            reason = "not floating point"
        elif its_axes is None:
            reason = NO_AXES
        else:
            used = _checked_axes(its_axes, value, path)
            # The mean of a single weight is that weight: without it, it would never train.
            if math.prod(value.shape[axis] for axis in used) <= 1:
                used, reason = None, "fan-in 1"
        resolved.append(Leaf(path, value, used, reason))
    return resolved, treedef


def _broadcast(prefix, tree, is_leaf, what):
    """The leaf of `prefix` that stands over each leaf of `tree`, in the order of its leaves."""
    found = []

    def descend(prefix, node, path):
        # A masked node may stand for a whole subtree, whatever the prefix holds there.
        if is_leaf(prefix) or is_absent(node):
            found.extend([prefix] * len(jax.tree.leaves(node, is_leaf=is_absent)))
            return
        given, given_def = _children(prefix)
        children, treedef = _children(node)
        if given_def != treedef:
            raise ValueError(
                f"{what} is no prefix of the updates: {_difference(prefix, node, path)}"
            )
        for key, child in children.items():
            descend(given[key], child, path + key)

    descend(prefix, tree, ())
    return found


def _children(node):
    pairs, treedef = jax.tree_util.tree_flatten_with_path(
        node, is_leaf=lambda child: child is not node
    )
    return dict(pairs), treedef


def _difference(prefix, node, path):
    def kind(tree):
        return "a leaf" if _is_leaf(tree) else f"a {type(tree).__name__}"

    place = f"at {leaf_name(path)}"
    if type(prefix) is not type(node):
        return f"{place} it has {kind(prefix)} where the updates have {kind(node)}"
    given, wanted = _children(prefix)[0], _children(node)[0]
    missing = [jax.tree_util.keystr(key) for key in wanted if key not in given]
    extra = [jax.tree_util.keystr(key) for key in given if key not in wanted]
    if missing or extra:
        said = [f"lacks {', '.join(missing)}"] * bool(missing)
        said += [f"has {', '.join(extra)}, which the updates do not have"] * bool(extra)
        return f"{place} it {' and '.join(said)}"
    return f"{place} both are {kind(node)}, with different static fields"


def _checked_axes(axes, leaf, path):
    shape = tuple(leaf.shape)
    where = f"the leaf {leaf_name(path)} of shape {shape}"
    if type(axes) not in (tuple, list) or not all(
        isinstance(axis, (int, np.integer)) and not isinstance(axis, bool) for axis in axes
    ):
        raise TypeError(f"axes of {where} must be a tuple of ints or None, not {axes!r}")
    for axis in axes:
        if not -len(shape) <= axis < len(shape):
            raise ValueError(f"axis {axis} of axes={axes!r} is out of range for {where}")
    axes_from_front = tuple(int(axis) % len(shape) for axis in axes)
    if len(set(axes_from_front)) < len(axes):
        raise ValueError(f"axes={axes!r} name an axis of {where} twice")
    return axes_from_front


def _checked_mask(mask, leaf, path):
    if not isinstance(mask, (bool, np.bool_)):
        raise TypeError(
            f"mask of the leaf {leaf_name(path)} of shape {np.shape(leaf)} must be a bool, not {mask!r}"
        )
    return bool(mask)


def is_absent(node):
    return node is None or isinstance(node, optax.MaskedNode)


def _is_leaf(node):
    return is_absent(node) or jax.tree_util.all_leaves([node])


def _is_axes(node):
    return _is_leaf(node) or (type(node) in (tuple, list) and jax.tree_util.all_leaves(node))


def _is_inexact(leaf):
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _is_function(value):
    # A module that serves as the axes tree may be callable as well, but has leaves of its own.
    return callable(value) and _is_leaf(value)
