"""Gathers the results of a column's runs."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from examples.experiments.columns import ACCURACY, Column, Metric
from examples.experiments.store import Record, Store
from examples.experiments.sweep.choice import choose_rates


def choose(
    column: Column[Any], store: Store, metric: Metric = ACCURACY
) -> dict[str, list[float]] | None:
    """Returns the learning rate of each arm and seed: the best of the grid by the other seeds.

    Returns None for a column without a grid, and as long as runs of the grid are missing.

    Raises:
      ResultsError: a result of the grid lacks the metric.
    """
    if not column.rates:
        return None
    chosen = {}
    for arm in column.arms:
        runs = [
            [column.grid_config(arm, rate, seed) for seed in column.seed_numbers]
            for rate in column.rates
        ]
        if any(store.get(config) is None for row in runs for config in row):
            return None
        values = [[store.value(config, metric.name) for config in row] for row in runs]
        chosen[arm] = [column.rates[row] for row in choose_rates(np.asarray(values))]
    return chosen


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The results of a column.

    Attributes:
      column: the column.
      arms: the results of each arm, of the seeds that every arm has finished. Entry i has the same
        seed in all arms.
      diverged: the number of diverged runs of each arm.
      rates: the learning rates of each arm, in the order of the seeds; empty if none was chosen.
    """

    column: Column[Any]
    arms: dict[str, list[Record]]
    diverged: dict[str, int]
    rates: dict[str, list[float]]

    @property
    def seeds(self) -> int:
        """The number of seeds that every arm has finished."""
        return len(self.arms[self.column.arms[0]])

    def values(self, arm: str, name: str) -> np.ndarray:
        """Returns a number of each finished run, (seeds,)."""
        return np.asarray([record[name] for record in self.arms[arm]])

    def curve(self, arm: str, kind: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the epochs (epochs,) and the values (seeds, epochs) of a "train" or "test" metric.

        A run that diverged has NaN in the place of its values.
        """
        curves = [record.get("curves", {}).get(kind) for record in self.arms[arm]]
        epochs = next((curve["epoch"] for curve in curves if curve), [])
        lost = [float("nan")] * len(epochs)
        return np.asarray(epochs), np.asarray([curve[name] if curve else lost for curve in curves])


def gather(column: Column[Any], store: Store, metric: Metric = ACCURACY) -> Outcome:
    """Gathers the results of a column. A column with a grid has none before all of its runs are made.

    Raises:
      ResultsError: a result lacks the metric, though its run is finished.
    """
    chosen = choose(column, store, metric)
    if chosen is not None or not column.rates:
        outcome = _gather_runs(column, column.configs(chosen), store, metric)
        if not column.rates or outcome.seeds == column.seeds:
            return dataclasses.replace(outcome, rates=chosen or {})
    return _gather_runs(column, (), store, metric)


def _gather_runs(
    column: Column[Any], configs: Iterable[Any], store: Store, metric: Metric
) -> Outcome:
    """Gathers the results of some runs of a column.

    Runs that diverged stay in, with the metrics of guessing, unless the column observes something.

    Args:
      column: the column.
      configs: the settings of the runs.
      store: the results.
      metric: what every run must have measured, unless the column observes something else.
    """
    seeds: dict[int, dict[str, Record]] = {}
    diverged: dict[str, int] = dict.fromkeys(column.arms, 0)
    for config in configs:
        record = store.get(config)
        if record is None:
            continue
        lost = "diverged" in record
        diverged[config.gc] += lost
        if lost and column.observe:
            continue
        if column.observe is None:
            store.value(config, metric.name)
        seeds.setdefault(config.seed, {})[config.gc] = record
    whole = [arms for arms in seeds.values() if len(arms) == len(column.arms)]
    return Outcome(
        column,
        {arm: [arms[arm] for arms in whole] for arm in column.arms},
        diverged=diverged,
        rates={},
    )


def estimate_seconds(column: Column[Any], store: Store, metric: Metric = ACCURACY) -> float | None:
    """Returns the seconds that a column's missing runs will take, from those that were made.

    Returns None if some are missing and none was made, because nothing is known then.
    """
    chosen = choose(column, store, metric)
    known = [*column.grid_configs()]
    missing = sum(store.get(config) is None for config in known)
    if column.rates and chosen is None:
        missing += column.seeds * len(column.arms)
    else:
        reported = [*column.configs(chosen)]
        missing += sum(store.get(config) is None for config in reported)
        known += reported
    seconds = [record["seconds"] for config in known if (record := store.get(config))]
    if missing and not seconds:
        return None
    return missing * float(np.median(seconds)) if missing else 0.0
