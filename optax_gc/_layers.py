"""What layers say of their kernels, kept by path: the part that NNX and Linen share."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from optax_gc._axes import is_kernel_name, leaf_name


class Claim(NamedTuple):
    """What a layer says of a leaf that it owns.

    ``shape`` is the shape that the layer itself works with, without the axes that vmap and
    scan add, and ``inputs`` are the input axes of that shape. Where ``inputs`` is None the
    layer leaves the leaf alone, for ``reason``.
    """

    layer: str
    shape: tuple[int, ...] = ()
    inputs: tuple[int, ...] | None = None
    reason: str = ""


class Entry(NamedTuple):
    """A leaf of the model: its axes, or why it is left alone, or why its axes cannot be told."""

    shape: tuple[int, ...]
    axes: tuple[int, ...] | None = None
    reason: str = ""
    error: str = ""


class LayerAxes:
    """The input axes of one model's leaves by path, as a callable for ``centralize(axes=…)``.

    It holds shapes and axes, no arrays. The updates may be boxed, plain or masked.
    """

    def __init__(
        self, table: Mapping[tuple[str, ...], Entry], made_by: str, collection: tuple[str, ...] = ()
    ):
        self._table = dict(table)
        self._made_by = made_by
        self._collection = collection

    def __call__(self, updates: Any) -> Any:
        """Gives the same tree of axes, None where a leaf is left alone.

        Raises:
          ValueError: a leaf that the model does not have, or has in another shape, or whose
            input axes cannot be told. The leaf is named.
        """
        return jax.tree_util.tree_map_with_path(self._axes, updates)

    def reason(self, path: Any) -> str:
        """Says why the leaf at this path is left alone, or nothing."""
        return self._entry(path).reason

    def _entry(self, path) -> Entry:
        # A box adds `.value` to the path, and Linen's updates may lack the name of the collection.
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


_EXPLICIT = "mask it here with optax.masked and give its axes to a second centralize()"


def settle(shape: tuple[int, ...], claims: Iterable[Claim], otherwise: str) -> Entry:
    """Turns what the owners of a leaf of this shape say of it into its entry.

    `otherwise` is the reason for leaving it alone where no layer that is known owns it.
    """
    said = {claim: _placements(claim, shape) for claim in claims}
    for claim, axes in said.items():
        if len(axes) != 1:
            how = (
                f"could stack kernels of that shape along several of its axes, so that the input "
                f"axes are {' or '.join(map(str, axes))}"
                if axes
                else "is no stack of kernels of that shape"
            )
            return Entry(
                shape,
                error=f"belongs to {claim.layer}, whose kernel has shape {claim.shape}, and {how}: "
                f"{_EXPLICIT}",
            )
    if not said:
        return Entry(shape, reason=otherwise)
    first, *others = said
    for other in others:
        if said[other] != said[first]:
            return Entry(
                shape,
                error=f"has input axes {said[first][0]} as {first.layer} uses it and "
                f"{said[other][0]} as {other.layer} does: {_EXPLICIT}",
            )
    return Entry(shape, axes=said[first][0], reason=first.reason)


def kernel_claim(layer: str, shape: Sequence[int], inputs: tuple[int, ...], chosen: bool) -> Claim:
    """What a layer says of its kernel, which is left alone if the layer is not chosen."""
    return Claim(layer, tuple(shape), inputs) if chosen else Claim(layer, reason="not in layers")


def left_alone(name: str, shape: Sequence[int], layer: str) -> str:
    """Why a leaf is left alone that no layer says anything of."""
    is_kernel = len(shape) > 1 and is_kernel_name(name)
    return f"unknown layer {layer}" if is_kernel else "no kernel"


def _placements(claim: Claim, shape: tuple[int, ...]) -> list[tuple[int, ...] | None]:
    """All the input axes that a stack of the layer's kernels, of this shape, could have."""
    if claim.inputs is None:
        return [None]
    found = {}
    for place in itertools.combinations(range(len(shape)), len(claim.shape)):
        if tuple(shape[axis] for axis in place) == claim.shape:
            axes = tuple(place[axis] for axis in claim.inputs)
            # Averaging over an axis of size 1 or not is the same.
            found[tuple(axis for axis in axes if shape[axis] > 1)] = axes
    return list(found.values())


def einsum_inputs(equation: str, rank: int) -> tuple[int, ...] | None:
    """The axes of the second operand that are summed over, None where it is read diagonally."""
    operands, _, output = equation.replace(" ", "").partition("->")
    kernel = operands.split(",")[1]
    front, _, back = kernel.partition("...")
    letters = front + back
    indices = [*front, *["..."] * (rank - len(letters)), *back]
    if len(set(letters)) < len(letters):
        return None
    return tuple(axis for axis, index in enumerate(indices) if index not in output)


def all_but(axis: int, rank: int) -> tuple[int, ...]:
    """Every axis but one, negative from the end."""
    return tuple(other for other in range(rank) if other != axis % rank)


def check_layers(layers: Any, known: Sequence[type]) -> tuple[type, ...]:
    """The classes whose kernels are centralized: `layers`, or all that are known."""
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


def path_names(path: Any) -> tuple[str, ...]:
    """A path as text, the same for attributes, keys and indices."""
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def unboxed(path: Any) -> Any:
    """The path without the ``.value`` that a box (nnx.Variable, Linen's Partitioned) adds."""
    boxed = path and isinstance(path[-1], jax.tree_util.GetAttrKey) and path[-1].name == "value"
    return path[:-1] if boxed else path


def _fits(shape, entry):
    # In a shard_map a leaf is one shard, which is as good where the axes split are not averaged.
    return len(shape) == len(entry.shape) and all(
        size == whole or (axis not in (entry.axes or ()) and size and whole % size == 0)
        for axis, (size, whole) in enumerate(zip(shape, entry.shape, strict=True))
    )
