"""Finds the axes that vmap and scan have added to kernels whose shape leaves several choices."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from optax_gc._axes import is_int
from optax_gc._layers import Claim, find_stacks


class OwnedLeaf(NamedTuple):
    """An array of a model, and the module that holds it."""

    path: tuple[str, ...]
    value: Any
    shape: tuple[int, ...]
    layer: Any


class Stacks:
    """The stack axes of the kernels of one model.

    Args:
      hints: the axes by the path of a part of the model, as the user passes them.
      leaves: all arrays of the model.
      claims: what the layers report, by the identity of the array.

    Raises:
      ValueError: the model has no kernel at a path in `hints`.
      TypeError: the axes in `hints` are neither an int nor a tuple of ints.
    """

    def __init__(
        self,
        hints: Mapping[str, Any],
        leaves: Iterable[OwnedLeaf],
        claims: Mapping[int, list[Claim]],
    ):
        # For every kernel, the stack axes that its shape allows.
        self._choices: dict[tuple[str, ...], list[tuple[int, ...]]] = {}
        for leaf in leaves:
            own = [claim for claim in claims[id(leaf.value)] if claim.letters is not None]
            found = itertools.chain(*(find_stacks(claim, leaf.shape) for claim in own))
            if own:
                self._choices[leaf.path] = list(dict.fromkeys(found))
        self._hints = {}
        for name, axes in hints.items():
            part = tuple(name.split("/"))
            if not any(path[: len(part)] == part for path in self._choices):
                raise ValueError(f"stacks has {name!r}, but the model has no kernel there")
            axes = (axes,) if is_int(axes) else axes
            if not isinstance(axes, tuple) or not all(map(is_int, axes)):
                raise TypeError(f"stacks[{name!r}] must be an int or a tuple of ints, not {axes!r}")
            self._hints[part] = axes

    def find(self, leaf: OwnedLeaf) -> tuple[tuple[int, ...] | None, str]:
        """Returns a leaf's stack axes, or None if its shape alone decides them, and a note."""
        if leaf.path not in self._choices:
            return None, ""
        for length in range(len(leaf.path), 0, -1):
            if leaf.path[:length] in self._hints:
                rank = len(leaf.shape)
                axes = self._hints[leaf.path[:length]]
                return tuple(axis + rank if axis < 0 else axis for axis in axes), ""
        choices = self._choices[leaf.path]
        if len(choices) <= 1:
            return None, ""
        near = self._nearby(leaf.path)
        if len(near) > 1:  # the kernels nearby do not agree
            return None, ""
        (axes,) = near or {tuple(range(len(choices[0])))}
        if axes not in choices:
            return None, ""
        source = "as in the kernels nearby" if near else "because nothing shows another choice"
        return axes, f"axes {axes} are taken to count stacked layers, {source}"

    def _nearby(self, path) -> set[tuple[int, ...]]:
        """Returns the stack axes of those kernels with one choice that share most of the path."""
        for length in range(len(path) - 1, 0, -1):
            near = {
                choices[0]
                for other, choices in self._choices.items()
                if len(choices) == 1 and choices[0] and other[:length] == path[:length]
            }
            if near:
                return near
        return set()
