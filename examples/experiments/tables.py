"""Prints the paper's tables, its figures beside those measured here. It reads results and trains nothing.

python -m examples.experiments.tables
python -m examples.experiments.tables table1 rates --scale cpu
"""

import dataclasses
import math
import sys
from collections.abc import Iterator
from typing import Annotated

import numpy as np
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from examples.experiments.cells import Experiment, Scale
from examples.experiments.comparison import Difference, paired_difference
from examples.experiments.definitions import EXPERIMENTS, find
from examples.experiments.records import Outcome, Records, RecordsError, outcome

_OF_THE_PAPER = ("table1", "table2", "table3", "table4", "figure5")
TABLES = (*_OF_THE_PAPER, "rates", "images")
ARMS = {
    "off": "w/o GC",
    "conv": "w/ GC",
    "conv+fc": "w/ GC",
    "optax.centralize": "optax.centralize",
}
_COLUMNS = 6  # cells side by side, at the most


@dataclasses.dataclass(frozen=True)
class Settings:
    """Prints tables of the results that are there."""

    tables: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Of table1, table2, table3, table4, figure5, rates, images; by default all of the scale."""
    scale: Scale = "cpu"
    """Whose results: those at the paper's settings and data, or at a CPU's."""
    readme: bool = False
    """Print one table in Markdown instead, a line for each column of the paper's, and what its runs
    took, as README.md has it."""

    def __post_init__(self):
        for name in self.tables:
            if name not in TABLES:
                raise ValueError(f"no table is called {name!r}; there are {', '.join(TABLES)}")
            find(name, self.scale)


def make_tables(name: str, scale: Scale, records: Records) -> Iterator[Table]:
    """Lays an experiment out as the paper does: a column a cell, a row an arm."""
    experiment = find(name, scale)
    cells = experiment.cells[scale]
    outcomes = [outcome(cell, records) for cell in cells]
    size = math.ceil(len(cells) / math.ceil(len(cells) / _COLUMNS))
    for start in range(0, len(cells), size):
        yield _table(name, experiment, outcomes[start : start + size])


def _table(name: str, experiment: Experiment, outcomes: list[Outcome]) -> Table:
    table = Table(
        _unit(experiment),
        *(found.cell.name for found in outcomes),
        title=f"{name}: {experiment.title}",
        box=box.SIMPLE_HEAD,
    )
    arms = outcomes[0].cell.arms
    for i, arm in enumerate(arms):
        published = [found.cell.paper[i : i + 1] for found in outcomes]
        if any(published):
            cells = [f"{value[0]:.2f}" if value else "" for value in published]
            table.add_row(f"the paper's {ARMS[arm]}", *cells)
    for arm in arms:
        means = [_spread(_values(experiment, found, arm)) for found in outcomes]
        table.add_row(f"here {ARMS[arm]}", *means)
    for arm in arms[1:]:
        differences = [_difference(experiment, found, arm) for found in outcomes]
        title = ARMS[arm] if len(arms) > 2 else ""
        table.add_row(f"{title} difference".strip(), *map(_interval, differences))
        table.add_row("  p", *(_shown(d and f"{d.p_value:.2g}") for d in differences))
        table.add_row("  seeds better", *(_better(experiment, found, arm) for found in outcomes))
        training = [_difference(experiment, found, arm, "train_accuracy") for found in outcomes]
        table.add_row("  in training", *map(_interval, training))
    table.add_row("seeds", *map(_seeds, outcomes))
    if any(found.cell.rates for found in outcomes):
        chosen = [found.chosen and "{:g}, {:g}".format(*found.chosen) for found in outcomes]
        table.add_row("rate, decay", *(text or "grid not done" for text in chosen))
    return table


def summary(scale: Scale) -> Table:
    """Lays the paper's tables out as one, a row a cell, and the arm with GC beside the one without."""
    table = Table(
        "",
        "",
        "paper: w/o → w/ GC",
        "here: w/o GC",
        "w/ GC",
        "difference",
        "p",
        "seeds",
        box=box.MARKDOWN,
    )
    for name in _OF_THE_PAPER:
        experiment, records = find(name, scale), Records(name, scale)
        for i, cell in enumerate(experiment.cells[scale]):
            found = outcome(cell, records)
            difference = _difference(experiment, found, cell.arms[1])
            bold = "**" if difference and difference.sign else ""
            table.add_row(
                f"{name}, {_unit(experiment)}" if i == 0 else "",
                cell.name,
                " → ".join(f"{value:.2f}" for value in cell.paper),
                *(_spread(_values(experiment, found, arm)) for arm in cell.arms[:2]),
                f"{bold}{_interval(difference)}{bold}",
                _shown(difference and f"{difference.p_value:.2g}"),
                _seeds(found),
            )
    return table


