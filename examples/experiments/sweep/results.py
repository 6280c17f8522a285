"""The results of a task: which runs there are, and which points are missing."""

import dataclasses
from pathlib import Path

import numpy as np

from examples.experiments.store import ResultsError, Store, check_number
from examples.experiments.sweep.arms import ARMS, CONTROLS, Arm
from examples.experiments.sweep.choice import best_rate
from examples.experiments.sweep.rates import rate, rate_number
from examples.experiments.sweep.tasks import SEEDS, TASKS, Task
from examples.experiments.sweep.training import MEASURES, Point

# What every line of results must have.
METRICS = (
    "test_accuracy",
    "test_loss",
    "train_accuracy",
    "train_loss",
    "validation_accuracy",
    "validation_loss",
    "guess_accuracy",
    "curve",
    "share_removed",
    "collapsed",
)
# A grid is extended by at most this many half-decades at each end.
_EXTENSIONS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """The settings of one run, by which its result is found.

    The optimizer, batch size, epochs and steps are those of the task. They are written down so that
    results of an older definition of the task are not taken for those of the present one.
    """

    task: str
    arm: str
    learning_rate: float
    seed: int
    optimizer: str
    batch_size: int
    epochs: int | None
    steps: int | None

    def __post_init__(self):
        if self.task not in TASKS:
            raise ValueError(f"no task is called {self.task!r}")
        if self.arm not in ARMS:
            raise ValueError(f"no arm is called {self.arm!r}")
        rate_number(self.learning_rate)
        if self.seed not in SEEDS:
            raise ValueError(
                f"seed is {self.seed!r}, which is not one of {SEEDS[0]} to {SEEDS[-1]}"
            )


