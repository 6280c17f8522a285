"""The log of a run: lines of JSON for programs, TensorBoard events for people."""

import contextlib
import hashlib
import itertools
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, cast

from tensorboardX.proto import event_pb2, summary_pb2
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar

from examples.training.errors import StoppedError

Line = dict[str, Any]
# These classes are generated on import, so type checkers do not know them.
_events, _summaries = cast(Any, event_pb2), cast(Any, summary_pb2)


class Place(TypedDict):
    """The length of metrics.jsonl at some moment, and the SHA-256 digest of what it held."""

    bytes: int
    sha256: str


class Log(contextlib.AbstractContextManager):
    """Writes the lines of a run to metrics.jsonl, and their numbers to TensorBoard.

    metrics.jsonl holds neither times nor names of machines, so two runs of the same settings on the
    same kind of machine write the same bytes, whether they were interrupted or not.
    """

    def __init__(
        self, folder: Path, *, step: int = 0, place: Place | None = None, writes: bool = True
    ):
        """Opens the log and drops the lines that were written after a checkpoint.

        Lines that no checkpoint covers are not dropped, but moved to a file of their own, which
        `moved` names then.

        Args:
          folder: the folder of the run.
          step: the step of the checkpoint.
          place: what `place` returned at that checkpoint; None at the start of a run.
          writes: False in all processes but one, which then write nothing.

        Raises:
          StoppedError: the file does not begin with what it held at the checkpoint.
          OSError: the folder cannot be written to.
        """
        self.moved: Path | None = None
        self._file = self._events = None
        self._digest = hashlib.sha256()
        if not writes:
            return
        path = folder / "metrics.jsonl"
        size = place["bytes"] if place else 0
        if not size and path.is_file() and path.stat().st_size:
            self.moved = next(
                other
                for number in itertools.count(1)
                if not (other := folder / f"metrics.{number}.jsonl").exists()
            )
            path.rename(self.moved)
        self._file = path.open("a+b")
        self._file.seek(0)
        self._digest.update(self._file.read(size))
        if place and self._digest.hexdigest() != place["sha256"]:
            self._file.close()
            raise StoppedError(
                f"{path} does not begin with the {size} bytes that it held at step {step}. Put the "
                "file of that time back, or delete the folder of the run to start again"
            )
        self._file.truncate(size)
        (folder / "tensorboard").mkdir(exist_ok=True)
        # SummaryWriter writes in a thread that dies when the disk is full; close() then hangs.
        name = f"events.out.tfevents.{time.time():.0f}.{os.getpid()}"
        self._events = RecordWriter(str(folder / "tensorboard" / name))
        self._record(file_version="brain.Event:2")
        # This makes TensorBoard ignore what earlier files hold from this step on.
        start = _events.SessionLog(status=_events.SessionLog.START)
        self._record(step=step + 1, session_log=start)

    def _record(self, **fields: Any) -> None:
        if self._events is not None:
            event = _events.Event(wall_time=time.time(), **fields)
            self._events.write(event.SerializeToString())
            self._events.flush()

    def write(self, line: Line, times: Mapping[str, float] | None = None) -> None:
        """Adds a line to the file, and its numbers and the times to TensorBoard."""
        if self._file is None:
            return
        content = json.dumps(line).encode() + b"\n"
        self._file.write(content)
        self._file.flush()
        self._digest.update(content)
        values = [
            scalar(f"{line['kind']}/{name}", value).value[0]
            for name, value in (line | dict(times or {})).items()
            if name not in ("kind", "step", "epoch")
        ]
        self._record(step=line["step"], summary=_summaries.Summary(value=values))

    def place(self) -> Place:
        """Flushes metrics.jsonl to the disk, and returns how long it is and what it holds."""
        size = 0
        if self._file is not None:
            os.fsync(self._file.fileno())
            size = os.fstat(self._file.fileno()).st_size
        return {"bytes": size, "sha256": self._digest.hexdigest()}

    def lines(self) -> list[Line]:
        """Returns all lines of the file.

        Raises:
          StoppedError: the file was changed by another program.
        """
        if self._file is None:
            return []
        self._file.seek(0)
        content = self._file.read()
        if hashlib.sha256(content).digest() != self._digest.digest():
            raise StoppedError(
                f"{self._file.name} was changed by another program during the run. Put it back "
                "as it was, or delete the folder of the run to start again"
            )
        return [json.loads(line) for line in content.splitlines()]

    def __exit__(self, *exception) -> None:
        for file in (self._events, self._file):
            if file is not None:
                # Everything is flushed already, or the write error has been raised.
                with contextlib.suppress(OSError):
                    file.close()


def non_finite(values: Mapping[str, float]) -> str | None:
    """Returns "NAME is VALUE" for all values that are not finite, or None if there are none."""
    return ", ".join(f"{k} is {v}" for k, v in values.items() if not math.isfinite(v)) or None
