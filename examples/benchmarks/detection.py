"""Times the operations of detectors beside those of torchvision, on the CPU, in one process.

    python -m examples.benchmarks.detection --help

It needs torch and torchvision: ``pip install torch torchvision``. Both sides work on the same
inputs, which are those of an image of 800 x 1344 pixels. They take turns, and their results are
compared before anything is timed.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from examples.benchmarks import flags
from examples.training.errors import SettingError


@dataclasses.dataclass(frozen=True)
class Config:
    """Time NMS, RoIAlign and the matching of anchors beside torchvision on the CPU."""

    rounds: int = 15
    """Rounds in which each side is timed once, at least 6."""
    only: str = ""
    """Time only the operations whose name contains this."""
    out: Path | None = None
    """A file to which the results are written as JSON lines. It is replaced if it is there."""

    def __post_init__(self):
        if self.rounds < flags.MIN_ROUNDS:
            raise SettingError(f"--rounds must be at least {flags.MIN_ROUNDS}, not {self.rounds}")
        if self.out and not flags.can_write(self.out):
            raise SettingError(f"--out {self.out}: no file can be written there")


def make_table(records: list[dict[str, Any]]) -> Table:
    """Returns the records of operations as a table."""
    table = Table(caption="ratio: the median of the ratios of all rounds")
    for column in ("operation", "torchvision, ms", "ours, ms", "ratio", "95 % interval", "bar"):
        table.add_column(column, justify="left" if column == "operation" else "right")
    for record in records:
        low, high = record["ratio"]["interval"]
        times, ratio = record["milliseconds"], record["ratio"]["median"]
        table.add_row(
            record["operation"],
            f"{times['torchvision']:.1f}",
            f"{times['ours']:.1f}",
            f"{ratio:.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{record['bar']:.2f}" + ("" if ratio <= record["bar"] else ", missed"),
        )
    return table


def main(config: Config) -> None:
    # It imports JAX, which takes seconds that the help of the program can do without.
    from examples.benchmarks import detection_operations as operations

    console = Console()
    makers = operations.make_operations()
    chosen = {name: make for name, make in makers.items() if config.only in name}
    if not chosen:
        raise SettingError(f"--only {config.only}: there are {', '.join(makers)}")
    records = [operations.describe_machine()]
    for name, make in chosen.items():
        with console.status(name):
            records.append(operations.compare(make(), config.rounds))
    if config.out:
        config.out.write_text("".join(json.dumps(record) + "\n" for record in records))
    console.print(make_table(records[1:]))


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, prog="python -m examples.benchmarks.detection"))
    except SettingError as error:
        sys.exit(f"cannot start: {error}")