class TaskResults:
    """The results of a task, read from its file."""

    def __init__(self, task: Task, folder: Path):
        """Reads the results of a task.

        Args:
          task: the task.
          folder: the folder of the results of the sweep.

        Raises:
          ResultsError: a line of the file is not a result of this task, or lines start from different
            nets.
        """
        self.task = task
        self.source = TaskResults(TASKS[task.rates_from], folder) if task.rates_from else None
        self.store = Store(folder / f"{task.name}.jsonl", Run, check=self._check)
        # The grid by the number of results, because a report asks for it thousands of times.
        self._grids: dict[int, range] = {}
        nets = {record.get("pretrained") for record in self.store.records()}
        if len(nets) > 1:
            raise ResultsError(
                f"{self.store.path}: lines start from different nets, {', '.join(map(str, nets))}. Delete "
                "those of all but one, and the next start makes the runs again"
            )

    def _check(self, run: Run, record: dict) -> None:
        if run != self.run(run.arm, run.learning_rate, run.seed):
            raise ValueError(
                f"it is of another task, or of an older definition of {self.task.name}"
            )
        for name in METRICS:
            if name not in record:
                raise KeyError(name)
        for name in ("guess_accuracy", "share_removed"):
            check_number(name, record[name])
        if not isinstance(record["collapsed"], bool):
            raise TypeError(f"collapsed is {record['collapsed']!r}, which is not true or false")
        curve = record["curve"]
        if not isinstance(curve, list) or len(curve) != MEASURES:
            raise ValueError(f"curve is not {MEASURES} losses")
        for value in curve:
            check_number("an entry of curve, which is a loss", value)
        # Rounding can make a share of nothing a little negative.
        if not -1e-3 <= record["share_removed"] <= 1:
            raise ValueError(
                f"share_removed is {record['share_removed']!r}, which is not from 0 to 1"
            )

    def run(self, arm: str, learning_rate: float, seed: int) -> Run:
        """Returns the settings of one of the task's runs."""
        task = self.task
        return Run(
            task=task.name,
            arm=arm,
            learning_rate=learning_rate,
            seed=seed,
            optimizer=task.optimizer,
            batch_size=task.batch_size,
            epochs=task.epochs,
            steps=task.steps,
        )

    def missing_seeds(self, point: Point) -> list[int]:
        """Returns the seeds of a point that have no result."""
        runs = {seed: self.run(point.arm, point.rate, seed) for seed in self.task.seeds}
        return [seed for seed, run in runs.items() if self.store.get(run) is None]

    def values(self, arm: Arm, number: int, name: str) -> np.ndarray:
        """Returns a metric of every seed at the rate of this number, (seeds,) or (seeds, measures).

        Raises:
          KeyError: a seed has no result there.
        """
        records = [self.store.get(self.run(arm, rate(number), seed)) for seed in self.task.seeds]
        if any(record is None for record in records):
            raise KeyError(
                f"{self.task.name} has no result of {arm} at {rate(number):g} for a seed"
            )
        return np.asarray([record[name] for record in records if record is not None])

    def over_grid(self, arm: Arm, name: str) -> np.ndarray:
        """Returns a metric of every rate of an arm and every seed, (rates, seeds, ...)."""
        return np.asarray([self.values(arm, number, name) for number in self.numbers(arm)])

    @property
    def waits_for(self) -> str | None:
        """The task whose results decide the rates, as long as they are not complete."""
        return None if self.source is None or self.source.complete else self.source.task.name

    def numbers(self, arm: Arm) -> range:
        """Returns the numbers of the rates at which an arm runs, as far as is known yet.

        These are those of the grid, or two neighbours of another task's grid: the best rate of the
        arm there on validation, and the better one of those beside it.

        Raises:
          KeyError: results of the other task are missing.
        """
        if self.source is None:
            return self.grid()
        numbers = self.source.numbers(arm)
        validation = self.source.over_grid(arm, "validation_accuracy")
        best = best_rate(validation)
        means = dict(enumerate(validation.mean(1).round(9)))
        low = best if means.get(best + 1, -1) > means.get(best - 1, -1) else best - 1
        return numbers[low : low + 2]

    def grid(self) -> range:
        """Returns the numbers of the rates that the task's arms need, as far as is known yet.

        While the best rate of none or of GC on validation is at an end of the complete grid, the
        grid is one half-decade longer at that end.
        """
        results = len(self.store)
        if results not in self._grids:
            self._grids[results] = self._extend_grid()
        return self._grids[results]

    def _extend_grid(self) -> range:
        grid = self.task.grid
        for _ in range(2 * _EXTENSIONS):
            if self._missing(grid):
                return grid
            low, high = grid[0], grid[-1]
            best = {low + best_rate(self._validation(arm, grid)) for arm in ("none", "gc")}
            if low in best:
                low = max(low - 1, self.task.grid[0] - _EXTENSIONS)
            if high in best:
                high = min(high + 1, self.task.grid[-1] + _EXTENSIONS)
            if (low, high) == (grid[0], grid[-1]):
                return grid
            grid = range(low, high + 1)
        return grid

    def _validation(self, arm: Arm, grid: range) -> np.ndarray:
        return np.asarray([self.values(arm, number, "validation_accuracy") for number in grid])

    def _missing(self, grid: range | None = None) -> list[Point]:
        """Returns the missing points of a grid, or of the rates of each arm."""
        arms: dict[Arm, range] = {
            arm: self.numbers(arm) if grid is None else grid for arm in self.task.arms
        }
        points = [
            Point(self.task, arm, rate(number))
            for number in sorted({number for numbers in arms.values() for number in numbers})
            for arm, numbers in arms.items()
            if number in numbers
        ]
        return [point for point in points if self.missing_seeds(point)]

    def control_numbers(self) -> tuple[int, int]:
        """Returns the numbers of the best rate without GC on validation, and of the one above it.

        Raises:
          KeyError: results of the grid are missing.
        """
        best = self.grid()[best_rate(self.over_grid("none", "validation_accuracy"))]
        return best, best + 1

    def missing_points(self) -> list[Point]:
        """Returns the points that can be made now and are missing.

        The controls follow when the grid is complete, since it says at which rates they run. There
        are none as long as the task waits for another one.
        """
        if self.waits_for:
            return []
        missing = self._missing()
        if missing or not self.task.controls:
            return missing
        best, above = self.control_numbers()
        # One above the best rate of an extended grid can be outside of it.
        points = [
            Point(self.task, arm, rate(number))
            for number in (best, above)
            for arm in ("none", "gc", *CONTROLS)
        ]
        return [point for point in points if self.missing_seeds(point)]

    @property
    def complete(self) -> bool:
        """Returns whether all runs of the task have a result."""
        return not (self.waits_for or self.missing_points())
