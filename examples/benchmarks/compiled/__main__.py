"""Compiles update steps with and without GC for TPUs and an H100, without having one.

The compilers are the real ones. They report what a program would do on the card: temporaries,
kernels, collectives. Nothing is run and nothing is timed but the compiler itself.

    python -m examples.benchmarks.compiled --help
"""

import dataclasses
import importlib.metadata
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from examples.benchmarks import measure
from examples.benchmarks.compiled import layouts, report, targets, update

COMPILER_BYTES = 2e9
"""What the largest case that was compiled took, 1.8 GB, and a margin."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Compile update steps with and without GC for TPUs and an H100, without having one.

    Every combination is compiled that the chips can share and that fits into their memory. All of
    them take many hours on two cores; a run that is stopped goes on where it was. For a first look:
    --cards v5e --chips 1 8 --trees resnet50 --optimizers sgdm (a few minutes).
    """

    cards: tuple[str, ...] = tuple(targets.CARDS)
    """The cards: any of v5e, v5p and v6e, which are TPUs, and h100."""
    chips: tuple[int, ...] = targets.CHIPS
    """How many chips share the work: 1, 8, 256, 1024 or 4096. A card that has no topology of so many is
    left out. One chip has everything (replicated)."""
    trees: tuple[str, ...] = update.TREES
    """Parameter trees; an unknown name lists the known ones."""
    optimizers: tuple[str, ...] = update.OPTIMIZERS
    """The optimizers: any of sgdm, adamw and muon. Muon is compiled for trees of stacked layers only."""
    layouts: tuple[str, ...] = layouts.LAYOUTS
    """How kernels are split: any of replicated, fsdp, outputs, inputs and both."""
    arms: tuple[str, ...] = update.ARMS
    """The arms: any of none (no GC), ours, plain (g - mean(g) and nothing else), optax (optax.centralize)."""
    out: Path = Path("compiled.jsonl")
    """JSON lines. Cases that are in it already are not compiled again. The tables, in Markdown,
    and the picture go beside it."""

    def __post_init__(self):
        known = {
            "cards": targets.CARDS,
            "trees": update.TREES,
            "optimizers": update.OPTIMIZERS,
            "layouts": layouts.LAYOUTS,
            "arms": update.ARMS,
        }
        for flag, names in known.items():
            given = getattr(self, flag)
            if not given:
                raise ValueError(f"--{flag} needs at least one name; there are {', '.join(names)}")
            for name in given:
                if name not in names:
                    raise ValueError(f"--{flag} {name}: unknown; there are {', '.join(names)}")
        if not self.chips:
            known_chips = ", ".join(map(str, targets.CHIPS))
            raise ValueError(f"--chips needs at least one number; there are {known_chips}")
        for chips in self.chips:
            if chips not in targets.CHIPS:
                targets.check_topology(targets.find_card(self.cards[0]), chips)
        if self.out.suffix != ".jsonl":
            raise ValueError(f"--out {self.out}: the name must end in .jsonl")
        if self.out.is_dir() or not os.access(self.out.absolute().parent, os.W_OK):
            raise ValueError(f"--out {self.out}: no file can be written there")


def list_cases(config: Config) -> Iterator[update.Case]:
    """Returns every combination that makes sense.

    A card goes only with the numbers of chips of which it has a topology. On one chip the layout is
    replicated, and only there and on 8 chips.
    """
    every = itertools.product(
        config.cards, config.chips, config.trees, config.optimizers, config.layouts
    )
    for case in itertools.starmap(update.Case, every):
        if case.chips not in targets.find_card(case.card).topologies:
            continue
        if (case.chips == 1) == (case.layout == "replicated") or case.chips == 8:
            yield case


def run(config: Config, console: Console) -> list[update.Record]:
    """Compiles what is missing, writes each case as soon as it is done, and returns all records."""
    records = report.read_records(config.out)
    done = {(*(row[key] for key in update.Case._fields), row["arm"]) for row in records}
    plans, refused = [], []
    for name, chips in itertools.product(config.cards, config.chips):
        try:
            targets.check_topology(targets.find_card(name), chips)
        except ValueError as error:
            refused.append(((name, chips), str(error)))
    trees = {name: update.create_tree(name) for name in config.trees}
    for case in list_cases(config):
        arms = tuple(arm for arm in config.arms if (*case, arm) not in done)
        try:
            plan = update.make_plan(case, trees)
        except ValueError as error:
            refused.append((case, str(error)))
        else:
            if arms:
                plans.append((plan, arms))
    for case, reason in refused:
        console.print(f"left out: {' '.join(map(str, case))}: {reason}", highlight=False)
    if refused and not plans and not records:
        raise ValueError("nothing is left to compile; the reasons are above")
    # The file is written anew without a line that was cut off.
    config.out.write_text("".join(json.dumps(row) + "\n" for row in records))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        config.out.open("a") as file,
        Progress(*columns, TimeElapsedColumn(), console=console) as progress,
    ):
        bar = progress.add_task("", total=len(plans))
        for plan, arms in plans:
            check_memory()
            progress.update(bar, description=" ".join(map(str, plan.case)))
            transforms = update.make_arms(plan.tree)
            missing = {arm: transforms[arm] for arm in arms}
            for record in update.compile_arms(plan, missing).values():
                record["versions"] = find_versions(plan.case.card)
                records.append(record)
                file.write(json.dumps(record) + "\n")
            file.flush()
            progress.advance(bar)
    return records


def check_memory() -> None:
    """Raises ValueError if this machine has too little free memory for its compilers."""
    if (free := measure.available_host_bytes()) < COMPILER_BYTES:
        raise ValueError(
            f"a compiler takes up to {COMPILER_BYTES / 1e9:.3g} GB of this machine's memory, and "
            f"{free / 1e9:.3g} GB are free. What is compiled already is kept: close other programs and "
            f"start this again"
        )


def find_versions(card: str) -> dict[str, str]:
    """The versions of JAX and of the card's compiler."""
    compiler = "libtpu" if targets.CARDS[card].platform == "tpu" else "jax-cuda13-pjrt"
    return {name: importlib.metadata.version(name) for name in ("jax", "optax", compiler)}


def main(config: Config) -> None:
    for card in config.cards:
        if missing := targets.find_missing(targets.CARDS[card]):
            sys.exit(missing)
    console = Console()
    try:
        records = run(config, console)
    except ValueError as error:
        sys.exit(str(error))
    wide = Console(width=max(console.width, 160))
    for table in report.make_tables(records):
        wide.print(table)
    picture = config.out.with_suffix(".png")
    report.make_picture(records).savefig(picture, dpi=150)
    page = config.out.with_suffix(".md")
    page.write_text(report.make_page(records))
    console.print(f"records: {config.out}; tables: {page}; picture: {picture}")


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.benchmarks.compiled"))
