"""Input axes reported by the layers of a model, by path. NNX and Linen share this part."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from optax_gc._axes import is_kernel_name
from optax_gc._paths import leaf_name, path_names, unboxed


class Claim(NamedTuple):
    """What a layer reports about a leaf that it owns.

    ``shape`` is the shape that the layer itself works with, without the axes that vmap and
    scan add, and ``inputs`` are the input axes of that shape. If ``inputs`` is None, the leaf
    is left alone and ``reason`` says why.
    """

    layer: str
    shape: tuple[int, ...] = ()
    inputs: tuple[int, ...] | None = None
    reason: str = ""


class Entry(NamedTuple):
    """A leaf of the model: its axes, the reason why it is left alone, or why its axes are unknown."""

    shape: tuple[int, ...]
    axes: tuple[int, ...] | None = None
    reason: str = ""
    error: str = ""


class LayerAxes:
    """The input axes of the leaves of one model, as a callable for ``centralize(axes=…)``.

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
        return jax.tree_util.tree_map_with_path(self._axes, updates)

    def replace(self, axes: Mapping[str, tuple[int, ...] | None]) -> "LayerAxes":
        """Returns the same table with other axes for some leaves.

        These axes count before anything that the layers report, so they also settle a leaf whose
        axes cannot be determined otherwise.

        Args:
          axes: by the leaf's path joined by slashes, as ``optax_gc.tabulate`` shows it, the tuple
            of its input axes, or None to leave the leaf alone.

        Raises:
          ValueError: the model has no such leaf, or the leaf has no such axis.
          TypeError: the axes are neither a tuple of ints nor None.
        """
        table = dict(self._table)
        for name, given in axes.items():
            names = tuple(name.split("/"))
            key = next((key for key in (names, self._collection + names) if key in table), None)
            if key is None:
                known = ", ".join("/".join(path) for path in list(table)[:5])
                raise ValueError(f"the model has no leaf {name!r}; its leaves are {known}, …")
            shape = table[key].shape
            table[key] = Entry(shape, _require_axes(given, shape, name), "left alone on request")
        return LayerAxes(table, self._made_by, self._collection)

    def reason(self, path: Any) -> str:
        """Returns why the leaf at this path is left alone, or an empty string."""
        entry = self._entry(path)
        return "" if entry.axes is not None else entry.reason

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

    def _axes(self, path, leaf):
        entry, shape = self._entry(path), np.shape(leaf)
        where = f"the leaf {leaf_name(path)} of shape {shape}"
        if not _fits(shape, entry):
            raise ValueError(
                f"{where} had shape {entry.shape} when {self._made_by} was called: call it again "
                "with the model as it is now (in a shard_map, input axes must not be split)"
            )
        if entry.error:
            raise ValueError(f"{where} {entry.error}")
        return entry.axes


_EXPLICIT = "pass its axes by .replace({path: axes}) of this table"


def resolve_claims(shape: tuple[int, ...], claims: Iterable[Claim], otherwise: str) -> Entry:
    """Combines the claims of a leaf's owners to its entry.

    Args:
      shape: the shape of the leaf.
      claims: what its owners report.
      otherwise: why it is left alone if no known layer owns it.
    """
    placed = {claim: _placements(claim, shape) for claim in claims}
    for claim, axes in placed.items():
        if len(axes) != 1:
            how = (
                f"could stack kernels of that shape along several of its axes, so that the input "
                f"axes are {' or '.join(map(str, axes))}"
                if axes
                else "is not a stack of kernels of that shape"
            )
            return Entry(
                shape,
                error=f"belongs to {claim.layer}, whose kernel has shape {claim.shape}, and {how}: "
                f"{_EXPLICIT}",
            )
    if not placed:
        return Entry(shape, reason=otherwise)
    first, *others = placed
    for other in others:
        if placed[other] != placed[first]:
            return Entry(
                shape,
                error=f"has input axes {placed[first][0]} as {first.layer} uses it and "
                f"{placed[other][0]} as {other.layer} does: {_EXPLICIT}",
            )
    return Entry(shape, axes=placed[first][0], reason=first.reason)


def kernel_claim(layer: str, shape: Sequence[int], inputs: tuple[int, ...], chosen: bool) -> Claim:
    """Returns a layer's claim for its kernel, which is left alone if the layer is not chosen."""
    return Claim(layer, tuple(shape), inputs) if chosen else Claim(layer, reason="not in layers")


def explain_unclaimed(name: str, shape: Sequence[int], layer: str) -> str:
    """Returns why a leaf that no known layer owns is left alone."""
    is_kernel = len(shape) > 1 and is_kernel_name(name)
    return f"unknown layer {layer}" if is_kernel else "not a kernel"


def _placements(claim: Claim, shape: tuple[int, ...]) -> list[tuple[int, ...] | None]:
    """Returns all input axes that a stack of the layer's kernels could have in this shape."""
    if claim.inputs is None:
        return [None]
    found = {}
    for place in itertools.combinations(range(len(shape)), len(claim.shape)):
        if tuple(shape[axis] for axis in place) == claim.shape:
            axes = tuple(place[axis] for axis in claim.inputs)
            # An axis of size 1 makes no difference to a mean.
            found[tuple(axis for axis in axes if shape[axis] > 1)] = axes
    return list(found.values())


def einsum_inputs(equation: str, rank: int) -> tuple[int, ...] | None:
    """Returns the summed axes of an einsum's second operand; None if it repeats an index."""
    operands, _, output = equation.replace(" ", "").partition("->")
    kernel = operands.split(",")[1]
    front, _, back = kernel.partition("...")
    letters = front + back
    indices = [*front, *["..."] * (rank - len(letters)), *back]
    if len(set(letters)) < len(letters):
        return None
    return tuple(axis for axis, index in enumerate(indices) if index not in output)


def all_but(axis: int, rank: int) -> tuple[int, ...]:
    """Returns every axis except one; a negative axis counts from the end."""
    return tuple(other for other in range(rank) if other != axis % rank)


def conv_transpose_inputs(strides: Any, dimensions: int, in_axis: int) -> tuple[int, ...]:
    """Returns the input axes of a transposed convolution's kernel.

    In a dimension with a stride above 1, an output pixel sees only every stride-th tap, so taps
    belong to different neurons and their axis is not averaged. This is exact for strides that are
    at least as large as the kernel. For smaller ones the mean is taken over parts of a neuron's
    inputs, which still keeps Corollary 4.1.

    Args:
      strides: as the layer has them: one stride, one for each spatial dimension, or None for 1.
      dimensions: the number of spatial dimensions, which are the kernel's first axes.
      in_axis: the axis of the input channels.
    """
    if strides is None or isinstance(strides, (int, np.integer)):
        strides = [strides] * dimensions
    spatial = tuple(axis for axis, stride in enumerate(strides) if stride in (None, 1))
    return (*spatial, in_axis)


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


def _require_axes(axes, shape, name):
    if axes is None:
        return None
    if not isinstance(axes, tuple) or not all(isinstance(axis, int) for axis in axes):
        raise TypeError(f"axes of {name} must be a tuple of ints or None, not {axes!r}")
    if not all(-len(shape) <= axis < len(shape) for axis in axes):
        raise ValueError(f"axes={axes!r} are out of range for {name} of shape {shape}")
    return tuple(axis % len(shape) for axis in axes)
