"""Prints the paper's tables beside what was measured here. It reads results and trains nothing.

    python -m examples.experiments.tables
    python -m examples.experiments.tables --scale paper

The tables are also written to report.md in the folder of the scale's results.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

from examples.experiments.columns import Experiment, Metric, Scale
from examples.training.errors import report_errors

# Figure 6 shows a column of Table 3, and Figure 7 shows Table 4.
TABLES = ("table1", "table2", "table3", "table4", "table5", "table6", "figure5")
RESULTS = Path(__file__).parent / "results"
_EARLIER = "rate chosen without GC"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Prints the paper's tables beside what was measured here, and writes them to report.md."""

    scale: Scale = "cpu"
    """The runs to show: those with the paper's settings and data (paper), or the small ones (cpu)."""
    results: Path = RESULTS
    """The folder of the results. The tables are written to the folder of the scale in it."""


class Row(NamedTuple):
    """What a table shows of a column.

    Attributes:
      name: the name of its table.
      metric: what is shown.
      outcome: the results of the column.
      none, gc: the values of each seed without and with GC, as they are shown.
    """

    name: str
    metric: Metric
    outcome: Any
    none: np.ndarray
    gc: np.ndarray

    @property
    def rise(self) -> np.ndarray:
        """By how much the error rises with GC, for each seed."""
        return (self.gc - self.none) * (1 if self.metric.complement else -1)

    @property
    def gain(self) -> float:
        """The size of the paper's difference, or half a point if the paper has none."""
        from examples.experiments.statistics import MARGIN

        paper = self.outcome.column.paper_of(self.metric)
        return abs(paper[1] - paper[0]) if paper else MARGIN


def find_rows(scale: Scale, results: Path) -> list[Row]:
    """Returns the rows of all tables that have results at a scale, in the paper's order.

    Raises:
      ResultsError: a line of results cannot be right.
    """
    from examples.experiments.outcomes import gather

    rows = []
    for name, experiment, store in _experiments(scale, results):
        for metric in experiment.metrics:
            for column in experiment.columns[scale]:
                # The first metric has chosen the rates of the runs, for all metrics.
                outcome = gather(column, store, experiment.metrics[0])
                if outcome.seeds > 1:
                    off, gc = (
                        metric.shown(outcome.values(arm, metric.name))
                        for arm in outcome.column.arms[:2]
                    )
                    rows.append(Row(name, metric, outcome, off, gc))
    return rows


def _experiments(scale: Scale, results: Path):
    """Yields the name, the experiment and the results of each table that a scale has."""
    from examples.experiments.definitions import EXPERIMENTS
    from examples.experiments.store import Store, results_path

    for name in TABLES:
        experiment: Experiment[Any] = EXPERIMENTS[name]
        if scale in experiment.columns:
            path = results_path(results, name, scale)
            yield name, experiment, Store(path, experiment.config_type)


def write_tables(scale: Scale, results: Path = RESULTS) -> str:
    """Returns the tables of a scale in Markdown.

    Raises:
      ResultsError: a line of results cannot be right.
    """
    rows = find_rows(scale, results)
    if not rows:
        return (
            f"No column has all of its runs at this scale. Make them with python -m "
            f"examples.experiments.run --scale {scale}\n"
        )
    sections = [_rules(rows), _primary(rows), _secondary(rows), _describe_costs(scale, results)]
    return "\n\n".join(sections) + "\n"


def _rules(rows: list[Row]) -> str:
    old = [row for row in rows if row.outcome.earlier]
    if not all(row.outcome.column.rates for row in rows):
        return "The learning rates are the paper's, for both arms. None was tuned."
    if not old:
        return "In every row both arms are tuned in the same way, by the rules of PLAN.md."
    lines = [record for row in old for arm in row.outcome.arms.values() for record in arm]
    dirty = sum((record.get("commit") or "-dirty").endswith("-dirty") for record in lines)
    return (
        f"**{len(old)} of {len(rows)} rows were measured before the rules of PLAN.md.** They are marked "
        f'"{_EARLIER}" and have no verdict. Two other seeds without GC chose the learning rate and the '
        "weight decay, and the runs with GC used the same values. If the choice was lucky, training without "
        "GC looks worse than it is. Five of the ten seeds of Table 3 were added after a look at the "
        f"first five. {dirty} of the {len(lines)} runs of these rows were made by code that had changes without "
        "a commit. The planned runs will replace these rows one by one. Until all are there, verdicts can "
        "change, because Holm's correction is over the rows that have one."
    )


