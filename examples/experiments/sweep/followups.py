"""The tables of E2 to E5: images or steps, a full-size net, fine-tuning, gradient or update."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import statsmodels.api as sm

from examples.experiments.markdown import make_table, show_difference, show_p, show_rates
from examples.experiments.statistics import (
    Difference,
    Overall,
    Verdict,
    adjust,
    equivalence,
    judge,
    paired_difference,
    seeds_needed,
)
from examples.experiments.sweep.arms import Arm
from examples.experiments.sweep.effects import tune
from examples.experiments.sweep.results import TaskResults
from examples.experiments.sweep.tasks import IMAGES, STEPS, TASKS, Task, tasks_of

# The normalizations of E2, with the titles of their tables and panels.
NORM_TITLES = {"one group": "Group normalization in one group", "batch": "Batch normalization"}


class Compared(NamedTuple):
    """An arm of a task against none, both tuned by cross-fitting.

    Attributes:
      task: the task.
      arm: the arm.
      difference: of the test error, in points. Below 0, the arm has the lower error.
      p_equivalence: the p value of a difference of at least half a point.
      seeds_needed: the number of seeds that would find half a point with power 0.8.
      error_none, error: the mean test error of none and of the arm, in percent.
      rates_none, rates: the rates that cross-fitting chose, the most frequent one first.
    """

    task: Task
    arm: Arm
    difference: Difference
    p_equivalence: float
    seeds_needed: int
    error_none: float
    error: float
    rates_none: str
    rates: str


def compare(results: TaskResults, arm: Arm) -> Compared:
    """Compares an arm of a complete task with none.

    Raises:
      KeyError: results are missing.
    """
    tuned, none = tune(results, arm), tune(results, "none")
    return Compared(
        task=results.task,
        arm=arm,
        difference=paired_difference(tuned.error, none.error),
        p_equivalence=equivalence(tuned.error, none.error),
        seeds_needed=seeds_needed(tuned.error - none.error),
        error_none=float(none.error.mean()),
        error=float(tuned.error.mean()),
        rates_none=show_rates(none.rates),
        rates=show_rates(tuned.rates),
    )


def compare_gc(experiment: Literal["e2", "e3", "e4"], folder: Path) -> list[Compared]:
    """Returns GC against none in the complete tasks of an experiment.

    Raises:
      ResultsError: a line of results cannot be right.
    """
    results = [TaskResults(task, folder) for task in tasks_of(experiment)]
    return [compare(one, "gc") for one in results if one.complete]


def compare_places(folder: Path) -> list[Compared]:
    """Returns both places of GC, for the complete tasks of E5.

    Raises:
      ResultsError: a line of results cannot be right.
    """
    results = [TaskResults(task, folder) for task in TASKS.values() if "gc_update" in task.arms]
    arms: tuple[Arm, ...] = ("gc", "gc_update")
    return [compare(one, arm) for one in results if one.complete for arm in arms]


class Slope(NamedTuple):
    """How much the difference changes with a factor of ten, in points, with its 95 % interval."""

    mean: float
    low: float
    high: float


def fit_slopes(cells: list[Compared]) -> tuple[Slope, Slope]:
    """Fits the differences of E2 by a line in the logarithms of images and of steps.

    Args:
      cells: those of one normalization, at least four.

    Returns:
      The slope for ten times the images, and that for ten times the steps.
    """
    points = np.log10([images_and_steps(cell.task) for cell in cells])
    means = np.asarray([cell.difference.mean for cell in cells])
    model: Any = sm.OLS(means, sm.add_constant(points, has_constant="add")).fit()
    intervals = model.conf_int()
    images, steps = (Slope(float(model.params[i]), *map(float, intervals[i])) for i in (1, 2))
    return images, steps


def images_and_steps(task: Task) -> tuple[int, int]:
    """Returns the numbers of images and of steps of a cell of E2."""
    for images in IMAGES:
        for steps in STEPS:
            if task.name.startswith(f"resnet8-fashion{images}-") and task.steps == steps:
                return images, steps
    raise ValueError(f"{task.name} is not a task of E2")


def write_images_and_steps(cells: list[Compared]) -> str:
    """Returns the tables of E2 in Markdown, or nothing if no cell is complete."""
    if not cells:
        return ""
    sections = [
        f"## Images or steps (E2)\n\n{len(cells)} of {len(tasks_of('e2'))} cells are complete."
    ]
    for norm, title in NORM_TITLES.items():
        chosen = [cell for cell in cells if cell.task.norm == norm]
        at = {images_and_steps(cell.task): cell.difference for cell in chosen}
        rows = [
            (images, *(_interval(at.get((images, steps))) for steps in STEPS)) for images in IMAGES
        ]
        header = ("images", *(f"{steps} steps" for steps in STEPS))
        sections.append(f"{title}:\n\n{make_table(header, rows)}")
        if len(chosen) == len(IMAGES) * len(STEPS):
            images, steps = fit_slopes(chosen)
            sections.append(
                f"Ten times the images change the difference by {_slope(images)} points, and ten "
                f"times the steps by {_slope(steps)} (statsmodels OLS)."
            )
    sections.append(
        "The test error with GC minus that without, each at its own chosen rate, with its 95 % interval."
    )
    return "\n\n".join(sections)


def write_full_size(compared: list[Compared], overall: Overall | None) -> str:
    """Returns the table of E3 in Markdown, or nothing if no task is complete.

    Args:
      compared: the complete tasks of E3.
      overall: the mean over the tasks of E1, if there is one.
    """
    if not compared:
        return ""
    rows = [
        (*_errors(one), _interval(one.difference), one.rates_none, one.rates) for one in compared
    ]
    lines = make_table(
        ("task", "without GC", "with GC", "difference", "rates without GC", "rates with GC"), rows
    )
    seeds = compared[0].difference.seeds
    text = f"{seeds} seeds cannot decide half a point, so these rows have no verdict."
    if overall:
        text += (
            f" E1 expects a difference from {overall.new_low:+.2f} to {overall.new_high:+.2f} in a "
            "new task (95 % prediction interval)."
        )
    return f"## A net at full size (E3)\n\n{lines}\n\n{text}"


def write_fine_tuning(compared: list[Compared]) -> str:
    """Returns the table of E4 in Markdown, or nothing if no task is complete."""
    if not compared:
        return ""
    rows = [
        (
            *_errors(one),
            _interval(one.difference),
            p_value,
            verdict,
            one.seeds_needed,
            one.rates_none,
            one.rates,
        )
        for one, p_value, verdict in _judged(compared)
    ]
    header = (
        "task",
        "without GC",
        "with GC",
        "difference",
        "p (Holm)",
        "verdict",
        "seeds to find half a point",
    )
    header += ("rates without GC", "rates with GC")
    missing = len(tasks_of("e4")) - len(compared)
    text = "As in the primary table. Holm's correction is over this table."
    if missing:
        text += f" {missing} task of E4 is not complete."
    return f"## Fine-tuning (E4)\n\n{make_table(header, rows)}\n\n{text}"


def write_places(compared: list[Compared]) -> str:
    """Returns the table of E5 in Markdown, or nothing if no task is complete."""
    if not compared:
        return ""
    rows = [
        (
            one.task.name,
            "gradient" if one.arm == "gc" else "update",
            _interval(one.difference),
            p_value,
            verdict,
        )
        for one, p_value, verdict in _judged(compared)
    ]
    table = make_table(("task", "GC on the", "difference", "p (Holm)", "verdict"), rows)
    text = "As in the primary table. Holm's correction is over this table."
    return f"## Gradient or update (E5)\n\n{table}\n\n{text}"


def _judged(compared: list[Compared]) -> Iterator[tuple[Compared, str, Verdict]]:
    """Yields each comparison with its p value after Holm's correction over all, and its verdict."""
    p_values = adjust([one.difference.p_value for one in compared])
    for one, p_value in zip(compared, p_values, strict=True):
        yield one, show_p(p_value), judge(one.difference.mean, p_value, one.p_equivalence)


def _errors(one: Compared) -> tuple[str, str, str]:
    return one.task.name, f"{one.error_none:.2f}", f"{one.error:.2f}"


def _interval(difference: Difference | None) -> str:
    return show_difference(difference) if difference else ""


def _slope(slope: Slope) -> str:
    return f"{slope.mean:+.2f} ({slope.low:+.2f} to {slope.high:+.2f})"
