"""Reads the results that were made before both arms of a column were tuned.

Two seeds, without GC, chose the learning rate and the decay, and GC took them over. These results are
shown, and marked, until the runs of PLAN.md take their place.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from examples.experiments.columns import Column, Earlier, Metric, with_hyperparameters
from examples.experiments.store import Store

_GRID_SEEDS = (1000, 1001)


class EarlierRuns(NamedTuple):
    """The older runs of a column.

    Attributes:
      grid: those of its grid.
      configs: those that are reported; none as long as runs of the grid are missing.
      rate: the learning rate of these; NaN as long as runs of the grid are missing.
    """

    grid: list[Any]
    configs: list[Any]
    rate: float


def find_earlier(column: Column[Any], old: Earlier, store: Store, metric: Metric) -> EarlierRuns:
    """Returns the older runs of a column, the reported ones at the point that was best without GC.

    A run of the grid that diverged counts as 0.

    Raises:
      ResultsError: a result of the grid lacks the metric.
    """
    points: dict[tuple[float, float], list[float]] = {}
    grid, missing = [], False
    for point, config in _grid(column, old):
        grid.append(config)
        record = store.get(config)
        if record is None:
            missing = True
            continue
        value = 0.0 if "diverged" in record else store.value(config, metric.name)
        points.setdefault(point, []).append(value)
    if missing:
        return EarlierRuns(grid, [], float("nan"))
    rate, decay = max(points, key=lambda point: float(np.mean(points[point])))
    return EarlierRuns(grid, [*_configs(column, old, rate, decay)], rate)


def _grid(column: Column[Any], old: Earlier) -> Iterator[tuple[tuple[float, float], Any]]:
    for rate, decay, seed in itertools.product(old.rates, old.decays, _GRID_SEEDS):
        config = with_hyperparameters(column.config, rate, decay)
        fields: dict[str, Any] = {"validation": column.validation, **old.changes}
        yield (rate, decay), dataclasses.replace(config, gc="off", seed=seed, **fields)


def _configs(column: Column[Any], old: Earlier, rate: float, decay: float) -> Iterator[Any]:
    config = with_hyperparameters(column.config, rate, decay)
    for seed, arm in itertools.product(range(old.seeds), old.arms or column.arms):
        yield dataclasses.replace(config, gc=arm, seed=seed, **old.changes)
