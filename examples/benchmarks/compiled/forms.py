"""Other ways to take the means on a GPU, by what its compiler makes of them.

On an H100 each mean is a kernel of its own, and a long sum that is split takes two. This program
compiles ResNet-50's update step, or another tree's, with forms that share launches, and prints what
they cost instead.

    python -m examples.benchmarks.compiled.forms --help
"""

import collections
import dataclasses
import itertools
import math
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from examples.benchmarks import trees
from examples.benchmarks.compiled import cards, layouts, names, targets, update

Kernels = list[tuple[jax.Array, tuple[int, ...]]]


def plain(kernels: Kernels) -> list[jax.Array]:
    """A mean for each kernel."""
    return [jnp.mean(g, axes, keepdims=True) for g, axes in kernels]


def share_reduction(kernels: Kernels) -> list[jax.Array]:
    """One reduction of several operands for all kernels of the same shape."""

    def means(group, axes):
        zeros = (jnp.zeros((), jnp.float32),) * len(group)
        sums = jax.lax.reduce(
            group, zeros, lambda x, y: tuple(a + b for a, b in zip(x, y, strict=True)), axes
        )
        return [jnp.expand_dims(its, axes) / _fan_in(group[0], axes) for its in sums]

    return _by_shape(kernels, means)


def stack_kernels(kernels: Kernels) -> list[jax.Array]:
    """Kernels of the same shape are stacked and get one mean."""

    def means(group, axes):
        stacked = jnp.stack(group)
        return list(jnp.mean(stacked, tuple(axis + 1 for axis in axes), keepdims=True))

    return _by_shape(kernels, means)


def concatenate_kernels(kernels: Kernels) -> list[jax.Array]:
    """Kernels of the same fan-in are put side by side, as matrices, and get one mean."""

    def means(group, axes):
        del axes
        matrices = [g.reshape(-1, g.shape[-1]) for g in group]
        rows = jnp.mean(jnp.concatenate(matrices, 1), 0)
        ends = list(itertools.accumulate(g.shape[-1] for g in group))
        return [
            rows[end - g.shape[-1] : end].reshape((1,) * (g.ndim - 1) + (-1,))
            for g, end in zip(group, ends, strict=True)
        ]

    return _by_shape(kernels, means, _fan_in)


def multiply_by_ones(kernels: Kernels) -> list[jax.Array]:
    """A product with a vector of ones for each kernel."""

    def mean(g):
        rows = g.reshape(-1, g.shape[-1])
        ones = jnp.ones(rows.shape[0])
        sums = jnp.matmul(ones, rows, precision=jax.lax.Precision.HIGHEST)
        return (sums / rows.shape[0]).reshape((1,) * (g.ndim - 1) + (-1,))

    return [mean(g) for g, _ in kernels]


# XLA's name for fusions that Triton makes without one operation that sets how they run.
_HEROLESS = {"xla_gpu_experimental_enable_triton_heroless_priority_fusion": True}

FORMS: dict[str, tuple[Callable[[Kernels], list[jax.Array]] | None, dict[str, Any]]] = {
    "no GC": (None, {}),
    "plain: a mean for each kernel": (plain, {}),
    "one reduction of several operands for equal shapes": (share_reduction, {}),
    "stacked equal shapes, one mean": (stack_kernels, {}),
    "equal fan-in side by side, one mean": (concatenate_kernels, {}),
    "product with ones": (multiply_by_ones, {}),
    "plain, multi-output fusion by Triton": (
        plain,
        {"xla_gpu_unsupported_enable_triton_multi_output_fusion": True},
    ),
    "plain, fusions by Triton": (plain, {"xla_gpu_experimental_all_fusions_with_triton": True}),
    "no GC, heroless fusions by Triton": (None, _HEROLESS),
    "plain, heroless fusions by Triton": (plain, _HEROLESS),
}


def _by_shape(kernels, means, key=lambda g, axes: (g.shape, axes)) -> list[jax.Array]:
    """Applies `means` to groups of equal keys and puts the results back in order."""
    groups = collections.defaultdict(list)
    for place, (g, axes) in enumerate(kernels):
        groups[key(g, axes)].append((place, g, axes))
    out: dict[int, jax.Array] = {}
    for group in groups.values():
        places, arrays, axes = zip(*group, strict=True)
        out |= zip(places, means(arrays, axes[0]), strict=True)
    return [out[place] for place in range(len(kernels))]


def _fan_in(g, axes) -> int:
    return math.prod(g.shape[axis] for axis in axes)


def make_transform(tree: trees.Tree, form: Callable | None) -> optax.GradientTransformation:
    """The centralization of a tree, with its means taken by a form."""
    if form is None:
        return optax.identity()
    axes = [its for _, its in tree.leaves]

    def centralized(updates, params):
        del params
        leaves, treedef = jax.tree.flatten(updates)
        kernels = [(g, its) for g, its in zip(leaves, axes, strict=True) if its]
        means = iter(form(kernels))
        return treedef.unflatten(
            g - next(means) if its else g for g, its in zip(leaves, axes, strict=True)
        )

    return optax.stateless(centralized)


@dataclasses.dataclass(frozen=True)
class Config:
    """Compile other ways to take the means for a card, without having it."""

    card: str = "h100"
    """The cards: any of v5e, v5p, v6e and h100."""
    tree: str = "resnet50"
    """The nets: any of resnet50 and vgg11, which are nets whose kernels have their outputs last."""
    optimizer: str = "sgdm"
    """The optimizers: any of sgdm and adamw."""
    layout: str = "replicated"
    """How 8 chips split the kernels: any of fsdp, outputs, inputs and both; replicated is for one chip."""

    def __post_init__(self):
        cards.find_card(self.card)
        if self.layout not in names.LAYOUTS:
            known = ", ".join(names.LAYOUTS)
            raise ValueError(f"--layout {self.layout}: unknown; there are {known}")
        if self.tree not in ("resnet50", "vgg11"):
            raise ValueError(f"--tree {self.tree}: unknown; there are resnet50, vgg11")
        if self.optimizer not in ("sgdm", "adamw"):
            raise ValueError(f"--optimizer {self.optimizer}: unknown; there are sgdm, adamw")


def main(config: Config) -> None:
    card = cards.find_card(config.card)
    if missing := targets.find_missing(card):
        sys.exit(missing)
    tree = update.create_tree(config.tree)
    chips = 1 if config.layout == "replicated" else 8
    case = update.Case(config.card, chips, config.tree, config.optimizer, config.layout)
    plan = update.Plan(case, tree, *layouts.split(tree, config.layout, chips))
    columns = ("form", "fusions", "kernels", "gradient reads", "temporaries, kB", "copies")
    table = Table(
        *(columns if chips == 1 else (*columns, "collectives")),
        title=f"{config.tree}, {config.optimizer}, {config.card}, {chips} chips, {config.layout}",
        box=box.MARKDOWN,
    )
    for name, (form, options) in FORMS.items():
        if options and card.platform != "cuda":
            continue
        transform = make_transform(tree, form)
        row = update.compile_arms(plan, {name: transform}, options)[name]
        cells = (
            name,
            str(row["fusions"]),
            str(row["kernels"]),
            f"{row['gradient_reads']:.2f}",
            f"{row['temporary_bytes'] / 1e3:,.1f}",
            str(row["moves"]),
            f"{row['collective_number']} ({row['collective_bytes'] / 1e3:,.1f} kB)",
        )
        table.add_row(*cells[: len(table.columns)])
    Console(width=160).print(table)


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.benchmarks.compiled.forms"))
