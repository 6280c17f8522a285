"""How much of a whole training step GC takes on a card, by a roofline.

A roofline is a bound by the published rates of a card, not a measurement. The forward and backward
pass take at least FLOPs ÷ matrix rate, and at least bytes ÷ bandwidth. XLA counts the FLOPs. The bytes
are those that the program reads and writes, as the card's compiler makes it. GC takes one more read of
the gradients, bytes ÷ bandwidth, and less where a TPU has them in its fast memory already. The latency
of collectives and of kernel launches is not in it.

    python -m examples.benchmarks.compiled.roofline --help
"""

import dataclasses
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from examples.benchmarks import flags
from examples.benchmarks.compiled.cards import CARDS, Card, find_card

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Config:
    """Bound the share of GC in a training step: ResNet-50 on one chip, Llama 2 7B on 256.

    The compilers take several minutes for each card. A run that was stopped continues where it was.
    """

    cards: tuple[str, ...] = tuple(CARDS)
    """The cards: any of v5e, v5p and v6e, which are TPUs, and h100."""
    images: int = 128
    """Images of 224x224 in a step of ResNet-50 on one chip."""
    length: int = 4096
    """Tokens in the one sequence that each of 256 chips has."""
    out: Path = Path("roofline.jsonl")
    """JSON lines. What is in it already is not compiled again."""

    def __post_init__(self):
        for name in self.cards:
            find_card(name)
        for flag in ("images", "length"):
            if getattr(self, flag) < 2:
                raise ValueError(f"--{flag} {getattr(self, flag)}: at least 2 is needed")
        if not flags.can_write(self.out):
            raise ValueError(f"--out {self.out}: no file can be written there")


def bound(card: Card, flops: float, traffic: float, gradient_bytes: float) -> Record:
    """The step's least time by FLOPs and by bytes, that of one more read, and the share of the read."""
    by_flops, by_bytes = flops / card.flops_per_second, traffic / card.bytes_per_second
    extra = gradient_bytes / card.bytes_per_second
    return {
        "flops": flops,
        "bytes": traffic,
        "gradient_bytes": gradient_bytes,
        "flops_milliseconds": 1e3 * by_flops,
        "bytes_milliseconds": 1e3 * by_bytes,
        "gc_milliseconds": 1e3 * extra,
        "share": extra / max(by_flops, by_bytes),
    }


def make_table(records: list[Record]) -> Table:
    table = Table(
        *("card", "step", "chips", "TFLOPs", "GB", "by FLOPs, ms", "by bytes, ms"),
        *("GC at most, ms", "share at most"),
        title="GC beside forward and backward, by a roofline (a bound, not a measurement)",
        box=box.MARKDOWN,
    )
    for row in records:
        table.add_row(
            row["card"],
            row["step"],
            str(row["chips"]),
            f"{row['flops'] / 1e12:.3g}",
            f"{row['bytes'] / 1e9:,.1f}",
            f"{row['flops_milliseconds']:.3g}",
            f"{row['bytes_milliseconds']:.3g}",
            f"{row['gc_milliseconds']:.3g}",
            f"{100 * row['share']:.2f} %",
        )
    return table


def main(config: Config) -> None:
    # These take seconds, which the help of the program can do without.
    import jax

    from examples.benchmarks.compiled import report, steps, targets

    chosen = [find_card(name) for name in config.cards]
    for card in chosen:
        if missing := targets.find_missing(card):
            sys.exit(missing)
    jax.config.update("jax_platforms", "cpu")
    try:
        records = report.read_records(config.out)
    except ValueError as error:
        sys.exit(str(error))
    done = {(record["card"], record["step"]) for record in records}
    config.out.write_text("".join(json.dumps(record) + "\n" for record in records))
    console = Console(width=160)
    chosen_steps = steps.create_steps(config.images, config.length)
    with config.out.open("a") as file:
        for step, card in itertools.product(chosen_steps, chosen):
            if (card.name, step.name) in done:
                continue
            console.print(f"compiling for {card.name}: {step.name}", highlight=False)
            counts = (step.count_flops(), step.count_traffic(card), step.gradient_bytes)
            record = {"kind": "roofline", "card": card.name, "step": step.name}
            record |= {"chips": step.chips} | bound(card, *counts)
            records.append(record)
            file.write(json.dumps(record) + "\n")
            file.flush()
    console.print(make_table(records))


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.benchmarks.compiled.roofline"))
