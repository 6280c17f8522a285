"""Update steps that virtual devices share, and the collectives in them."""

import math
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from examples.benchmarks import measure, trees

DEVICES = 8
LAYOUTS = ("replicated", "fsdp", "outputs")
_COLLECTIVE = re.compile(
    r"= (\S+|\(.*?\)) "
    r"(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("
)
_ARRAY = re.compile(r"[a-z]+(\d+)\[([\d,]*)\]")


def count_collectives(text: str) -> tuple[int, int]:
    """Returns the number of collectives in compiled HLO, and the bytes of their results."""
    shapes = [match[1] for match in _COLLECTIVE.finditer(text)]
    arrays = [match for shape in shapes for match in _ARRAY.finditer(shape)]
    sizes = [math.prod(map(int, filter(None, match[2].split(",")))) for match in arrays]
    bits = sum(size * int(match[1]) for size, match in zip(sizes, arrays, strict=True))
    return len(shapes), bits // 8


def shard(tree: trees.Tree, layout: str, mesh: Mesh) -> Any:
    """Returns the parameters with shardings over the only axis of the mesh.

    ``fsdp`` splits each kernel along its largest input axis that the number of devices divides, and
    ``outputs`` along its largest such output axis. Kernels without such an axis, and all other
    leaves, are whole on every device.
    """

    def sharded(leaf, axes):
        spec: list[str | None] = [None] * len(leaf.shape)
        if axes and layout != "replicated":
            outputs = [axis for axis in range(len(spec)) if axis not in axes]
            pool = axes if layout == "fsdp" else outputs
            fitting = [axis for axis in pool if leaf.shape[axis] % mesh.size == 0]
            if fitting:
                spec[max(fitting, key=lambda axis: leaf.shape[axis])] = mesh.axis_names[0]
        sharding = NamedSharding(mesh, P(*spec))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    _, treedef = jax.tree.flatten(tree.params)
    return treedef.unflatten([sharded(leaf, axes) for leaf, axes in tree.leaves])


def compile_sharded(tx: optax.GradientTransformation, params: Any, mesh: Mesh) -> measure.Program:
    """Compiles the update step. Before and after it, the state is split like the parameters."""
    everywhere = NamedSharding(mesh, P())
    state = optax.tree_utils.tree_map_params(
        tx,
        lambda leaf, param: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=param.sharding),
        jax.eval_shape(tx.init, params),
        params,
        transform_non_params=lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=everywhere
        ),
    )
    carry = (params, state)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, carry)
    return measure.compile_program(measure.update_step(tx), carry, params, out_shardings=shardings)


def records(name: str, optimizer: str) -> Iterator[dict[str, Any]]:
    """Yields the counts of each layout and arm of a tree."""
    tree = trees.create(name)
    base = measure.optimizer(optimizer)
    mesh = Mesh(np.array(jax.devices("cpu")[:DEVICES]), ("devices",))
    for layout in LAYOUTS:
        params = shard(tree, layout, mesh)
        for arm in ("none", "ours", "optax"):
            tx = optax.chain(measure.arms(tree)[arm], base)
            program = compile_sharded(tx, params, mesh)
            number, size = count_collectives(str(program.compiled.as_text()))
            yield {
                "kind": "collectives",
                "tree": name,
                "optimizer": optimizer,
                "layout": layout,
                "arm": arm,
                "collectives": number,
                "bytes": size,
                "means_bytes": tree.means_bytes,
            }
