"""Assigns axes and masks to the leaves of the updates."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_gc._axes import is_int
from optax_gc._paths import leaf_name

NO_AXES = "no axes given"


class Leaf(NamedTuple):
    """A leaf of the updates, and the non-negative axes that are averaged over.

    If the leaf is left alone, ``axes`` is None and ``reason`` says why.
    """

    path: tuple[Any, ...]
    value: Any
    axes: tuple[int, ...] | None
    reason: str


def resolve(tree: Any, axes: Any, mask: Any = None) -> tuple[list[Leaf], Any]:
    """Finds the axes of each leaf of `tree`.

    `axes` and `mask` are functions or prefix trees. Returns the leaves in order, and the structure
    of the tree, in which None and MaskedNode count as leaves.

    Raises a ValueError or a TypeError that names the leaf if a prefix does not fit, if a leaf does
    not have the axes, or if a value is not a tuple of axes or not a bool.
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_absent)
    if _is_function(axes):
        axes = axes(tree)
        if axes is None and not jax.tree_util.treedef_is_leaf(treedef):
            raise TypeError("the axes function returned None instead of a tree of axes")
    if _is_function(mask):
        mask = mask(tree)
        if mask is None and not is_absent(tree):
            raise TypeError("the mask function returned None instead of a tree of bool")
    axes = _broadcast(axes, tree, _is_axes, "axes")
    mask = [True] * len(leaves) if mask is None else _broadcast(mask, tree, _is_leaf, "mask")
    resolved = []
    for (path, value), its_axes, its_mask in zip(leaves, axes, mask, strict=True):
        used, reason = None, ""
        if is_absent(value) or not _require_bool(its_mask, value, path):
            reason = "masked"
        elif not _is_inexact(value):
            reason = "not floating point"
        elif its_axes is None:
            reason = NO_AXES
        else:
            used = _require_axes(its_axes, value, path)
            # The mean of a single weight is that weight, which would then never train.
            if fan_in(value, used) <= 1:
                used, reason = None, f"fan-in {fan_in(value, used)}"
        resolved.append(Leaf(path, value, used, reason))
    return resolved, treedef


def fan_in(kernel: Any, axes: Any) -> int:
    """Returns the number of weights of one neuron, whose inputs are along `axes`."""
    return math.prod(kernel.shape[axis] for axis in axes)


def _broadcast(prefix, tree, is_leaf, what):
    """Returns, for each leaf of `tree` in order, the leaf of `prefix` that covers it."""
    found = []

    def descend(prefix, node, path):
        # A masked node can replace a whole subtree, whatever the prefix has there.
        if is_leaf(prefix) or is_absent(node):
            found.extend([prefix] * len(jax.tree.leaves(node, is_leaf=is_absent)))
            return
        given, given_def = _children(prefix)
        children, treedef = _children(node)
        if given_def != treedef:
            raise ValueError(
                f"{what} is not a prefix of the updates: {_difference(prefix, node, path)}"
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
        parts = [f"lacks {', '.join(missing)}"] * bool(missing)
        parts += [f"has {', '.join(extra)}, which the updates do not have"] * bool(extra)
        return f"{place} it {' and '.join(parts)}"
    return f"{place} both are {kind(node)}, with different static fields"


def _require_axes(axes, leaf, path):
    shape = tuple(leaf.shape)
    where = f"the leaf {leaf_name(path)} of shape {shape}"
    if type(axes) not in (tuple, list) or not all(map(is_int, axes)):
        raise TypeError(f"axes of {where} must be a tuple of ints or None, not {axes!r}")
    for axis in axes:
        if not -len(shape) <= axis < len(shape):
            raise ValueError(f"axis {axis} of axes={axes!r} is out of range for {where}")
    axes_from_front = tuple(int(axis) % len(shape) for axis in axes)
    if len(set(axes_from_front)) < len(axes):
        raise ValueError(f"axes={axes!r} contain an axis of {where} twice")
    return axes_from_front


def _require_bool(mask, leaf, path):
    if not isinstance(mask, (bool, np.bool_)):
        raise TypeError(
            f"mask of the leaf {leaf_name(path)} of shape {np.shape(leaf)} must be a bool, not {mask!r}"
        )
    return bool(mask)


def is_absent(node):
    """Returns whether a node stands for leaves that are not there: None or MaskedNode."""
    return node is None or isinstance(node, optax.MaskedNode)


def _is_leaf(node):
    return is_absent(node) or jax.tree_util.all_leaves([node])


def _is_axes(node):
    return _is_leaf(node) or (type(node) in (tuple, list) and jax.tree_util.all_leaves(node))


def _is_inexact(leaf):
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _is_function(value):
    # A module that is used as the axes tree can be callable too, but it has leaves.
    return callable(value) and _is_leaf(value)
