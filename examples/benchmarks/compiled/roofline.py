"""How much of a whole training step GC takes on a card, by a roofline.

A roofline is a bound by the published rates of a card, not a measurement. The forward and backward
pass take at least FLOPs ÷ matrix rate, and at least bytes ÷ bandwidth. XLA counts the FLOPs. The bytes
are those that the program reads and writes, as the card's compiler makes it. GC takes one more read of
the gradients, bytes ÷ bandwidth, and less where a TPU has them in its fast memory already. The latency
of collectives and of kernel launches is not in it.

    python -m examples.benchmarks.compiled.roofline --help
"""

import dataclasses
import math
import sys
from pathlib import Path

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from examples.benchmarks import flags
from examples.benchmarks.compiled import records
from examples.benchmarks.compiled.cards import CARDS, Card, find_card

_KEYS = ("card", "step", "chips", "flops", "bytes", "gradient_bytes", "share")


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
    compile: bool = True
    """Compile for the cards and count bytes. With --no-compile only FLOPs are counted, which takes
    seconds and needs no compiler, and the bound of the share is larger."""
    out: Path = Path("roofline.jsonl")
    """JSON lines. What is in it already is not counted again."""

    def __post_init__(self):
        if not self.cards:
            raise ValueError(f"--cards needs at least one name; there are {', '.join(CARDS)}")
        for name in self.cards:
            find_card(name)
        for flag in ("images", "length"):
            if getattr(self, flag) < 2:
                raise ValueError(f"--{flag} {getattr(self, flag)}: at least 2 is needed")
        if not flags.can_write(self.out):
            raise ValueError(f"--out {self.out}: no file can be written there")


def bound(card: Card, flops: float, traffic: float | None, gradient_bytes: float) -> records.Record:
    """The step's least time by FLOPs and by bytes, that of one more read, and the share of the read.

    Without a count of the bytes, the least time is that by FLOPs.
    """
    by_flops = flops / card.flops_per_second
    by_bytes = None if traffic is None else traffic / card.bytes_per_second
    extra = gradient_bytes / card.bytes_per_second
    return {
        "flops": flops,
        "bytes": traffic,
        "gradient_bytes": gradient_bytes,
        "flops_milliseconds": 1e3 * by_flops,
        "bytes_milliseconds": None if by_bytes is None else 1e3 * by_bytes,
        "gc_milliseconds": 1e3 * extra,
        "share": extra / max(by_flops, by_bytes or 0),
    }


def make_table(rows: list[records.Record]) -> Table:
    table = Table(
        *("card", "step", "chips", "TFLOPs", "GB", "by FLOPs, ms", "by bytes, ms"),
        *("GC at most, ms", "share at most"),
        title="GC beside forward and backward, by a roofline (a bound, not a measurement)",
        box=box.MARKDOWN,
    )
    order = list(CARDS)
    for row in sorted(rows, key=lambda row: (row["chips"], row["step"], order.index(row["card"]))):
        table.add_row(
            row["card"],
            row["step"],
            str(row["chips"]),
            f"{row['flops'] / 1e12:.3g}",
            "-" if row["bytes"] is None else f"{row['bytes'] / 1e9:,.1f}",
            f"{row['flops_milliseconds']:,.1f}",
            "-" if row["bytes"] is None else f"{row['bytes_milliseconds']:,.1f}",
            f"{row['gc_milliseconds']:.3g}",
            f"{100 * row['share']:.2f} %",
        )
    return table


def run(config: Config, console: Console) -> list[records.Record]:
    """Compiles what is missing, writes each record as soon as it is there, and returns all."""
    # These take seconds, which the help of the program can do without. The same is true in `main`.
    import jax

    from examples.benchmarks.compiled import steps, targets
    from examples.training.provenance import commit

    found = records.read(config.out, "roofline", _KEYS)
    records.check_versions(config.out, found)
    done = {
        (record["card"], record["step"])
        for record in found
        if record["bytes"] is not None or not config.compile
    }
    records.write(config.out, found)  # without a line that was cut off
    for step in steps.create_steps(config.images, config.length):
        left = [card for card in map(find_card, config.cards) if (card.name, step.name) not in done]
        flops = step.count_flops() if left else math.nan
        for card in left:
            traffic = None
            if config.compile:
                targets.check_memory(steps.COMPILER_BYTES)
                console.print(f"compiling for {card.name}: {step.name}", highlight=False)
                try:
                    traffic = step.count_traffic(card)
                except jax.errors.JaxRuntimeError as error:
                    if "RESOURCE_EXHAUSTED" not in str(error):
                        raise
                    console.print(
                        f"left out: {card.name}: {step.name} does not fit into its memory"
                    )
                    continue
            record = {"kind": "roofline", "card": card.name, "step": step.name, "chips": step.chips}
            record |= bound(card, flops, traffic and traffic.by_text, step.gradient_bytes)
            record["bytes_by_compiler"] = traffic and traffic.by_compiler
            platform = card.platform if config.compile else None
            record |= {"versions": records.find_versions(platform), "commit": commit()}
            same = (card.name, step.name)
            found = [its for its in found if (its["card"], its["step"]) != same] + [record]
            records.write(config.out, found)
    return found


def main(config: Config) -> None:
    import jax

    from examples.benchmarks.compiled import targets

    for card in map(find_card, config.cards):
        if config.compile and (missing := targets.find_missing(card)):
            sys.exit(missing)
    jax.config.update("jax_platforms", "cpu")
    console = Console(width=160)
    try:
        found = run(config, console)
    except ValueError as error:
        sys.exit(str(error))
    console.print(make_table(found))


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.benchmarks.compiled.roofline"))
