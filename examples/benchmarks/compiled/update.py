"""Update steps compiled for a card: what each case is, whether it can be, and what came out."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from examples.benchmarks import measure, trees
from examples.benchmarks.compiled import cards, hlo, layouts, llama, targets
from examples.benchmarks.compiled.names import NETS, OPTIMIZERS, TREES

Record = dict[str, Any]

COMPILER_BYTES = 2e9
"""What the largest update step that was compiled took of this machine's memory, 1.8 GB, and a margin."""


class Case(NamedTuple):
    """One update step to compile."""

    card: str
    chips: int
    tree: str
    optimizer: str
    layout: str


class Plan(NamedTuple):
    """A case that can be compiled, with its shapes."""

    case: Case
    tree: trees.Tree
    grid: layouts.Grid
    specs: list[Any]


def create_tree(name: str) -> trees.Tree:
    """Makes one of `TREES`.

    Raises:
      ValueError: an unknown name; the known ones are listed.
    """
    if name in NETS:
        return trees.create(name)
    if name in llama.SIZES:
        return llama.create(name)
    raise ValueError(f"no tree is called {name!r}; there are {', '.join(TREES)}")


def create_optimizer(name: str, tree: trees.Tree) -> optax.GradientTransformation:
    """Makes one of `OPTIMIZERS` for a tree.

    Muon gets every kernel, also those of rank 3 to 5: its matrix axes are the inputs and the outputs;
    axes before the inputs are stacks. All other leaves get AdamW.

    Raises:
      ValueError: an unknown name; the known ones are listed.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"no optimizer is called {name!r}; there are {', '.join(OPTIMIZERS)}")
    if name != "muon":
        return measure.optimizer(name)
    _, treedef = jax.tree.flatten(tree.params)
    numbers = [
        optax.contrib.MuonDimensionNumbers(axes, tuple(range(max(axes) + 1, len(leaf.shape))))
        if axes
        else None
        for leaf, axes in tree.leaves
    ]
    return optax.contrib.muon(
        1e-3, muon_weight_dimension_numbers=lambda _: treedef.unflatten(numbers)
    )


def make_plan(case: Case, trees_by_name: dict[str, trees.Tree]) -> Plan:
    """Checks a case before anything is compiled.

    Raises:
      ValueError: the chips cannot share a leaf, which is named; or parameters, gradients and the
        optimizer's state do not fit into a chip's memory; or Muon for a net, which compiles too long.
    """
    card = cards.find_card(case.card)
    cards.check_topology(card, case.chips)
    tree = trees_by_name[case.tree]
    if case.optimizer == "muon" and case.tree in NETS:
        raise ValueError(
            "Muon for so many separate kernels keeps the compiler busy for more than four minutes"
        )
    grid, specs = layouts.split(tree, case.layout, case.chips)
    copies = {"sgdm": 3, "adamw": 4, "muon": 3}[case.optimizer]  # Muon's few leaves of AdamW aside
    needed = copies * layouts.count_bytes_per_chip(tree, grid, specs)
    if needed > card.memory_bytes:
        raise ValueError(
            f"{needed / 1e9:.3g} GB a chip are needed for parameters, gradients and state; "
            f"{case.card} has {card.memory_bytes / 1e9:.3g} GB"
        )
    return Plan(case, tree, grid, specs)


def make_arms(tree: trees.Tree) -> dict[str, optax.GradientTransformation]:
    """Returns what stands before the optimizer in each of `names.ARMS`."""
    found = measure.arms(tree)
    return {"none": found["none"], "ours": found["ours"], "plain": found["naive"]} | {
        "optax": found["optax"]
    }


def lower_update(
    tx: optax.GradientTransformation, params: Any
) -> tuple[Callable, tuple[Any, Any], Any]:
    """Returns the update step, its first argument as shapes, and the shardings of its result."""
    carry = (params, layouts.shard_state(jax.eval_shape(tx.init, params), params))
    return measure.update_step(tx), carry, jax.tree.map(lambda leaf: leaf.sharding, carry)


def compile_arms(
    plan: Plan,
    arms: dict[str, optax.GradientTransformation],
    options: dict[str, Any] | None = None,
) -> dict[str, Record]:
    """Compiles the update step of each arm, given by what stands before the optimizer.

    An arm whose StableHLO is that of an arm before it is not compiled again. Where the compiler
    refuses a program, for lack of memory on a chip, the record says so.
    """
    case = plan.case
    devices = targets.describe_devices(cards.find_card(case.card), case.chips)
    params = layouts.shard(plan.tree, plan.grid, plan.specs, devices)
    base = create_optimizer(case.optimizer, plan.tree)
    programs: dict[str, measure.Program] = {}
    records = {}
    for arm, transform in arms.items():
        tx = optax.chain(transform, base)
        step, carry, shardings = lower_update(tx, params)
        record = _describe(plan) | {"arm": arm}
        try:
            program = measure.compile_program(
                step,
                carry,
                params,
                known=tuple(programs.values()),
                out_shardings=shardings,
                compiler_options=options,
            )
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            records[arm] = record | {"refused": _first_line(error)}
            continue
        same = [other for other, its in programs.items() if its.text == program.text]
        programs[arm] = program
        records[arm] = (
            record | {"same_program_as": same[0] if same else None} | _count(program, plan)
        )
    return records


def _describe(plan: Plan) -> Record:
    return {
        "kind": "update",
        **plan.case._asdict(),
        "mesh": plan.grid.axes,
        "parameters": plan.tree.parameters,
        "leaves": len(plan.tree.leaves),
        "kernels_centralized": sum(axes is not None for _, axes in plan.tree.leaves),
        "means_bytes": plan.tree.means_bytes,
        "chip_means_bytes": layouts.count_means_bytes_per_chip(plan.tree, plan.grid, plan.specs),
        "chip_bytes": layouts.count_bytes_per_chip(plan.tree, plan.grid, plan.specs),
        "refused": None,
    }


def _count(program: measure.Program, plan: Plan) -> Record:
    instructions = hlo.parse(str(program.compiled.as_text()))
    collectives = hlo.find_collectives(instructions, plan.grid.axes)
    smallest = math.inf
    for (leaf, axes), spec in zip(plan.tree.leaves, plan.specs, strict=True):
        if axes:
            chips = math.prod(plan.grid.axes[name] for name in spec if name)
            smallest = min(smallest, 4 * leaf.size // chips)
    reads = None
    if plan.case.optimizer != "muon":  # its loops read what no line of the entry shows
        reads = hlo.count_reads(instructions, len(plan.tree.leaves))
    return {
        "temporary_bytes": program.temporary_bytes,
        "argument_bytes": program.argument_bytes,
        "fusions": hlo.count_fusions(instructions),
        "kernels": hlo.count_kernels(instructions),
        "moves": len(hlo.find_moves(instructions, int(smallest))),
        "gradient_reads": reads,
        "collectives": [collective._asdict() for collective in collectives],
        "collective_number": sum(collective.number for collective in collectives),
        "collective_bytes": sum(collective.bytes for collective in collectives),
        "trace_seconds": round(program.trace_seconds, 3),
        "compile_seconds": round(program.compile_seconds, 3),
    }


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
