"""Computes the outcomes of a complete task: the primary outcome, the secondary ones, the controls."""

import dataclasses
from typing import NamedTuple

import numpy as np

from examples.experiments.statistics import (
    Difference,
    Ratio,
    equivalence,
    mean_ratio,
    paired_difference,
    seeds_needed,
)
from examples.experiments.sweep.arms import CONTROLS, Arm
from examples.experiments.sweep.choice import best_rate, choose_rates
from examples.experiments.sweep.rates import rate
from examples.experiments.sweep.results import TaskResults
from examples.experiments.sweep.tasks import Task
from examples.experiments.sweep.training import MEASURES


class AtRate(NamedTuple):
    """The difference of the test error between GC and none at one rate.

    Attributes:
      offset: the number of half-decades by which the rate lies above the best rate of none.
      difference: in points. Below 0, GC has the lower error.
    """

    offset: int
    difference: Difference


class Tuned(NamedTuple):
    """An arm at the rates that cross-fitting has chosen for it.

    Attributes:
      rates: the rate of each seed, (seeds,).
      error: the test error in percent, (seeds,).
      test_loss: (seeds,), in nats.
      train_loss: (seeds,), in nats.
      gap: the mean validation accuracy minus the mean test accuracy, in points.
    """

    rates: np.ndarray
    error: np.ndarray
    test_loss: np.ndarray
    train_loss: np.ndarray
    gap: float


@dataclasses.dataclass(frozen=True)
class TaskEffects:
    """All outcomes of a task.

    Attributes:
      task: the task.
      none: the arm without GC, tuned.
      gc: the arm with GC, tuned in the same way.
      difference: the primary outcome, the test error of `gc` minus that of `none`, in points.
      p_equivalence: the p value of a difference of at least half a point.
      seeds_needed: the number of seeds that would find half a point with power 0.8.
      steps: the steps of `gc` until the best validation loss of `none`, as a ratio.
      never: the number of seeds of `gc` that never reach it.
      steps_of_none: the steps of `none` until the best validation loss of `gc`, divided by those of
        `gc`. Without an effect it is as far above 1 as `steps`.
      stable: by how many half-decades the largest stable rate of `gc` lies above that of `none`.
        None if either has none.
      limited: whether either of the two is the largest rate of the grid.
      collapsed: the number of collapsed runs of `none` and of `gc` over the grid.
      by_rate: the difference at each rate of the grid.
      seeds_by_rate: the same for each seed, (rates, seeds).
      controls: for each arm, the difference to none at none's best rate and one above it.
      beyond: for each control, the difference of `gc` to the control at these two rates.
      share_removed: the share of the squared norm of the gradients that GC removes in the first batch.
    """

    task: Task
    none: Tuned
    gc: Tuned
    difference: Difference
    p_equivalence: float
    seeds_needed: int
    steps: Ratio
    never: int
    steps_of_none: Ratio
    stable: int | None
    limited: bool
    collapsed: tuple[int, int]
    by_rate: tuple[AtRate, ...]
    seeds_by_rate: np.ndarray
    controls: dict[Arm, tuple[Difference, Difference]]
    beyond: dict[Arm, tuple[Difference, Difference]]
    share_removed: float

    @property
    def differences(self) -> np.ndarray:
        """The primary difference of each seed, (seeds,)."""
        return self.gc.error - self.none.error


def tune(results: TaskResults, arm: Arm) -> Tuned:
    """Returns an arm at the rates that cross-fitting chooses for it.

    Raises:
      KeyError: results are missing.
    """
    return _tune(results, arm, choose_rates(results.over_grid(arm, "validation_accuracy")))


