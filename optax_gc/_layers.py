"""The table of a model's kernels, filled from what its layers report. All frameworks share it."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from optax_gc._axes import is_int, is_kernel_name
from optax_gc._paths import leaf_name, path_names, unboxed
from optax_gc._roles import AxisRoles, roles_by_inputs, roles_of


class Claim(NamedTuple):
    """A layer's report about a leaf that it owns.

    ``shape`` is the shape that the layer itself works with, without the axes that vmap and
    scan add, and ``letters`` are the roles of its axes, or None if it is not a kernel. If there
    is a ``reason``, it says why the leaf is left alone.
    """

    layer: str
    shape: tuple[int, ...] = ()
    letters: str | None = None
    reason: str = ""


class Entry(NamedTuple):
    """A leaf of the model.

    ``axes`` are its input axes, or None if it is left alone. ``roles`` is None if it is not a
    kernel, or if only its inputs are known. ``note`` says why the leaf is left alone or what was
    assumed, and ``error`` why its axes are unknown.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...] | None = None
    roles: AxisRoles | None = None
    note: str = ""
    error: str = ""


class LayerAxes:
    """The input axes of the leaves of one model, as a function for ``centralize(axes=…)``.

    It holds shapes and axes, but no arrays. The updates can be boxed, plain or masked.
    """

    def __init__(
        self, table: Mapping[tuple[str, ...], Entry], made_by: str, collection: tuple[str, ...] = ()
    ):
        self._table = dict(table)
        self._made_by = made_by
        self._collection = collection

    def __call__(self, updates: Any) -> Any:
        """Returns the tree of the updates with axes as leaves; None for a leaf that is left alone.

        Raises:
          ValueError: the model does not have a leaf, or has it in another shape, or the leaf's
            input axes cannot be determined. The message names the leaf.
        """

        def find_axes(path, leaf):
            entry = self._find(path, leaf)
            # A leaf that is left alone for some other reason may have axes that are unknown.
            if entry.error and not entry.note:
                raise ValueError(f"{_where(path, leaf)} {entry.error}")
            return entry.axes

        return jax.tree_util.tree_map_with_path(find_axes, updates)

    def replace(self, axes: Mapping[str, tuple[int, ...] | AxisRoles | None]) -> "LayerAxes":
        """Returns the same table with other axes for some leaves.

        These axes replace what the layers report. They are also the way to set the axes of a leaf
        that cannot be determined otherwise.

        Args:
          axes: by the leaf's path joined by slashes, as ``optax_gc.tabulate`` shows it, the tuple
            of its input axes, or its ``AxisRoles`` if other optimizers need them, too, or None
            to leave the leaf alone.

        Raises:
          ValueError: the model has no such leaf, or the leaf has no such axis.
          TypeError: the axes are neither a tuple of ints, nor AxisRoles, nor None.
        """
        table = dict(self._table)
        keys = {"/".join(path): path for path in table}
        for name, given in axes.items():
            key = keys.get(name, keys.get("/".join((*self._collection, name))))
            if key is None:
                known = ", ".join("/".join(path) for path in list(table)[:5])
                raise ValueError(f"the model has no leaf {name!r}; its leaves are {known}, …")
            table[key] = _requested_entry(given, table[key].shape, name)
        return LayerAxes(table, self._made_by, self._collection)

    def roles(self, updates: Any) -> Any:
        """Returns the tree of the updates with AxisRoles as leaves; None for a leaf left alone.

        Raises:
          ValueError: as for the call, or the inputs of a leaf are known and its other roles are
            not. The message names the leaf.
        """
        return jax.tree_util.tree_map_with_path(self.find_roles, updates)

    def note(self, path: Any) -> str:
        """Returns why the leaf at this path is left alone, or what was assumed about it."""
        return self._entry(path).note

    def _entry(self, path) -> Entry:
        # A box adds `.value` to the path, and Linen's updates can lack the name of the collection.
        for names in (path_names(path), path_names(unboxed(path))):
            for key in (names, self._collection + names):
                if key in self._table:
                    return self._table[key]
        raise ValueError(
            f"the model had no leaf {leaf_name(path)} when {self._made_by} was called: call it "
            "again with the model as it is now"
        )

    def has_heads(self) -> bool:
        """Returns whether an axis of a kernel is known to count heads."""
        return any(entry.roles and entry.roles.heads for entry in self._table.values())

    def find_roles(self, path: Any, leaf: Any) -> AxisRoles | None:
        """Returns the roles of the axes of one leaf, as `roles` does for all."""
        entry = self._find(path, leaf)
        if entry.error:
            raise ValueError(f"{_where(path, leaf)} {entry.error}")
        if entry.axes is not None and entry.roles is None:
            raise ValueError(
                f"the leaf {leaf_name(path)} of shape {entry.shape} has input axes {entry.axes}, "
                "but which of the others are outputs and which are stacks cannot be determined: "
                "pass AxisRoles by .replace({path: roles}) of this table"
            )
        return entry.roles

    def _find(self, path, leaf) -> Entry:
        entry, shape = self._entry(path), np.shape(leaf)
        if not _fits(shape, entry):
            raise ValueError(
                f"{_where(path, leaf)} had shape {entry.shape} when {self._made_by} was called: "
                "call it again with the model as it is now (in a shard_map, input axes must not be split)"
            )
        return entry


