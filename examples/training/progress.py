"""The progress of a run: means of its metrics, its speed, and a bar that shows both."""

import contextlib
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

# How the bar writes the speed, as `Clock.rates` names it.
_SPEED = {"images_per_second": "{:,.0f} images/s", "waiting_for_data": "data {:.0%}"}


class Means:
    """Means of metrics over the steps of an epoch, kept as floats that survive a JSON round trip."""

    def __init__(self, totals: Mapping[str, float] | None = None, count: int = 0):
        self.totals, self.count = dict(totals or {}), count

    def clear(self) -> None:
        """Forgets all values."""
        self.totals, self.count = {}, 0

    def add(self, values: Mapping[str, float]) -> None:
        """Adds the values of one step."""
        self.totals = {name: self.totals.get(name, 0.0) + value for name, value in values.items()}
        self.count += 1

    def means(self) -> dict[str, float]:
        """Returns the mean of each metric so far."""
        return {name: total / self.count for name, total in self.totals.items()}


class Clock:
    """The time that steps took, and the part of it that was spent waiting for data."""

    def __init__(self, seconds: float = 0.0, waiting: float = 0.0, images: int = 0):
        self.seconds, self.waiting, self.images = seconds, waiting, images

    def add(self, seconds: float, waiting: float, images: int) -> None:
        """Adds the times of one step, in seconds, and its number of images."""
        self.seconds += seconds
        self.waiting += waiting
        self.images += images

    def rates(self) -> dict[str, float]:
        """Returns the images a second, and the share of the time spent waiting for data.

        The share is an upper bound of what faster data could save, since the device may still have
        been busy with the step before.
        """
        if not self.seconds:
            return {}
        return {
            "images_per_second": self.images / self.seconds,
            "waiting_for_data": self.waiting / self.seconds,
        }


class Bar(contextlib.AbstractContextManager):
    """A progress bar with metrics, images a second, the share of waiting for data and the time left."""

    def __init__(self, console: Console, done: int, total: int, formats: Mapping[str, str]):
        """Makes a bar of `total` steps.

        Args:
          console: where it is shown.
          done: the number of steps done already.
          total: the number of steps of the run.
          formats: how to write each metric that is shown, such as {"loss": "loss {:.4f}"}.
        """
        self._formats = {**formats, **_SPEED}
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console)
        self._task = self._progress.add_task("compiling", total=total, completed=done)

    def show(self, step: int, place: str, values: Mapping[str, float]) -> None:
        """Moves the bar to a step and writes the place in the run and the values beside it."""
        shown = [
            text.format(values[name]) for name, text in self._formats.items() if name in values
        ]
        self._progress.update(self._task, completed=step, description="  ".join([place, *shown]))

    def __enter__(self):
        self._progress.start()
        return self

    def __exit__(self, *exception) -> None:
        self._progress.stop()
