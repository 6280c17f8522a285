"""Compiles the cases that a user asks for, and writes the records, the tables and the picture."""

import itertools
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from examples.benchmarks.compiled import cards, picture, records, report, targets, update
from examples.benchmarks.compiled.config import Config
from examples.training.provenance import commit


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


def run(config: Config, console: Console) -> list[records.Record]:
    """Compiles what is missing, writes each case as soon as it is done, and returns all records."""
    found = records.read_updates(config.out)
    records.check_versions(config.out, found)
    done = {(*(row[key] for key in update.Case._fields), row["arm"]) for row in found}
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
    if refused and not plans and not found:
        raise ValueError("nothing is left to compile; the reasons are above")
    records.write(config.out, found)  # without a line that was cut off
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task("", total=len(plans))
        for plan, arms in plans:
            targets.check_memory(update.COMPILER_BYTES)
            progress.update(bar, description=" ".join(map(str, plan.case)))
            transforms = update.make_arms(plan.tree)
            missing = {arm: transforms[arm] for arm in arms}
            versions = records.find_versions(cards.find_card(plan.case.card).platform)
            for record in update.compile_arms(plan, missing).values():
                record |= {"versions": versions, "commit": commit()}
                found.append(record)
                records.add(config.out, record)
            progress.advance(bar)
    return found


def main(config: Config) -> None:
    for card in config.cards:
        if missing := targets.find_missing(cards.CARDS[card]):
            sys.exit(missing)
    console = Console()
    try:
        found = run(config, console)
    except ValueError as error:
        sys.exit(str(error))
    wide = Console(width=max(console.width, 160))
    for table in report.make_tables(found):
        wide.print(table)
    page = config.out.with_suffix(".md")
    page.write_text(report.make_page(found))
    console.print(f"records: {config.out}; tables: {page}")
    if figure := picture.make(found):
        figure.savefig(config.out.with_suffix(".png"), dpi=150)
        console.print(f"picture: {config.out.with_suffix('.png')}")
