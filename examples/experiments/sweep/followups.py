"""The tables of E2 to E5: images or steps, a full-size net, fine-tuning, gradient or update."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

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
from examples.experiments.sweep.effects import Tuned, tune
from examples.experiments.sweep.results import TaskResults
from examples.experiments.sweep.tasks import IMAGES, STEPS, TASKS, Task, tasks_of

# The normalizations of E2, with the titles of their tables and panels.
NORM_TITLES = {"one group": "Group normalization in one group", "batch": "Batch normalization"}


class Compared(NamedTuple):
    """An arm of a task against none, both tuned by cross-fitting.

    Attributes:
      task: the task.
      arm: the arm.
      none, tuned: none and the arm at the rates that cross-fitting chose.
      difference: of the test error, in points. Below 0, the arm has the lower error.
      p_equivalence: the p value of a difference of at least half a point.
      seeds_needed: the number of seeds that would find half a point with power 0.8.
    """

    task: Task
    arm: Arm
    none: Tuned
    tuned: Tuned
    difference: Difference
    p_equivalence: float
    seeds_needed: int


def compare(results: TaskResults, arm: Arm) -> Compared:
    """Compares an arm of a complete task with none.

    Raises:
      KeyError: results are missing.
    """
    tuned, none = tune(results, arm), tune(results, "none")
    return Compared(
        task=results.task,
        arm=arm,
        none=none,
        tuned=tuned,
        difference=paired_difference(tuned.error, none.error),
        p_equivalence=equivalence(tuned.error, none.error),
        seeds_needed=seeds_needed(tuned.error - none.error),
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


def fit_slopes(cells: list[Compared]) -> tuple[Difference, Difference]:
    """Fits the differences of E2 by a plane in the logarithms of images and of steps.

    Args:
      cells: those of one normalization, with the same seeds in all.

    Returns:
      How many points ten times the images add to the difference, and how many ten times the steps
      add. Each seed is fitted by itself, because its cells share images, and the intervals are those
      of a mean over seeds.
    """
    sizes = np.log10([(cell.task.images or 0, cell.task.steps or 0) for cell in cells])
    differences = np.asarray([cell.tuned.error - cell.none.error for cell in cells])
    design = np.column_stack([np.ones(len(cells)), sizes])
    _, images, steps = np.linalg.lstsq(design, differences)[0]
    zero = np.zeros(len(images))
    return paired_difference(images, zero), paired_difference(steps, zero)


def write_images_and_steps(cells: list[Compared]) -> str:
    """Returns the tables of E2 in Markdown, or nothing if no cell is complete."""
    if not cells:
        return ""
    sections = [
        f"## Images or steps (E2)\n\n{len(cells)} of {len(tasks_of('e2'))} cells are complete."
    ]
    for norm, title in NORM_TITLES.items():
        chosen = [cell for cell in cells if cell.task.norm == norm]
        at = {(cell.task.images, cell.task.steps): cell.difference for cell in chosen}
        rows = [
            (images, *(_interval(at.get((images, steps))) for steps in STEPS)) for images in IMAGES
        ]
        header = ("images", *(f"{steps} steps" for steps in STEPS))
        sections.append(f"{title}:\n\n{make_table(header, rows)}")
        if len(chosen) == len(IMAGES) * len(STEPS):
            images, steps = fit_slopes(chosen)
            sections.append(
                f"Ten times the images change the difference by {show_difference(images)} points, and ten "
                f"times the steps by {show_difference(steps)} (a plane in the logarithms for each seed, by "
                "numpy.linalg.lstsq; t intervals over the seeds)."
            )
    sections.append(
        "The test error with GC minus that without, each at its own chosen rate, with its 95 % interval. "
        "The cell of 1000 images and 300 steps repeats the runs of a task above.\n\n<!-- end of images or steps -->"
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
    rows = [(*_errors(one), _interval(one.difference), *_rates(one)) for one in compared]
    lines = make_table(
        ("task", "without GC", "with GC", "difference", "rates without GC", "rates with GC"), rows
    )
    seeds = compared[0].difference.seeds
    text = (
        f"{seeds} seeds cannot decide half a point, so these rows have no verdict. Each arm had only two "
        "rates, which the smaller nets suggested, so a lower or a higher rate may be better for either arm."
    )
    if overall:
        text += (
            f" According to the tasks above, the 95 % prediction interval of the true difference in a new task is "
            f"{overall.new_low:+.2f} to {overall.new_high:+.2f}. A measured difference also has an error of its "
            "own."
        )
    return f"## A net at full size (E3)\n\n{lines}\n\n{text}"


def write_fine_tuning(compared: list[Compared]) -> str:
    """Returns the table of E4 in Markdown, or nothing if no task is complete."""
    if not compared:
        return ""
    rows = [
        (*_errors(one), _interval(one.difference), *words, *_rates(one))
        for one, words in _judged(compared)
    ]
    header = ("task", "without GC", "with GC", "difference", *_WORDS, *_RATES)
    return f"## Fine-tuning (E4)\n\n{make_table(header, rows)}\n\n{_foot(compared, tasks_of('e4'))}"


def write_places(compared: list[Compared]) -> str:
    """Returns the tables of E5 in Markdown, or nothing if no task is complete.

    Args:
      compared: what `compare_places` returns.
    """
    if not compared:
        return ""
    rows = [
        (
            one.task.name,
            "gradient" if one.arm == "gc" else "update",
            _interval(one.difference),
            *words,
            *_rates(one),
        )
        for one, words in _judged(compared)
    ]
    table = make_table(("task", "GC on the", "difference", *_WORDS, *_RATES), rows)
    places = []
    for gradient, update in zip(compared[::2], compared[1::2], strict=True):
        difference = paired_difference(update.tuned.error, gradient.tuned.error)
        places.append((gradient.task.name, _interval(difference), show_p(difference.p_value)))
    between = make_table(("task", "update minus gradient", "p"), places)
    foot = (
        f"{_foot(compared[::2], [task for task in TASKS.values() if 'gc_update' in task.arms])} Tasks that "
        "the primary table has too have another p value there, because Holm's correction is over other tasks. The grid of rates was not "
        "extended for GC on the update."
    )
    return f"## Gradient or update (E5)\n\n{table}\n\n{foot}\n\n{between}"


_WORDS = ("p", "p (Holm)", "verdict", "seeds to find half a point")
_RATES = ("rates without GC", "rates with GC")


def _foot(compared: list[Compared], tasks: list[Task]) -> str:
    text = (
        f"As in the primary table. {len(compared)} of {len(tasks)} tasks are complete, and Holm's correction is "
        "over this table."
    )
    if len(compared) < len(tasks):
        text += " So verdicts can change until all are complete."
    return text


def _judged(compared: list[Compared]) -> Iterator[tuple[Compared, tuple[str, str, Verdict, int]]]:
    """Yields each comparison with the cells of `_WORDS`. Holm's correction is over all of them."""
    p_values = adjust([one.difference.p_value for one in compared])
    for one, p_value in zip(compared, p_values, strict=True):
        verdict = judge(one.difference.mean, p_value, one.p_equivalence)
        yield one, (show_p(one.difference.p_value), show_p(p_value), verdict, one.seeds_needed)


def _errors(one: Compared) -> tuple[str, str, str]:
    return one.task.name, f"{one.none.error.mean():.2f}", f"{one.tuned.error.mean():.2f}"


def _rates(one: Compared) -> tuple[str, str]:
    return show_rates(one.none.rates), show_rates(one.tuned.rates)


def _interval(difference: Difference | None) -> str:
    return show_difference(difference) if difference else ""