def _where(path, leaf) -> str:
    return f"the leaf {leaf_name(path)} of shape {np.shape(leaf)}"


_EXPLICIT = "pass its axes by .replace({path: axes}) of this table"


def resolve_claims(
    shape: tuple[int, ...],
    claims: Iterable[Claim],
    otherwise: str,
    stacks: tuple[int, ...] | None = None,
    note: str = "",
) -> Entry:
    """Combines the claims of a leaf's owners into its entry.

    Args:
      shape: the shape of the leaf.
      claims: what its owners report.
      otherwise: why it is left alone if no known layer owns it.
      stacks: the axes that transforms have added, or None to find them from the shapes.
      note: how the stacks were found, if that is an assumption.
    """
    claims = list(dict.fromkeys(claims))
    entries = [_resolve_claim(shape, claim, stacks, note) for claim in claims]
    for claim, entry in zip(claims, entries, strict=True):
        if entry.error:
            return entry
        if entry.axes != entries[0].axes:
            return Entry(
                shape,
                error=f"has input axes {entries[0].axes} as {claims[0].layer} uses it and "
                f"{entry.axes} as {claim.layer} does: {_EXPLICIT}",
            )
    return entries[0] if entries else Entry(shape, note=otherwise)


def _resolve_claim(shape, claim, stacks, note) -> Entry:
    if claim.letters is None:
        return Entry(shape, note=claim.reason)
    if stacks is None:
        found = find_stacks(claim, shape)
    else:
        found = [stacks] if _is_stack(claim, shape, stacks) else []
    each = [roles_of(claim.letters, added) for added in found]
    if len({_above_1(roles.inputs, shape) for roles in each}) == 1:
        roles = each[0] if len(each) == 1 else None
        return Entry(shape, None if claim.reason else each[0].inputs, roles, claim.reason or note)
    how = "is not a stack of kernels of that shape"
    if found:
        how = (
            "could stack kernels of that shape along several of its axes, so that the input axes "
            "are " + " or ".join(str(roles.inputs) for roles in each)
        )
    elif stacks:
        how = f"is not a stack of kernels of that shape along {stacks}"
    return Entry(
        shape,
        note=claim.reason,
        error=f"belongs to {claim.layer}, whose kernel has shape {claim.shape}, and {how}: {_EXPLICIT}",
    )