def _primary(rows: list[Row]) -> str:
    from examples.experiments.markdown import make_table, show_difference, show_p
    from examples.experiments.statistics import (
        adjust,
        equivalence,
        judge,
        paired_difference,
        power,
        seeds_needed,
    )

    differences = [paired_difference(row.gc, row.none) for row in rows]
    # Only rows whose arms are both tuned are judged.
    judged = [i for i, row in enumerate(rows) if not row.outcome.earlier]
    corrected = dict(zip(judged, adjust([differences[i].p_value for i in judged]), strict=True))
    lines = []
    for i, (row, difference) in enumerate(zip(rows, differences, strict=True)):
        outcome, found = row.outcome, power(row.rise, row.gain)
        holm, verdict = "", "not judged"
        if i in corrected:
            holm = show_p(corrected[i])
            p_equivalence = equivalence(row.rise, np.zeros(len(row.rise)))
            verdict = judge(float(row.rise.mean()), corrected[i], p_equivalence)
            if verdict == "no difference" and found < 0.5:
                verdict = "cannot tell"
        arms = outcome.column.arms[:2]
        rates = [_show_rates(outcome, arm) for arm in arms if outcome.rates]
        rule = "both tuned" if outcome.column.rates else "the paper's settings"
        lines.append(
            (
                f"{row.name}, {row.metric.title}",
                outcome.column.name,
                " → ".join(f"{value:.2f}" for value in outcome.column.paper_of(row.metric)),
                *(f"{values.mean():.2f} ± {values.std(ddof=1):.2f}" for values in row[3:]),
                show_difference(difference),
                show_p(difference.p_value),
                holm,
                verdict,
                f"{found:.2f}",
                seeds_needed(row.rise, row.gain),
                _seeds(outcome),
                " / ".join(rates),
                _EARLIER if outcome.earlier else rule,
            )
        )
    header = (
        "table",
        "column",
        "paper: without → with GC",
        "here: without GC",
        "here: with GC",
        "difference",
        "p",
        "p (Holm)",
        "verdict",
        "power",
        "seeds for power 0.8",
        "seeds",
        "learning rates, without / with GC",
        "rule",
    )
    foot = (
        "Means ± standard deviations over seeds, and the difference paired by seed ± half of its 95 % "
        "interval (scipy.stats.ttest_rel and ttest_1samp). Holm's correction is over the rows whose arms "
        "are both tuned (statsmodels multipletests). Power: how likely these seeds are to find a difference "
        "as large as the paper's, or of half a point where the paper has none (statsmodels TTestPower). The "
        "next column has the seeds that find it in four of five studies. The words are "
        "those of PLAN.md, with one more condition: where that power is below 0.5, a row that neither "
        "helps nor hurts says that it cannot tell."
    )
    return f"{make_table(header, lines)}\n\n{foot}"


def _show_rates(outcome: Any, arm: str) -> str:
    """Returns the rates of an arm, and whether one of them is at an end of the grid."""
    from examples.experiments.markdown import show_rates

    rates, grid = outcome.rates[arm], outcome.column.rates
    at_end = not outcome.earlier and {min(grid), max(grid)} & set(rates)
    return f"{show_rates(np.asarray(rates))}{' (end of the grid)' if at_end else ''}"


def _secondary(rows: list[Row]) -> str:
    from examples.experiments.markdown import make_table, show_difference
    from examples.experiments.statistics import paired_difference

    lines = []
    for row in rows:
        cells = []
        for name in (row.metric.training, "test_loss"):
            values = [
                [record.get(name) for record in row.outcome.arms[arm]]
                for arm in row.outcome.column.arms[:2]
            ]
            if name is None or any(value is None for arm in values for value in arm):
                cells.append("")
                continue
            off, gc = map(np.asarray, values)
            cells.append(show_difference(paired_difference(gc, off)))
        better = int((row.rise < 0).sum())
        lines.append(
            (
                f"{row.name}, {row.metric.title}",
                row.outcome.column.name,
                f"{better} of {row.outcome.seeds}",
                *cells,
            )
        )
    header = (
        "table",
        "column",
        "seeds better with GC",
        "training accuracy, points",
        "test loss, nats",
    )
    foot = (
        "Differences with GC minus without at the end of training, as above. The training accuracy is that of "
        "the last epoch."
    )
    return f"{make_table(header, lines)}\n\n{foot}"


def _describe_costs(scale: Scale, results: Path) -> str:
    from examples.experiments.outcomes import estimate_seconds

    took, left, unknown = [], 0.0, []
    for name, experiment, store in _experiments(scale, results):
        total = sum(record["seconds"] for record in store.records())
        took.append(f"{name} {total:,.0f} s")
        estimates = [
            estimate_seconds(column, store, experiment.metrics[0])
            for column in experiment.columns[scale]
        ]
        left += sum(seconds or 0.0 for seconds in estimates)
        if None in estimates:
            unknown.append(name)
    text = f"The runs took, with their grids: {', '.join(took)}."
    if left:
        text += (
            f" The runs of the plan that are still missing take about {left / 3600:.0f} hours of one "
            "core: `python -m examples.experiments.run`."
        )
    if unknown:
        text += f" Of {' and '.join(unknown)}, some or all runs were never made, so their time is not known."
    return text


def _seeds(outcome: Any) -> str:
    texts = [f"{outcome.seeds} of {outcome.total}"]
    texts += [f"{count} diverged ({arm})" for arm, count in outcome.diverged.items() if count]
    return "; ".join(texts)


def main() -> None:
    with report_errors("stopped"):
        arguments = tyro.cli(
            Arguments, prog="python -m examples.experiments.tables", description=__doc__
        )
        from examples.training.files import write_whole

        text = write_tables(arguments.scale, arguments.results)
        folder = arguments.results / arguments.scale
        if folder.is_dir():
            write_whole(folder / "report.md", text)
        print(text, end="")


if __name__ == "__main__":
    main()
