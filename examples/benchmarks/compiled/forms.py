"""Other ways to take the means on a GPU, by what its compiler makes of them.

On an H100 each mean is a kernel of its own, and a long sum that is split takes two. This program
compiles ResNet-50's update step, or another tree's, with forms that share launches, and prints what
they cost instead.

    python -m examples.benchmarks.compiled.forms --help
"""

import dataclasses
import sys

import tyro

from examples.benchmarks.compiled import cards, names


@dataclasses.dataclass(frozen=True)
class Config:
    """Compile other ways to take the means for a card, without having it."""

    card: str = "h100"
    """The card: v5e, v5p or v6e, which are TPUs, or h100."""
    tree: str = "resnet50"
    """The net: resnet50 or vgg11. Their kernels have their outputs last, which the forms need."""
    optimizer: str = "sgdm"
    """The optimizer: sgdm or adamw."""
    layout: str = "replicated"
    """How 8 chips split the kernels: fsdp, outputs, inputs or both. With replicated there is one chip."""

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
    # These take seconds, which the help of the program can do without.
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from examples.benchmarks.compiled import layouts, targets, update
    from examples.benchmarks.compiled.mean_forms import FORMS, make_transform

    card = cards.find_card(config.card)
    if missing := targets.find_missing(card):
        sys.exit(missing)
    try:
        targets.check_memory(update.COMPILER_BYTES)
    except ValueError as error:
        sys.exit(str(error))
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
