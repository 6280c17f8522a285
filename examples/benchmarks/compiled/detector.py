"""Compiles a Mask R-CNN and its operations for a TPU and an H100, without having one.

The compilers are the real ones. They report what a program would do on the card: temporaries and
kernels, and for a TPU how many cycles they expect of it. Nothing is run and nothing is timed but the
compiler itself.

    python -m examples.benchmarks.compiled.detector --help
"""

import dataclasses
import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from examples.benchmarks import flags
from examples.benchmarks.compiled import cards

Record = dict[str, Any]


def list_programs(images: int) -> tuple[str, ...]:
    """Returns the names of the programs of `detector_programs.make_programs`."""
    return (
        f"training, {images} images",
        "inference, 1 image",
        "NMS of 2000 boxes",
        "NMS of 5 x 2000 boxes",
        "RoIAlign of 512 x 7 x 7",
        "RoIAlign of 512 x 7 x 7, gradient",
        "RoIAlign of 128 x 14 x 14",
        "RoIAlign of 128 x 14 x 14, gradient",
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """Compile a Mask R-CNN and its operations for a TPU and an H100, without having one."""

    cards: tuple[str, ...] = ("v5e", "h100")
    """The cards: any of v5e, v5p and v6e, which are TPUs, and h100."""
    only: str = ""
    """Compile only programs whose name contains this."""
    images: int = 2
    """The images in a batch of training."""
    out: Path = Path("detector.jsonl")
    """JSON lines. Programs that are in it already are not compiled again."""

    def __post_init__(self):
        for name in self.cards:
            cards.find_card(name)
        if self.images < 1:
            raise ValueError(f"--images must be at least 1, not {self.images}")
        if not self.cards:
            raise ValueError(f"--cards needs at least one of {', '.join(cards.CARDS)}")
        names = list_programs(self.images)
        if not any(self.only in name for name in names):
            raise ValueError(f"--only {self.only}: there are {', '.join(names)}")
        if not flags.can_write(self.out):
            raise ValueError(f"--out {self.out}: no file can be written there")


def make_table(records: list[Record], card: str) -> Table:
    """Returns the records of a card as a table."""
    table = Table(title=card, box=box.MARKDOWN)
    columns = ("program", "form", "temporaries, MB", "kernels", "loops", "steps", "GFLOP", "GB")
    for column in (*columns, "10³ cycles", "of loops", "to compile, s"):
        table.add_column(column, justify="left" if column in columns[:2] else "right")
    for row in records:
        if row["card"] != card:
            continue
        if row["refused"]:
            cells = ["too large"] + [""] * 8
        else:
            cells = [
                f"{row['temporary_bytes'] / 1e6:,.1f}",
                str(row["kernels"]),
                str(row["loops"]),
                _format("{}", row["steps"]),
                _format("{:,.1f}", row["flops"], 1e9),
                _format("{:,.2f}", row["bytes"], 1e9),
                _format("{:,.0f}", row["cycles"], 1e3),
                ", ".join(f"{number / 1e3:,.1f}" for number in row["loop_cycles"] or ()),
                f"{row['compile_seconds']:.0f}",
            ]
        table.add_row(row["program"], row["form"], *cells)
    return table


def _format(template: str, value: float | None, unit: float = 1) -> str:
    if value is None:
        return ""
    return template.format(value if unit == 1 else value / unit)


def run(config: Config, console: Console) -> list[Record]:
    """Compiles what is missing, writes each record as soon as it is there, and returns all."""
    # These take seconds, which the help of the program can do without. The same is true in `main`.
    from examples.benchmarks.compiled import detector_programs
    from examples.training.provenance import commit

    records = []
    if config.out.exists():
        records = [json.loads(line) for line in config.out.read_text().splitlines()]
    done = {(row["card"], row["program"], row["form"]) for row in records}
    for card in map(cards.find_card, config.cards):
        compiler = "libtpu" if card.platform == "tpu" else "jax-cuda13-pjrt"
        versions = {name: importlib.metadata.version(name) for name in ("jax", "flax", compiler)}
        for (name, form), make in detector_programs.make_programs(config.images).items():
            if config.only not in name or (card.name, name, form) in done:
                continue
            with console.status(f"{card.name}: {name}, {form}"):
                record = {"kind": "detector", "card": card.name, "program": name, "form": form}
                record |= detector_programs.compile_program(make(), card)
                record |= {"versions": versions, "commit": commit()}
            records.append(record)
            with config.out.open("a") as file:
                file.write(json.dumps(record) + "\n")
    return records


def main(config: Config) -> None:
    import jax

    from examples.benchmarks.compiled import targets

    # The steps of NMS are counted on the CPU, before the compilers are asked.
    jax.config.update("jax_platforms", "cpu")
    for card in config.cards:
        if missing := targets.find_missing(cards.CARDS[card]):
            sys.exit(missing)
    records = run(config, Console())
    for card in config.cards:
        Console(width=180).print(make_table(records, card))


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.benchmarks.compiled.detector"))
