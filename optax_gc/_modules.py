"""The table of a model that is a tree of modules, which know the shapes of their kernels.

NNX and Equinox share this part.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from optax_gc._layers import Claim, LayerAxes, resolve_claims
from optax_gc._stacks import OwnedLeaf, Stacks


class Kernel(NamedTuple):
    """An array that a layer reports.

    Attributes:
      name: the layer's attribute that holds it.
      shape: the shape that the layer made it in.
      letters: the roles of its axes, or None if it is not a kernel.
      reason: why it is left alone; empty if it is centralized.
    """

    name: str
    shape: tuple[int, ...] = ()
    letters: str | None = None
    reason: str = ""


# For each class of layers, a function from a layer to the arrays that it reports.
Kernels = Mapping[type, Callable[[Any], Iterable[Kernel]]]


def make_table(
    leaves: list[OwnedLeaf],
    kernels: Kernels,
    chosen: tuple[type, ...],
    explain_unclaimed: Callable[[OwnedLeaf], str],
    stacks: Mapping[str, int | tuple[int, ...]] | None,
    made_by: str,
) -> LayerAxes:
    """Returns the input axes of a model's leaves.

    Args:
      leaves: all arrays of the model.
      kernels: what the layers that are known report.
      chosen: the classes of layers whose kernels are centralized.
      explain_unclaimed: why a leaf that no known layer reports is left alone.
      stacks: the axes that transforms have added, by the path of a part of the model.
      made_by: the public function.

    Raises:
      ValueError: the model has no kernel at a path in `stacks`.
    """
    # Keyed by identity, because layers can share a leaf, which then has a path for each of them.
    claims: dict[int, list[Claim]] = {}
    for leaf in leaves:
        claims.setdefault(id(leaf.value), []).extend(_claims(leaf, kernels, chosen))
    added = Stacks(stacks or {}, leaves, claims)
    table = {
        leaf.path: resolve_claims(
            leaf.shape, claims[id(leaf.value)], explain_unclaimed(leaf), *added.find(leaf)
        )
        for leaf in leaves
    }
    return LayerAxes(table, made_by)


def _claims(leaf, kernels, chosen):
    owner = f"{type(leaf.layer).__name__} at {'/'.join(leaf.path[:-1]) or '<root>'}"
    for kind, kernels_of in kernels.items():
        for kernel in kernels_of(leaf.layer) if isinstance(leaf.layer, kind) else ():
            if leaf.value is getattr(leaf.layer, kernel.name):
                skipped = kernel.letters is not None and not isinstance(leaf.layer, chosen)
                reason = kernel.reason or ("not in layers" if skipped else "")
                yield Claim(owner, tuple(kernel.shape), kernel.letters, reason)
