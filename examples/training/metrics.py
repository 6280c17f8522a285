"""What a run says of itself: lines of JSON, TensorBoard events, a progress bar, a picture."""

import contextlib
import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from tensorboardX.proto import event_pb2, summary_pb2
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar

Line = dict[str, Any]
# These classes are made on import, where no type checker sees them.
_events, _summaries = cast(Any, event_pb2), cast(Any, summary_pb2)


class Log(contextlib.AbstractContextManager):
    """The lines of a run: metrics.jsonl for programs, TensorBoard's events for eyes.

    metrics.jsonl holds no times and no names of machines: two runs of one config on machines of
    one kind write the same bytes, interrupted or not.
    """

    def __init__(self, folder: Path, *, step: int = 0, offset: int = 0, writes: bool = True):
        """Opens the log and drops what was logged after a checkpoint.

        Args:
          folder: of the run.
          step: the checkpoint's.
          offset: what `offset` gave then; 0 at the start.
          writes: False in all processes but one.

        Raises:
          ValueError: the file is shorter than it was at the checkpoint.
          OSError: the folder cannot be written to.
        """
        self._file = self._events = None
        if not writes:
            return
        path = folder / "metrics.jsonl"
        self._file = path.open("a+b")
        if path.stat().st_size < offset:
            self._file.close()
            raise ValueError(f"{path} is shorter than it was at step {step}: was it edited?")
        self._file.truncate(offset)
        (folder / "tensorboard").mkdir(exist_ok=True)
        # Not SummaryWriter: its thread dies of a full disk, and the run then waits for it for ever.
        name = f"events.out.tfevents.{time.time():.0f}.{os.getpid()}"
        self._events = RecordWriter(str(folder / "tensorboard" / name))
        self._record(file_version="brain.Event:2")
        # TensorBoard then forgets what earlier files have from this step on.
        start = _events.SessionLog(status=_events.SessionLog.START)
        self._record(step=step + 1, session_log=start)

    def _record(self, **fields: Any) -> None:
        if self._events is not None:
            event = _events.Event(wall_time=time.time(), **fields)
            self._events.write(event.SerializeToString())
            self._events.flush()

    def write(self, line: Line, times: Mapping[str, float] | None = None) -> None:
        """Adds a line; its numbers but "step" and "epoch" go to TensorBoard, and the times too."""
        if self._file is None:
            return
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        values = [
            scalar(f"{line['kind']}/{name}", value).value[0]
            for name, value in (line | dict(times or {})).items()
            if name not in ("kind", "step", "epoch")
        ]
        self._record(step=line["step"], summary=_summaries.Summary(value=values))

    def offset(self) -> int:
        """Gives the length of metrics.jsonl, now safe on the disk."""
        if self._file is None:
            return 0
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def lines(self) -> list[Line]:
        """Reads all lines back."""
        if self._file is None:
            return []
        self._file.seek(0)
        return [json.loads(line) for line in self._file]

    def __exit__(self, *exception) -> None:
        for file in (self._events, self._file):
            if file is not None:
                # All is written already, or that it cannot be has been said.
                with contextlib.suppress(OSError):
                    file.close()


class Means:
    """Means of metrics over the steps of an epoch, in numbers that a record keeps exactly."""

    def __init__(self, totals: Mapping[str, float] | None = None, count: int = 0):
        self.totals, self.count = dict(totals or {}), count

    def clear(self) -> None:
        """Starts anew."""
        self.totals, self.count = {}, 0

    def add(self, values: Mapping[str, float]) -> None:
        """Counts one step's values in."""
        self.totals = {name: self.totals.get(name, 0.0) + value for name, value in values.items()}
        self.count += 1

    def means(self) -> dict[str, float]:
        """Gives the means so far."""
        return {name: total / self.count for name, total in self.totals.items()}


class Clock:
    """How long steps took, and which part of it passed in waiting for data."""

    def __init__(self, seconds: float = 0.0, waiting: float = 0.0, images: int = 0):
        self.seconds, self.waiting, self.images = seconds, waiting, images

    def add(self, seconds: float, waiting: float, images: int) -> None:
        """Counts one step in."""
        self.seconds += seconds
        self.waiting += waiting
        self.images += images

    def rates(self) -> dict[str, float]:
        """Gives images a second and the share of the time in which the step had no data.

        The share is an upper bound of what faster data could save: the device may still have
        been busy with the step before.
        """
        if not self.seconds:
            return {}
        return {
            "images_per_second": self.images / self.seconds,
            "waiting_for_data": self.waiting / self.seconds,
        }


class Bar(contextlib.AbstractContextManager):
    """A progress bar with loss, accuracy, images/s, the share of waiting for data and time left."""

    def __init__(self, console: Console, done: int, total: int):
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console)
        self._task = self._progress.add_task("compiling", total=total, completed=done)

    def show(self, step: int, place: str, values: Mapping[str, float]) -> None:
        """Moves the bar to a step and writes what is known beside it."""
        texts = {
            "loss": "loss {:.4f}",
            "accuracy": "accuracy {:.1f} %",
            "images_per_second": "{:,.0f} images/s",
            "waiting_for_data": "data {:.0%}",
        }
        shown = [text.format(values[name]) for name, text in texts.items() if name in values]
        self._progress.update(self._task, completed=step, description="  ".join([place, *shown]))

    def __enter__(self):
        self._progress.start()
        return self

    def __exit__(self, *exception) -> None:
        self._progress.stop()


def non_finite(values: Mapping[str, float]) -> str | None:
    """Names the first value that is no finite number."""
    return next((f"{k} is {v}" for k, v in values.items() if not math.isfinite(v)), None)


def draw_curves(lines: Iterable[Line], path: Path) -> None:
    """Draws loss and accuracy by epoch, of the lines of the kinds "train" and "test"."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    lines = list(lines)
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for kind, color in (("train", "#555555"), ("test", "#0072b2")):
            points = [(line["epoch"], line[name]) for line in lines if line["kind"] == kind]
            if points:
                axes.plot(*zip(*points, strict=True), ".-", color=color, label=kind)
        unit = ", %" if name == "accuracy" else ""
        axes.set(title=name + unit, xlabel="epoch", yscale="log" if name == "loss" else "linear")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    figure.savefig(path, dpi=120)
