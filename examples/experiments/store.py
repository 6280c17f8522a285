"""The results that runs leave: one JSON line each, with its settings and where it was made."""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from examples.classification.config import Config
from examples.experiments.columns import Scale
from examples.training.errors import SettingError, UserError
from examples.training.files import exclusive_lock
from examples.training.settings import from_json

RESULTS = Path(__file__).parent / "results"

Record = dict[str, Any]


class ResultsError(UserError):
    """Results cannot be read or added to. The message names the file, and the line if there is one."""


def results_path(results: Path, experiment: str, scale: Scale) -> Path:
    """Returns the file of an experiment's results at a scale."""
    return results / scale / f"{experiment}.jsonl"


class Store:
    """The results of an experiment at a scale, by the settings of their runs."""

    def __init__(
        self,
        path: Path,
        config_type: type[Any] = Config,
        check: Callable[[Any, Record], None] | None = None,
    ):
        """Reads all lines of a file; a file that does not exist has none.

        Args:
          path: the file, as `results_path` names it.
          config_type: the type of the runs' settings, a frozen dataclass.
          check: called with the settings and the result of each line. It raises a KeyError, a
            TypeError or a ValueError if such a run cannot have such a result.

        Raises:
          ResultsError: a line is not the result of a run, or two lines are of the same run.
        """
        self.path = path
        self._records: dict[Any, Record] = {}
        self._lines: dict[Any, int] = {}
        try:
            lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        except OSError as error:
            raise ResultsError(f"{path}: the results cannot be read: {error}") from error
        for number, line in enumerate(lines, 1):
            try:
                config, record = _parse(line, config_type)
                if config in self._records:
                    raise ValueError("an earlier line has the result of the same run")
                if check is not None:
                    check(config, record)
            except (
                KeyError,
                TypeError,
                ValueError,
                OverflowError,
                RecursionError,
                SettingError,
            ) as error:
                raise _bad_line(path, number, error) from error
            self._keep(config, record)

    def _keep(self, config: Any, record: Record) -> None:
        self._records[config] = record
        self._lines[config] = len(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def get(self, config: Any) -> Record | None:
        """Returns the result of the run with exactly these settings, or None."""
        return self._records.get(config)

    def __iter__(self) -> Iterator[Any]:
        """Iterates over the settings of all runs, in the order of their lines."""
        return iter(self._records)

    def value(self, config: Any, name: str) -> float:
        """Returns a number of a run that has a result.

        Raises:
          ResultsError: the result lacks the number. A run that diverged has the one of guessing.
        """
        try:
            check_number(name, self._records[config][name])
        except (KeyError, ValueError) as error:
            raise _bad_line(self.path, self._lines[config], error) from error
        return self._records[config][name]

    def records(self) -> list[Record]:
        """Returns the results of all runs, in the order of their lines."""
        return list(self._records.values())

    def add(self, config: Any, result: Record) -> None:
        """Appends a result. When this returns, the whole line is on the disk.

        Raises:
          ResultsError: the line cannot be written; the lines before it are unchanged.
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
            raise ResultsError(f"{self.path}: no result can be added: {error}") from error
        self._keep(config, json.loads(line))


def require_same_net(path: Path, starts: set[str | None], digest: str, folder: Path) -> None:
    """Checks that results start from the net that is in a folder, and not from another one.

    Args:
      path: the file of the results.
      starts: the digests of the nets that its results start from.
      digest: that of the net in the folder.
      folder: the folder.

    Raises:
      ResultsError: a result starts from another net.
    """
    if starts - {digest}:
        raise ResultsError(
            f"{path}: results start from another net than the one in {folder}. Put that net back, or "
            "delete their lines to make the runs again"
        )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps other processes from making the runs of the same file of results.

    Raises:
      ResultsError: another process makes them, or the folder cannot be written to.
    """
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(exclusive_lock(path))
        except BlockingIOError:
            raise ResultsError(f"{path}: another process is making these runs") from None
        except OSError as error:
            raise ResultsError(f"{path}: no result can be kept here: {error}") from error
        yield


def _bad_line(path: Path, number: int, error: Exception) -> ResultsError:
    reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return ResultsError(
        f"{path}, line {number}: this is not the result of a run: {reason}. Delete the line, and the "
        "next start makes the run again"
    )


def _parse(line: bytes, config_type: type[Any]) -> tuple[Any, Record]:
    if not line.endswith(b"\n"):
        raise ValueError("it is cut short")
    record = json.loads(line)
    if not isinstance(record, dict):
        raise TypeError(f"it is a {type(record).__name__} and not an object")
    if not isinstance(record["config"], dict):
        raise TypeError(f"config is {record['config']!r} and not an object")
    # A setting that is newer than the result has its default.
    config = from_json(config_type, record["config"])
    if not isinstance(record["seconds"], int | float) or not 0 <= record["seconds"] < math.inf:
        raise ValueError(f"seconds is {record['seconds']!r}")
    for name, value in record.items():
        if name.startswith(("train_", "validation_", "test_")):
            check_number(name, value)
    return config, record


def check_number(name: str, value: Any) -> None:
    """Checks a number of a result by its name.

    Raises:
      ValueError: it is not finite, or not possible for a number of this name.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}, which is not a finite number")
    if name.endswith("accuracy") and not 0 <= value <= 100:
        raise ValueError(f"{name} is {value!r}, which is not a percentage")
    if value < 0 and name.endswith("loss"):
        raise ValueError(f"{name} is {value!r}, which is negative")
    if "_AP" in name and not 0 <= value <= 1:
        raise ValueError(f"{name} is {value!r}, which is not from 0 to 1")
