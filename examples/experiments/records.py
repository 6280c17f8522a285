"""The results on disk: one line of JSON a run, appended when the run is done."""

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from examples.experiments.cells import Cell, Scale
from examples.runs import Config

RESULTS = Path(__file__).parent / "results"

Record = dict[str, Any]


class RecordsError(Exception):
    """Results that cannot be read or added to; the message names the file."""


class Records:
    """The results of an experiment at a scale: those that are there, and room for more."""

    def __init__(self, experiment: str, scale: Scale, *, results: Path | None = None):
        """Reads all lines; a file that is not there yet has none.

        Args:
          experiment: one of `definitions.EXPERIMENTS`.
          scale: of the runs.
          results: the folder; None for `RESULTS`.

        Raises:
          RecordsError: a line is not the result of a run.
        """
        self.path = _path(experiment, scale, results)
        self._records: dict[Config, Record] = {}
        text = self.path.read_text() if self.path.exists() else ""
        for number, line in enumerate(text.splitlines(keepends=True), 1):
            try:
                if not line.endswith("\n"):
                    raise ValueError("cut short")
                record = json.loads(line)
                # Defaults stand in for settings that came after the result.
                self._records[_config(record["config"])] = record
            except (KeyError, TypeError, ValueError) as error:
                raise RecordsError(
                    f"{self.path}, line {number}: this is no result of a run ({error}); delete it, "
                    "and the run is made again"
                ) from error

    def __len__(self) -> int:
        return len(self._records)

    def get(self, config: Config) -> Record | None:
        """Gives the result of a config, down to its seed, or None."""
        return self._records.get(config)

    def add(self, config: Config, result: Record) -> None:
        """Appends a line, which is whole on the disk when this returns.

        Raises:
          RecordsError: it cannot be written; the lines before it are as they were.
        """
        record = {"config": dataclasses.asdict(config), **result}
        line = json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n"
        try:
            with self.path.open("ab", buffering=0) as stream:
                size = stream.tell()
                try:
                    if stream.write(line.encode()) < len(line):
                        raise OSError("the disk is full")
                    os.fsync(stream.fileno())
                except OSError:
                    stream.truncate(size)
                    raise
        except OSError as error:
            raise RecordsError(f"{self.path}: no result can be added: {error}") from error
        self._records[config] = json.loads(line)


@contextmanager
def alone(experiment: str, scale: Scale) -> Iterator[None]:
    """Holds off other processes that would make the same runs.

    Raises:
      RecordsError: one is at it, or the folder cannot be written to.
    """
    path = _path(experiment, scale, None)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("ab")
    except OSError as error:
        raise RecordsError(f"{path}: no result can be kept here: {error}") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecordsError(f"{path}: another process is at these runs") from None
        yield


def _path(experiment: str, scale: Scale, results: Path | None) -> Path:
    return (results or RESULTS) / scale / f"{experiment}.jsonl"


def _config(fields: dict[str, Any]) -> Config:
    # JSON has lists alone.
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return Config(**values)


def choose(cell: Cell, records: Records) -> tuple[float, float] | None:
    """Gives a cell's learning rate and decay: the best of its grid, without GC, on validation.

    A run that diverged counts as an accuracy of 0. Of equals the first, with the lower rate, is
    taken. None where runs of the grid are missing.
    """
    if not cell.rates:
        return cell.config.learning_rate, cell.config.weight_decay
    points: dict[tuple[float, float], list[float]] = {}
    for config in cell.grid():
        record = records.get(config)
        if record is None:
            return None
        point = points.setdefault((config.learning_rate, config.weight_decay), [])
        point.append(record.get("test_accuracy", 0.0))
    return max(points, key=lambda point: float(np.mean(points[point])))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What is known of a cell.

    Attributes:
      arms: each arm's results of the seeds that every arm has finished; entry i is the same seed
        in all of them.
      diverged: how many of each arm's runs diverged. Their seeds are in no arm.
      chosen: learning rate and decay; None where the grid is not done.
    """

    cell: Cell
    arms: dict[str, list[Record]]
    diverged: dict[str, int]
    chosen: tuple[float, float] | None

    @property
    def seeds(self) -> int:
        return len(self.arms[self.cell.arms[0]])

    def values(self, arm: str, name: str) -> np.ndarray:
        """Gives a metric of the end of each run, (seeds,)."""
        return np.asarray([record[name] for record in self.arms[arm]])

    def curve(self, arm: str, kind: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Gives the epochs and the values (seeds, epochs) of a metric, "train" or "test"."""
        curves = [record["curves"][kind] for record in self.arms[arm]]
        return np.asarray(curves[0]["epoch"]), np.asarray([curve[name] for curve in curves])


def outcome(cell: Cell, records: Records) -> Outcome:
    """Gathers what is known of a cell."""
    chosen = choose(cell, records)
    seeds: dict[int, dict[str, Record]] = {}
    diverged: dict[str, int] = dict.fromkeys(cell.arms, 0)
    for config in cell.runs(*chosen) if chosen else ():
        record = records.get(config)
        if record is not None and "diverged" in record:
            diverged[config.gc] += 1
        elif record is not None:
            seeds.setdefault(config.seed, {})[config.gc] = record
    whole = [s for s in seeds.values() if len(s) == len(cell.arms)]
    return Outcome(cell, {arm: [s[arm] for s in whole] for arm in cell.arms}, diverged, chosen)
