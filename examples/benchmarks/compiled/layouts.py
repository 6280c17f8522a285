"""How parameters are split over a mesh of chips.

- ``replicated``: every chip has all parameters.
- ``fsdp``: each leaf is split over all chips on its largest axis, as fully sharded training does.
- ``outputs``, ``inputs``: tensor parallelism. Groups of 8 chips share each kernel, split over its
  output or input axes; the groups have copies of each other.
- ``both``: groups of 8 chips (of 2 where there are only 8) split each kernel over its outputs, and
  the groups share its inputs between them.

A stacked axis (of layers or experts) is not split. Leaves without input axes, such as embeddings,
are split on any axis. A leaf that the chips cannot share stays whole if it is small.
"""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from examples.benchmarks.compiled.names import LAYOUTS
from examples.benchmarks.trees import Tree

SMALL = 2**20
"""A part of a leaf of no more weights than these need not be split further."""


class Grid(NamedTuple):
    """The axes of a mesh, and which of them split a kernel's inputs, outputs, or any axis."""

    axes: dict[str, int]
    inputs: str | None = None
    outputs: str | None = None
    largest: str | None = None


def make_grid(layout: str, chips: int) -> Grid:
    """Returns the mesh's axes and their use for so many chips.

    Raises:
      ValueError: an unknown layout.
    """
    group = min(8, chips)
    if layout == "replicated":
        return Grid({"data": chips})
    if layout == "fsdp":
        return Grid({"fsdp": chips}, largest="fsdp")
    if layout == "outputs":
        return Grid({"data": chips // group, "model": group}, outputs="model")
    if layout == "inputs":
        return Grid({"data": chips // group, "model": group}, inputs="model")
    if layout == "both":
        group = 8 if chips > 8 else min(2, chips)
        axes = {"fsdp": chips // group, "model": group}
        return Grid(axes, inputs="fsdp", outputs="model")
    raise ValueError(f"no layout is called {layout!r}; there are {', '.join(LAYOUTS)}")


def split(tree: Tree, layout: str, chips: int) -> tuple[Grid, list[P]]:
    """Returns the mesh's axes and, leaf by leaf, how each is split over them.

    Raises:
      ValueError: an unknown layout, or a leaf that the chips cannot share and of which each would
        have more than `SMALL` weights. The leaf and the mesh's axis are named.
    """
    grid = make_grid(layout, chips)
    paths = [
        jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree.params)
    ]
    specs = []
    for path, (leaf, inputs) in zip(paths, tree.leaves, strict=True):
        spec: list[str | None] = [None] * len(leaf.shape)
        for use in ("inputs", "outputs", "largest"):
            mesh_axis = getattr(grid, use)
            if mesh_axis is not None:
                _place(spec, leaf, _candidates(use, leaf, inputs), mesh_axis, grid, path)
        specs.append(P(*spec))
    return grid, specs


def _candidates(use: str, leaf, inputs) -> list[int]:
    """Returns the axes of a leaf that may be split for a use."""
    every = range(len(leaf.shape))
    if not inputs:  # not a kernel; a vector is small and stays whole
        return list(every) if len(leaf.shape) > 1 else []
    outputs = range(max(inputs) + 1, len(leaf.shape))
    return {"inputs": list(inputs), "outputs": list(outputs), "largest": [*inputs, *outputs]}[use]


def _place(spec, leaf, candidates, mesh_axis, grid, path) -> None:
    """Puts the mesh's axis on the largest free candidate that it divides."""
    chips = grid.axes[mesh_axis]
    free = [axis for axis in candidates if spec[axis] is None]
    fitting = [axis for axis in free if leaf.shape[axis] % chips == 0]
    if fitting:
        spec[max(fitting, key=lambda axis: leaf.shape[axis])] = mesh_axis
    elif free and _part(leaf, spec, grid) > SMALL:
        lengths = ", ".join(f"axis {axis} of length {leaf.shape[axis]}" for axis in free)
        raise ValueError(
            f"the leaf {path} of shape {leaf.shape} cannot be split over the {chips} "
            f"chips of mesh axis {mesh_axis!r}: {chips} does not divide {lengths}"
        )


def _part(leaf, spec, grid) -> int:
    """Returns the number of a leaf's weights that one chip has."""
    return leaf.size // math.prod(grid.axes[name] for name in spec if name)


def count_bytes_per_chip(tree: Tree, grid: Grid, specs: list[P]) -> int:
    """Returns the bytes of one copy of the parameters on one chip."""
    return sum(
        leaf.dtype.itemsize * _part(leaf, spec, grid)
        for (leaf, _), spec in zip(tree.leaves, specs, strict=True)
    )


def count_means_bytes_per_chip(tree: Tree, grid: Grid, specs: list[P]) -> int:
    """Returns the bytes of the means of the weight vectors of which a chip has a part, in float32."""
    total = 0
    for (leaf, inputs), spec in zip(tree.leaves, specs, strict=True):
        if inputs:
            whole = [axis for axis in range(len(leaf.shape)) if axis not in inputs]
            chips = [grid.axes[name] for axis in whole if (name := spec[axis])]
            total += 4 * math.prod(leaf.shape[axis] for axis in whole) // math.prod(chips)
    return total


def shard(
    tree: Tree,
    grid: Grid,
    specs: list[P],
    devices: list[Any],
    axis_type: AxisType = AxisType.Auto,
) -> Any:
    """Returns the parameters as shapes with shardings over a mesh of these devices."""
    mesh = Mesh(
        np.array(devices).reshape(tuple(grid.axes.values())),
        tuple(grid.axes),
        axis_types=(axis_type,) * len(grid.axes),
    )
    _, treedef = jax.tree.flatten(tree.params)
    return treedef.unflatten(
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))
        for (leaf, _), spec in zip(tree.leaves, specs, strict=True)
    )


def shard_state(state: Any, params: Any) -> Any:
    """Splits an optimizer's state as the parameters are: a leaf goes with its parameter's path.

    Leaves that belong to no parameter, such as the count of steps, are whole on every chip.
    """
    paths = jax.tree_util.tree_leaves_with_path(params)
    shardings = {(jax.tree_util.keystr(path), leaf.shape): leaf.sharding for path, leaf in paths}
    mesh = paths[0][1].sharding.mesh

    def sharded(path, leaf):
        ends = (jax.tree_util.keystr(path[start:]) for start in range(len(path)))
        found = [shardings[end, leaf.shape] for end in ends if (end, leaf.shape) in shardings]
        sharding = found[0] if found else NamedSharding(mesh, P())
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(sharded, state)
