"""Compares other ways to write g - mean(g) with the plain one: their time and their error.

Each form is part of an in-place update of one kernel, as in training. The forms take turns. The
result is printed as a table in Markdown.

    python -m examples.benchmarks.alternatives --help
"""

import dataclasses
import sys

import tyro

from examples.benchmarks import flags


@dataclasses.dataclass(frozen=True)
class Config:
    """Compares other ways to write g - mean(g) with the plain one.

    This takes about two minutes on two quiet cores, and 2.3 GB for the largest kernel.
    """

    shapes: tuple[str, ...] = ("3x3x64x64", "1x1x1024x2048", "3x3x512x512", "25088x4096")
    """The shapes of the kernels, with the outputs last."""
    optimizer: str = "sgdm"
    """The optimizer of the updates: sgdm, adam or adamw."""
    rounds: int = 30
    """The number of rounds, in each of which every form is timed once. At least 6."""
    seconds: float = 15.0
    """The time after which no further round starts for a kernel, once it has had 6."""

    def __post_init__(self):
        for shape in self.shapes:
            parse(shape)
        flags.check_optimizer(self.optimizer)
        if self.rounds < flags.MIN_ROUNDS:
            raise ValueError(
                f"--rounds {self.rounds}: an interval needs at least {flags.MIN_ROUNDS} rounds"
            )
        if not self.seconds >= 0:
            raise ValueError(f"--seconds {self.seconds}: it must be 0 or more")


def parse(shape: str) -> tuple[int, ...]:
    """Turns "3x3x64x64" into a tuple."""
    sizes = shape.split("x")
    if len(sizes) < 2 or not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise ValueError(f"--shapes {shape}: pass at least two sizes, such as 3x3x64x64")
    return tuple(map(int, sizes))


def main(config: Config) -> None:
    # These take seconds, which the help of the program can do without.
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from examples.benchmarks.alternative_forms import FORMS, error, time_forms

    console = Console()
    table = Table("kernel", "form", "time", "error, ulp", "temporaries, kB", box=box.MARKDOWN)
    for shape in config.shapes:
        with console.status(shape):
            sizes = parse(shape)
            ratios, temporaries = time_forms(sizes, config.optimizer, config.rounds, config.seconds)
            for name, ratio in ratios.items():
                worst = kilobytes = "-"
                if name in FORMS:
                    value, kind = max((e, kind) for kind, e in error(FORMS[name], sizes).items())
                    worst, kilobytes = f"{value:.3g} ({kind})", f"{temporaries[name] / 1e3:.1f}"
                low, high = ratio.interval
                time = f"{ratio.median:.3f} ({low:.3f}, {high:.3f})"
                table.add_row(shape, name, time, worst, kilobytes)
    # A table that is copied must not be folded to the width of this terminal.
    Console(width=max(console.width, 120)).print(table)
    console.print(
        f"Time: an in-place update under {config.optimizer} relative to the plain form; the median of "
        "the paired ratios and its 95 % interval. Error: the largest difference to float64, in ulp of "
        "the weight vector's largest gradient, and the kind of gradient that has it: normal, normal "
        "around 100, or constant in each weight vector. Control: the plain form relative to itself."
    )


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, prog="python -m examples.benchmarks.alternatives"))
    except MemoryError as error_:
        sys.exit(f"stopped: {error_}")