def find_stacks(claim: Claim, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Returns the axes that transforms can have added to a layer's kernel, each choice once.

    Choices that only differ in axes of size 1 are the same.
    """
    if claim.letters is None:
        return []
    count = len(shape) - len(claim.shape)
    every = itertools.combinations(range(len(shape)), count) if count >= 0 else ()
    found = {}
    for added in every:
        if _is_stack(claim, shape, added):
            roles = roles_of(claim.letters, added)
            found.setdefault(tuple(_above_1(axes, shape) for axes in roles), added)
    return list(found.values())


def _is_stack(claim, shape, added) -> bool:
    rest = tuple(size for axis, size in enumerate(shape) if axis not in added)
    return rest == claim.shape and len(rest) + len(added) == len(shape)


def _above_1(axes, shape):
    # An axis of size 1 makes no difference to a mean.
    return tuple(axis for axis in axes if shape[axis] > 1)


def kernel_claim(layer: str, shape: Sequence[int], letters: str, chosen: bool) -> Claim:
    """Returns a layer's claim for its kernel, which is left alone if the layer is not chosen."""
    return Claim(layer, tuple(shape), letters, "" if chosen else "not in layers")


def kind_of(model: Any) -> str:
    """Returns what an object is, for the message that it is not a model."""
    return f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__


def explain_unclaimed(name: str, shape: Sequence[int], layer: str) -> str:
    """Returns why a leaf that no known layer owns is left alone."""
    is_kernel = len(shape) > 1 and is_kernel_name(name)
    return f"unknown layer {layer}" if is_kernel else "not a kernel"


def check_layers(layers: Any, known: Sequence[type]) -> tuple[type, ...]:
    """Returns the classes whose kernels are centralized: `layers`, or by default all known ones."""
    if layers is None:
        return tuple(known)
    if not isinstance(layers, tuple) or not all(isinstance(layer, type) for layer in layers):
        raise TypeError(f"layers must be a tuple of classes, not {layers!r}")
    others = [layer.__name__ for layer in layers if not issubclass(layer, tuple(known))]
    if others:
        raise ValueError(
            f"layers has {', '.join(others)}, which is not known to own a kernel; the classes "
            f"that do are {', '.join(each.__name__ for each in known)} and their subclasses"
        )
    if not layers:
        raise ValueError("layers=() centralizes nothing; leave it out for all layers")
    return layers


def _fits(shape, entry):
    # In a shard_map a leaf is one shard. That is right if the axes that are split are not averaged.
    return len(shape) == len(entry.shape) and all(
        size == whole or (axis not in (entry.axes or ()) and size and whole % size == 0)
        for axis, (size, whole) in enumerate(zip(shape, entry.shape, strict=True))
    )


def _requested_entry(axes, shape, name) -> Entry:
    if axes is None:
        return Entry(shape, note="left alone on request")
    parts = axes if isinstance(axes, AxisRoles) else (axes,)
    if not all(isinstance(part, tuple) and all(map(is_int, part)) for part in parts):
        raise TypeError(f"axes of {name} must be a tuple of ints, AxisRoles or None, not {axes!r}")
    rank = len(shape)
    if not all(-rank <= axis < rank for part in parts for axis in part):
        raise ValueError(f"axes={axes!r} are out of range for {name} of shape {shape}")
    parts = [tuple(int(axis) % rank for axis in part) for part in parts]
    if any(len(set(part)) < len(part) for part in parts):
        raise ValueError(f"axes={axes!r} contain an axis of {name} of shape {shape} twice")
    roles = AxisRoles(*parts) if isinstance(axes, AxisRoles) else roles_by_inputs(parts[0], rank)
    if sorted((*roles.inputs, *roles.outputs, *roles.stacks)) != list(range(rank)):
        raise ValueError(f"{axes!r} must contain each axis of {name} of shape {shape} once")
    if not set(roles.heads) <= set(roles.outputs):
        raise ValueError(f"the heads of {axes!r} for {name} of shape {shape} must be outputs, too")
    return Entry(shape, roles.inputs, roles)
