"""Gathers the results of a column's runs."""

import dataclasses
from typing import Any

import numpy as np

from examples.experiments.columns import ACCURACY, Column, Metric
from examples.experiments.store import Record, ResultsError, Store


def choose(
    column: Column[Any], store: Store, metric: Metric = ACCURACY
) -> tuple[float, float] | None:
    """Returns a column's learning rate and decay: the best of its grid, without GC, on validation.

    A run that diverged counts as 0. Of equally good points the first one, which has the lower rate,
    is taken. Returns None while runs of the grid are missing.

    Raises:
      ResultsError: a result of the grid lacks the metric.
    """
    if not column.rates:
        return column.config.learning_rate, column.config.weight_decay
    points: dict[tuple[float, float], list[float]] = {}
    for config in column.grid_configs():
        record = store.get(config)
        if record is None:
            return None
        point = points.setdefault((config.learning_rate, config.weight_decay), [])
        point.append(0.0 if "diverged" in record else _value(record, metric.name, store))
    return max(points, key=lambda point: float(np.mean(points[point])))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The results of a column.

    Attributes:
      column: the column.
      arms: the results of each arm, of the seeds that every arm has finished. Entry i has the same
        seed in all arms.
      diverged: the number of diverged runs of each arm. Their seeds are missing from all arms.
      chosen: the learning rate and the decay, or None while the grid is not finished.
    """

    column: Column[Any]
    arms: dict[str, list[Record]]
    diverged: dict[str, int]
    chosen: tuple[float, float] | None

    @property
    def seeds(self) -> int:
        """The number of seeds that every arm has finished."""
        return len(self.arms[self.column.arms[0]])

    def values(self, arm: str, name: str) -> np.ndarray:
        """Returns a number of each finished run, (seeds,)."""
        return np.asarray([record[name] for record in self.arms[arm]])

    def curve(self, arm: str, kind: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the epochs (epochs,) and the values (seeds, epochs) of a "train" or "test" metric."""
        curves = [record["curves"][kind] for record in self.arms[arm]]
        return np.asarray(curves[0]["epoch"]), np.asarray([curve[name] for curve in curves])


def gather(column: Column[Any], store: Store, metric: Metric = ACCURACY) -> Outcome:
    """Gathers the results of a column.

    Raises:
      ResultsError: a result lacks the metric, though its run is finished.
    """
    chosen = choose(column, store, metric)
    seeds: dict[int, dict[str, Record]] = {}
    diverged: dict[str, int] = dict.fromkeys(column.arms, 0)
    for config in column.configs(*chosen) if chosen else ():
        record = store.get(config)
        if record is not None and "diverged" in record:
            diverged[config.gc] += 1
        elif record is not None:
            if column.observe is None:
                _value(record, metric.name, store)
            seeds.setdefault(config.seed, {})[config.gc] = record
    whole = [arms for arms in seeds.values() if len(arms) == len(column.arms)]
    return Outcome(
        column, {arm: [arms[arm] for arms in whole] for arm in column.arms}, diverged, chosen
    )


def _value(record: Record, name: str, store: Store) -> float:
    if name not in record:
        config = record["config"]
        raise ResultsError(
            f"{store.path}: the result of gc {config['gc']}, seed {config['seed']}, learning rate "
            f"{config['learning_rate']:g} lacks {name}. Delete its line, and the next start makes "
            "the run again"
        )
    return record[name]