def verdicts(name: str, scale: Scale, records: Records) -> Iterator[str]:
    """Says in words where each arm helped, did nothing that shows, or hurt."""
    experiment = find(name, scale)
    outcomes = [outcome(cell, records) for cell in experiment.cells[scale]]
    words = {1: "helped", 0: "made no difference that these seeds can tell", -1: "hurt"}
    for arm in outcomes[0].cell.arms[1:]:
        said: dict[int, list[str]] = {sign: [] for sign in words}
        for found in outcomes:
            difference = _difference(experiment, found, arm)
            if difference and difference.seeds > 1:
                said[difference.sign * (-1 if experiment.error else 1)].append(found.cell.name)
        parts = [f"{words[sign]}: {', '.join(names)}" for sign, names in said.items() if names]
        who = "GC" if arm != "optax.centralize" else arm
        yield f"{who} " + ("; ".join(parts) or "has no result yet") + "."


def seconds(name: str, scale: Scale, records: Records) -> float:
    """Sums what an experiment's runs took, those of its grids as well."""
    outcomes = [(cell, outcome(cell, records)) for cell in find(name, scale).cells[scale]]
    grids = [records.get(config) for cell, _ in outcomes for config in cell.grid()]
    runs = [run for _, found in outcomes for arm in found.arms.values() for run in arm]
    return sum(record["seconds"] for record in [*grids, *runs] if record)


def costs(scale: Scale) -> str:
    """Says what the runs of the paper's tables took."""
    took = {name: seconds(name, scale, Records(name, scale)) for name in _OF_THE_PAPER}
    named = ", ".join(f"{name} {total:,.0f} s" for name, total in took.items())
    return f"The runs took, with their grids: {named}."


def _unit(experiment: Experiment) -> str:
    return "top-1 error, %" if experiment.error else "accuracy, %"


def _values(
    experiment: Experiment, found: Outcome, arm: str, name: str = "test_accuracy"
) -> np.ndarray:
    """Gives an arm's accuracies at the end, or the errors where the paper gives those, (seeds,)."""
    accuracy = found.values(arm, name)
    return 100 - accuracy if experiment.error else accuracy


def _difference(
    experiment: Experiment, found: Outcome, arm: str, name: str = "test_accuracy"
) -> Difference | None:
    if not found.seeds:
        return None
    base = _values(experiment, found, found.cell.arms[0], name)
    return paired_difference(_values(experiment, found, arm, name), base)


def _spread(values: np.ndarray) -> str:
    if not len(values):
        return "-"
    return f"{values.mean():.2f}" + (f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else "")


def _interval(difference: Difference | None) -> str:
    return _shown(difference and f"{difference.mean:+.2f} ± {difference.half_width:.2f}")


def _shown(text: str | None) -> str:
    return text or "-"


def _better(experiment: Experiment, found: Outcome, arm: str) -> str:
    base, own = (_values(experiment, found, each) for each in (found.cell.arms[0], arm))
    better = own < base if experiment.error else own > base
    return f"{better.sum()} of {found.seeds}" if found.seeds else "-"


def _seeds(found: Outcome) -> str:
    texts = [f"{found.seeds} of {found.cell.seeds}"]
    texts += [f"{ARMS[arm]}: {count} diverged" for arm, count in found.diverged.items() if count]
    return "; ".join(texts)


def main(settings: Settings) -> None:
    # As wide as the tables are: one that is copied must not be folded to the width of a terminal.
    console = Console(width=160)
    if settings.readme:
        console.print(summary(settings.scale))
        console.print(costs(settings.scale), soft_wrap=True)
        return
    every = [name for name in TABLES if settings.scale in EXPERIMENTS[name].cells]
    for name in settings.tables or every:
        records = Records(name, settings.scale)
        for table in make_tables(name, settings.scale, records):
            console.print(table)
        for verdict in verdicts(name, settings.scale, records):
            console.print(verdict)
        console.print(f"{seconds(name, settings.scale, records):,.0f} s of runs.\n")
    console.print(
        "Mean ± standard deviation over seeds. Difference to the first arm: paired by seed, ± its 95 % "
        "interval by Student's t; p of the paired t-test, not corrected for the number of columns. An arm "
        "helped or hurt where the interval leaves out 0. In training: the same difference of the last "
        "epoch's running accuracy or error on training images. Rate and decay: chosen without GC on validation "
        "images."
    )


if __name__ == "__main__":
    try:
        main(tyro.cli(Settings, prog="python -m examples.experiments.tables"))
    except RecordsError as error:
        sys.exit(f"stopped: {error}")
