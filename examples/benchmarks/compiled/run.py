"""Compiles the cases that a user asks for, and writes the records, the tables and the picture."""

import importlib.metadata
import itertools
import json
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from examples.benchmarks import measure
from examples.benchmarks.compiled import cards, report, targets, update
from examples.benchmarks.compiled.config import Config

COMPILER_BYTES = 2e9
"""What the largest case that was compiled took, 1.8 GB, and a margin."""


def list_cases(config: Config) -> Iterator[update.Case]:
    """Returns every combination that makes sense.

    A card goes only with the numbers of chips of which it has a topology. On one chip the layout is
    replicated, and only there and on 8 chips.
    """
    every = itertools.product(
        config.cards, config.chips, config.trees, config.optimizers, config.layouts
    )
    for case in itertools.starmap(update.Case, every):
        if case.chips not in cards.find_card(case.card).topologies:
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
            cards.check_topology(cards.find_card(name), chips)
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
    compiler = "libtpu" if cards.CARDS[card].platform == "tpu" else "jax-cuda13-pjrt"
    return {name: importlib.metadata.version(name) for name in ("jax", "optax", compiler)}


def main(config: Config) -> None:
    for card in config.cards:
        if missing := targets.find_missing(cards.CARDS[card]):
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
