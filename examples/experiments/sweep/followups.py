"""The tables of E2, images against steps, and of E5, GC on the gradient or on the update."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import statsmodels.api as sm

from examples.experiments.statistics import Difference, paired_difference
from examples.experiments.sweep.arms import Arm
from examples.experiments.sweep.effects import tune
from examples.experiments.sweep.inference import Verdict, adjust, equivalence, judge
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
    """

    task: Task
    arm: Arm
    difference: Difference
    p_equivalence: float


def compare(results: TaskResults, arm: Arm) -> Compared:
    """Compares an arm of a complete task with none.

    Raises:
      KeyError: results are missing.
    """
    error, base = tune(results, arm).error, tune(results, "none").error
    return Compared(results.task, arm, paired_difference(error, base), equivalence(error, base))


def compare_images_and_steps(folder: Path) -> list[Compared]:
    """Returns the complete cells of E2.

    Raises:
      ResultsError: a line of results cannot be right.
    """
    results = [TaskResults(task, folder) for task in tasks_of("e2")]
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
            f"| {images} | "
            + " | ".join(_interval(at.get((images, steps))) for steps in STEPS)
            + " |"
            for images in IMAGES
        ]
        header = "| images | " + " | ".join(f"{steps} steps" for steps in STEPS) + " |"
        lines = [header, "|" + " --- |" * (len(STEPS) + 1), *rows]
        sections.append(f"{title}:\n\n" + "\n".join(lines))
        if len(chosen) == len(IMAGES) * len(STEPS):
            images, steps = fit_slopes(chosen)
            sections.append(
                f"Ten times the images change the difference by {_slope(images)} points, and ten "
                f"times the steps by {_slope(steps)} (statsmodels OLS)."
            )
    sections.append(
        "The test error of GC minus that of none, each at its own chosen rate, with its 95 % interval."
    )
    return "\n\n".join(sections)


def write_places(compared: list[Compared]) -> str:
    """Returns the table of E5 in Markdown, or nothing if no task is complete."""
    if not compared:
        return ""
    p_values = adjust([one.difference.p_value for one in compared])
    rows = []
    for one, p_value in zip(compared, p_values, strict=True):
        verdict: Verdict = judge(one.difference.mean, p_value, one.p_equivalence)
        place = "gradient" if one.arm == "gc" else "update"
        cells = (one.task.name, place, _interval(one.difference), f"{p_value:.3f}", verdict)
        rows.append("| " + " | ".join(cells) + " |")
    lines = ["| task | GC on the | difference | p (Holm) | verdict |", "|" + " --- |" * 5, *rows]
    return (
        "## Gradient or update (E5)\n\n"
        + "\n".join(lines)
        + "\n\nAs in the primary table. Holm's correction is over this table."
    )


def _interval(difference: Difference | None) -> str:
    return f"{difference.mean:+.2f} ± {difference.half_width:.2f}" if difference else ""


def _slope(slope: Slope) -> str:
    return f"{slope.mean:+.2f} ({slope.low:+.2f} to {slope.high:+.2f})"