def measure_effects(results: TaskResults) -> TaskEffects:
    """Returns the outcomes of a task.

    Raises:
      KeyError: results are missing.
    """
    both: tuple[Arm, ...] = ("none", "gc")
    grid = results.grid()
    validation: dict[Arm, np.ndarray] = {
        arm: results.over_grid(arm, "validation_accuracy") for arm in both
    }
    errors = {arm: 100 - results.over_grid(arm, "test_accuracy") for arm in both}
    rows: dict[Arm, np.ndarray] = {arm: choose_rates(validation[arm]) for arm in validation}
    none, gc = (_tune(results, arm, rows[arm]) for arm in both)
    best, above = results.control_numbers()
    by_rate = [
        AtRate(number - best, paired_difference(errors["gc"][i], errors["none"][i]))
        for i, number in enumerate(grid)
    ]
    stable = {arm: _largest_stable(results, arm, validation) for arm in both}
    known = [number for number in stable.values() if number is not None]
    none_steps, gc_steps = _steps(results, rows, "none", "gc")
    own_steps, later_steps = _steps(results, rows, "gc", "none")
    collapsed = [int(results.over_grid(arm, "collapsed").sum()) for arm in both]
    arms: tuple[Arm, ...] = ("gc", *CONTROLS)
    return TaskEffects(
        task=results.task,
        none=none,
        gc=gc,
        difference=paired_difference(gc.error, none.error),
        p_equivalence=equivalence(gc.error, none.error),
        seeds_needed=seeds_needed(gc.error - none.error),
        steps=mean_ratio(gc_steps / none_steps),
        never=int((gc_steps > MEASURES).sum()),
        steps_of_none=mean_ratio(later_steps / own_steps),
        stable=known[1] - known[0] if len(known) == 2 else None,
        limited=grid[-1] in known,
        collapsed=(collapsed[0], collapsed[1]),
        by_rate=tuple(by_rate),
        seeds_by_rate=errors["gc"] - errors["none"],
        controls={
            arm: (_compare(results, arm, "none", best), _compare(results, arm, "none", above))
            for arm in arms
        },
        beyond={
            arm: (_compare(results, "gc", arm, best), _compare(results, "gc", arm, above))
            for arm in CONTROLS
        },
        share_removed=float(results.over_grid("none", "share_removed").mean()),
    )


def _pick(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns the value of each seed at its own row of (rates, seeds, ...)."""
    return values[rows, np.arange(len(rows))]


def _tune(results: TaskResults, arm: Arm, rows: np.ndarray) -> Tuned:
    accuracy, validation, test_loss, train_loss = (
        _pick(results.over_grid(arm, name), rows)
        for name in ("test_accuracy", "validation_accuracy", "test_loss", "train_loss")
    )
    rates = np.asarray([rate(results.numbers(arm)[row]) for row in rows])
    gap = float(validation.mean() - accuracy.mean())
    return Tuned(rates, 100 - accuracy, test_loss, train_loss, gap)


def _compare(results: TaskResults, arm: Arm, base: Arm, number: int) -> Difference:
    """Returns the difference of the test error between two arms at one rate, in points."""
    errors = (100 - results.values(name, number, "test_accuracy") for name in (arm, base))
    return paired_difference(*errors)


def _steps(
    results: TaskResults, rows: dict[Arm, np.ndarray], base: Arm, other: Arm
) -> tuple[np.ndarray, np.ndarray]:
    """Returns when two arms reach the best validation loss of the first, in measurements, (seeds,).

    They count from 1. A run that never does has `MEASURES` + 1.
    """
    first, second = (_pick(results.over_grid(arm, "curve"), rows[arm]) for arm in (base, other))
    reached = second <= first.min(1, keepdims=True)
    return first.argmin(1) + 1, np.where(reached.any(1), reached.argmax(1), MEASURES) + 1


def _largest_stable(
    results: TaskResults, arm: Arm, validation: dict[Arm, np.ndarray]
) -> int | None:
    """Returns the number of the largest rate at which an arm trains, or None if there is none."""
    guess = results.over_grid(arm, "guess_accuracy").mean()
    none = validation["none"]
    needed = (guess + none[best_rate(none)].mean()) / 2
    rows = np.flatnonzero(np.median(validation[arm], 1) >= needed)
    return results.grid()[int(rows[-1])] if len(rows) else None
