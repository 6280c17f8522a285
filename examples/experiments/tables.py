"""Prints the paper's tables next to those measured here. It reads results and trains nothing.

python -m examples.experiments.tables
python -m examples.experiments.tables table1 rates --scale cpu
"""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from examples.experiments.columns import Experiment, Metric, Scale
from examples.experiments.definitions import EXPERIMENTS, find
from examples.experiments.outcomes import Outcome, gather
from examples.experiments.statistics import Difference, paired_difference
from examples.experiments.store import RESULTS, Store, results_path
from examples.training.errors import SettingError, report_errors

_PAPER_TABLES = ("table1", "table2", "table3", "table4", "figure5")
TABLES = (*_PAPER_TABLES, "rates", "images")
ARMS = {
    "off": "w/o GC",
    "conv": "w/ GC",
    "conv+fc": "w/ GC",
    "optax.centralize": "optax.centralize",
}
_WIDTH = 6  # the largest number of columns side by side


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Prints tables of the results that exist. Nothing is trained."""

    tables: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Any of table1, table2, table3, table4, figure5, rates and images. By default, all of the scale."""
    scale: Scale = "cpu"
    """The runs to show: those with the paper's settings and data (paper), or the small ones (cpu)."""
    readme: bool = False
    """Print the paper's tables as one table in Markdown, with a line for each column of the paper's."""

    def __post_init__(self):
        for name in self.tables:
            if name not in TABLES:
                raise SettingError(f"no table is called {name!r}; there are {', '.join(TABLES)}")
            find(name, self.scale)


def make_tables(
    experiment: Experiment[Any], name: str, scale: Scale, store: Store
) -> Iterator[Table]:
    """Makes an experiment's tables as in the paper, with a column for each net and a row for each arm.

    An experiment with several metrics has a table for each.
    """
    columns = experiment.columns[scale]
    size = math.ceil(len(columns) / math.ceil(len(columns) / _WIDTH))
    for metric in experiment.metrics:
        outcomes = [gather(column, store, metric) for column in columns]
        for start in range(0, len(columns), size):
            yield _table(f"{name}: {experiment.title}", metric, outcomes[start : start + size])


def _table(title: str, metric: Metric, outcomes: list[Outcome]) -> Table:
    table = Table(
        metric.title,
        *(outcome.column.name for outcome in outcomes),
        title=title,
        box=box.SIMPLE_HEAD,
    )
    arms = outcomes[0].column.arms
    for i, arm in enumerate(arms):
        published = [outcome.column.paper[i : i + 1] for outcome in outcomes]
        if any(published):
            texts = [f"{value[0]:.2f}" if value else "" for value in published]
            table.add_row(f"the paper's {ARMS[arm]}", *texts)
    for arm in arms:
        means = [_spread(metric.shown(outcome.values(arm, metric.name))) for outcome in outcomes]
        table.add_row(f"here {ARMS[arm]}", *means)
    for arm in arms[1:]:
        differences = [_difference(metric, outcome, arm) for outcome in outcomes]
        title = ARMS[arm] if len(arms) > 2 else ""
        table.add_row(f"{title} difference".strip(), *map(_interval, differences))
        table.add_row("  p", *(_shown(d and f"{d.p_value:.2g}") for d in differences))
        table.add_row("  seeds better", *(_better(metric, outcome, arm) for outcome in outcomes))
        if metric.training:
            training = [_difference(metric, o, arm, metric.training) for o in outcomes]
            table.add_row("  in training", *map(_interval, training))
    table.add_row("seeds", *map(_seeds, outcomes))
    if any(outcome.column.rates for outcome in outcomes):
        chosen = [o.chosen and "{:g}, {:g}".format(*o.chosen) for o in outcomes]
        table.add_row("rate, decay", *(text or "grid not done" for text in chosen))
    return table


def make_summary(scale: Scale, results: Path = RESULTS) -> Table:
    """Makes one table of the paper's tables, with a row for each of their columns."""
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
    for name in _PAPER_TABLES:
        experiment, store = find(name, scale), Store(results_path(results, name, scale))
        metric = experiment.metrics[0]
        for i, column in enumerate(experiment.columns[scale]):
            outcome = gather(column, store, metric)
            difference = _difference(metric, outcome, column.arms[1])
            bold = "**" if difference and difference.sign else ""
            means = [
                _spread(metric.shown(outcome.values(arm, metric.name))) for arm in column.arms[:2]
            ]
            table.add_row(
                f"{name}, {metric.title}" if i == 0 else "",
                column.name,
                " → ".join(f"{value:.2f}" for value in column.paper),
                *means,
                f"{bold}{_interval(difference)}{bold}",
                _shown(difference and f"{difference.p_value:.2g}"),
                _seeds(outcome),
            )
    return table


