"""Prints the paper's tables beside what was measured here. It reads results and trains nothing.

    python -m examples.experiments.tables
    python -m examples.experiments.tables --scale paper

The tables are also written to report.md in the folder of the scale's results.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tyro

from examples.experiments.columns import Experiment, Metric, Scale
from examples.training.errors import report_errors

if TYPE_CHECKING:
    from examples.experiments.statistics import Difference, Verdict

# Figure 6 shows a column of Table 3, and Figure 7 shows Table 4.
_PARTS = {
    "Classification: Tables 1 to 4 and Figure 5": (
        "table1",
        "table2",
        "table3",
        "table4",
        "figure5",
    ),
    "Detection: Tables 5 and 6": ("table5", "table6"),
}
TABLES = tuple(name for names in _PARTS.values() for name in names)
RESULTS = Path(__file__).parent / "results"
_FOOT = (
    "Means ± standard deviations over seeds, and the difference paired by seed ± half of its 95 % "
    "interval (scipy.stats.ttest_rel and ttest_1samp). Holm's correction is over all rows "
    "(statsmodels multipletests). Power: how likely these seeds are to find a difference "
    "as large as the paper's, or of half a point where the paper has none (statsmodels TTestPower). The "
    "next column has the seeds that find it in four of five studies."
)
_CONDITION = (
    "There is one more condition: where the power is below 0.5, a row that neither helps nor hurts says "
    "that it cannot tell."
)


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


class Finding(NamedTuple):
    """What the tests say of a row.

    Attributes:
      row: the row.
      difference: that of its shown values, with GC minus without.
      holm: its p value after Holm's correction over all rows.
      power: how likely its seeds are to find a difference as large as its `gain`.
      verdict: the verdict.
    """

    row: Row
    difference: "Difference"
    holm: float
    power: float
    verdict: "Verdict"


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
                        for arm in outcome.column.arms
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
    from examples.experiments.markdown import VERDICTS

    rows = find_rows(scale, results)
    if not rows:
        return (
            f"No column has all of its runs at this scale. Make them with python -m "
            f"examples.experiments.run --scale {scale}\n"
        )
    found = _judge(rows)
    sections = [_summarize(found)]
    for title, names in _PARTS.items():
        part = [finding for finding in found if finding.row.name in names]
        if part:
            sections.append(f"### {title}\n\n{_primary(part)}")
    sections += [
        f"### How to read these tables\n\n{_FOOT}\n\n{VERDICTS} {_CONDITION}",
        f"### Seeds, training accuracy and test loss\n\n{_secondary(rows)}",
        f"### Time\n\n{_describe_costs(scale, results)}",
    ]
    return "\n\n".join(sections) + "\n"


def _judge(rows: list[Row]) -> list[Finding]:
    from examples.experiments.statistics import (
        adjust,
        equivalence,
        judge,
        paired_difference,
        power,
    )

    differences = [paired_difference(row.gc, row.none) for row in rows]
    corrected = adjust([difference.p_value for difference in differences])
    found = []
    for row, difference, holm in zip(rows, differences, corrected, strict=True):
        strength = power(row.rise, row.gain)
        p_equivalence = equivalence(row.rise, np.zeros(len(row.rise)))
        verdict = judge(float(row.rise.mean()), holm, p_equivalence)
        if verdict == "no difference" and strength < 0.5:
            verdict = "cannot tell"
        found.append(Finding(row, difference, holm, strength, verdict))
    return found


def _summarize(found: list[Finding]) -> str:
    from examples.experiments.markdown import count_verdicts

    tuned = all(finding.row.outcome.column.rates for finding in found)
    rule = (
        "In every row both arms are tuned in the same way, by the rules of PLAN.md."
        if tuned
        else "The learning rates are the paper's, for both arms. None was tuned."
    )
    verdicts = count_verdicts([finding.verdict for finding in found])
    return f"{rule} Verdicts of the {len(found)} rows: {verdicts}."


def _primary(found: list[Finding]) -> str:
    from examples.experiments.markdown import make_table, show_difference, show_p
    from examples.experiments.statistics import seeds_needed

    lines = []
    for row, difference, holm, strength, verdict in found:
        outcome = row.outcome
        rates = [_show_rates(outcome, arm) for arm in outcome.column.arms if outcome.rates]
        lines.append(
            (
                f"{row.name}, {row.metric.title}",
                outcome.column.name,
                " → ".join(f"{value:.2f}" for value in outcome.column.paper_of(row.metric)),
                *(f"{values.mean():.2f} ± {values.std(ddof=1):.2f}" for values in row[3:]),
                show_difference(difference),
                show_p(difference.p_value),
                show_p(holm),
                verdict,
                f"{strength:.2f}",
                seeds_needed(row.rise, row.gain),
                _seeds(outcome),
                " / ".join(rates),
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
    )
    return make_table(header, lines)


def _show_rates(outcome: Any, arm: str) -> str:
    """Returns the rates of an arm, and whether one of them is at an end of the grid."""
    from examples.experiments.markdown import show_rates

    rates, grid = outcome.rates[arm], outcome.column.rates
    at_end = {min(grid), max(grid)} & set(rates)
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
                for arm in row.outcome.column.arms
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
    texts = [f"{outcome.seeds} of {outcome.column.seeds}"]
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
