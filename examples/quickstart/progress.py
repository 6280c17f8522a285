"""Reports how far the quickstart is: a bar in a terminal, a line now and then elsewhere."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_FIRST, _INTERVAL = 3, 10  # seconds before the first line, and between two lines


class Report:
    """Shows progress over `total` equal pieces of work; a context manager.

    The time that remains is estimated from the pieces that are done.
    """

    def __init__(self, console: Console, total: int):
        self._console = console
        self._total = total
        self._done = 0
        self._text = ""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total)

    def __enter__(self):
        self._start = time.monotonic()
        self._next_line = self._start + _FIRST
        self._bar.start()
        return self

    def __exit__(self, *_):
        self._bar.stop()

    def describe(self, text: str) -> None:
        """Sets the words beside the bar, and those of the next line."""
        self._text = text
        self._bar.update(self._task, description=text)

    def advance(self) -> None:
        """Counts one piece of work as done, and prints a line if the last one is long ago."""
        self._done += 1
        self._bar.advance(self._task)
        now = time.monotonic()
        if self._console.is_terminal or now < self._next_line or self._done == self._total:
            return
        left = (now - self._start) / self._done * (self._total - self._done)
        self._next_line = now + _INTERVAL
        text = f"; {self._text}" if self._text else ""
        line = f"{self._done / self._total:.0%} done, about {left:.0f} s left{text}"
        self._console.print(line, highlight=False)