def describe_verdicts(experiment: Experiment[Any], scale: Scale, store: Store) -> Iterator[str]:
    """Yields a sentence for each arm: where it helped, where it hurt, and where neither is shown."""
    metric = experiment.metrics[0]
    outcomes = [gather(column, store, metric) for column in experiment.columns[scale]]
    words = {1: "helped", 0: "no difference that these seeds can show", -1: "hurt"}
    for arm in outcomes[0].column.arms[1:]:
        names: dict[int, list[str]] = {sign: [] for sign in words}
        for outcome in outcomes:
            difference = _difference(metric, outcome, arm)
            if difference and difference.seeds > 1:
                sign = difference.sign * (-1 if metric.complement else 1)
                names[sign].append(outcome.column.name)
        parts = [f"{words[sign]}: {', '.join(where)}" for sign, where in names.items() if where]
        who = "GC" if arm != "optax.centralize" else arm
        yield f"{who}: " + ("; ".join(parts) or "no result yet") + "."


def sum_seconds(experiment: Experiment[Any], scale: Scale, store: Store) -> float:
    """Returns the time that an experiment's runs took, including those of its grids."""
    total = 0.0
    for column in experiment.columns[scale]:
        outcome = gather(column, store, experiment.metrics[0])
        grid = [store.get(config) for config in column.grid_configs()]
        runs = [run for arm in outcome.arms.values() for run in arm]
        total += sum(record["seconds"] for record in [*grid, *runs] if record)
    return total


def describe_costs(scale: Scale, results: Path = RESULTS) -> str:
    """Returns a sentence on the time that the runs of the paper's tables took."""
    took = {
        name: sum_seconds(find(name, scale), scale, Store(results_path(results, name, scale)))
        for name in _PAPER_TABLES
    }
    named = ", ".join(f"{name} {total:,.0f} s" for name, total in took.items())
    return f"The runs took, with their grids: {named}."


def _difference(
    metric: Metric, outcome: Outcome, arm: str, name: str | None = None
) -> Difference | None:
    if not outcome.seeds:
        return None
    name = name or metric.name
    base = metric.shown(outcome.values(outcome.column.arms[0], name))
    return paired_difference(metric.shown(outcome.values(arm, name)), base)


def _spread(values: np.ndarray) -> str:
    if not len(values):
        return "-"
    return f"{values.mean():.2f}" + (f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else "")


def _interval(difference: Difference | None) -> str:
    return _shown(difference and f"{difference.mean:+.2f} ± {difference.half_width:.2f}")


def _shown(text: str | None) -> str:
    return text or "-"


def _better(metric: Metric, outcome: Outcome, arm: str) -> str:
    base, own = (outcome.values(each, metric.name) for each in (outcome.column.arms[0], arm))
    return f"{(own > base).sum()} of {outcome.seeds}" if outcome.seeds else "-"


def _seeds(outcome: Outcome) -> str:
    texts = [f"{outcome.seeds} of {outcome.column.seeds}"]
    texts += [f"{ARMS[arm]}: {count} diverged" for arm, count in outcome.diverged.items() if count]
    return "; ".join(texts)


def main() -> None:
    arguments = tyro.cli(Arguments, prog="python -m examples.experiments.tables")
    # The tables are as wide as they need to be, so that a copied table is never folded.
    console = Console(width=160)
    scale = arguments.scale
    if arguments.readme:
        console.print(make_summary(scale))
        console.print(describe_costs(scale), soft_wrap=True)
        return
    every = [name for name in TABLES if scale in EXPERIMENTS[name].columns]
    for name in arguments.tables or every:
        experiment, store = EXPERIMENTS[name], Store(results_path(RESULTS, name, scale))
        for table in make_tables(experiment, name, scale, store):
            console.print(table)
        for verdict in describe_verdicts(experiment, scale, store):
            console.print(verdict)
        console.print(f"The runs took {sum_seconds(experiment, scale, store):,.0f} s.\n")
    console.print(
        "Each number is a mean ± the standard deviation over seeds. A difference to the first arm is "
        "paired by seed, ± its 95 % interval by Student's t (SciPy); p is that of the paired t-test "
        "and is not corrected for the number of columns. An arm helped or hurt if the interval "
        "excludes 0. The row 'in training' is the same difference on the training images of the last "
        "epoch. Rate and decay were chosen without GC on validation images."
    )


if __name__ == "__main__":
    with report_errors("stopped"):
        main()
