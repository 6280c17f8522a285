"""Measures what GC costs, compared with no GC, optax.centralize and the naive one-liner.

Each update step is compiled for shapes. Its bytes moved, its temporaries, and its seconds to trace and
to compile are counted. Then it is timed in place. The arms take turns, and a second arm without GC
shows how far two equal programs differ by chance. After that come whole training steps and the
traffic between eight virtual devices. Run nothing else on the machine, or the times are worthless.
Everything but that traffic is measured on one device: a GPU or a TPU if JAX finds one, or else the CPU.

    python -m examples.benchmarks.overhead --help
"""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Literal

import tyro

from examples.benchmarks import flags


@dataclasses.dataclass(frozen=True)
class Config:
    """Measures what GC costs: time, memory traffic, temporaries, compilation and collectives.

    Nets are measured under every optimizer and on eight virtual devices. Synthetic trees, such as
    1e7x400 with 1e7 parameters in 400 leaves, are measured only under the first optimizer. The tree of
    1e9 parameters, and any tree that does not fit into the free memory, is counted but not timed. This
    takes about seven minutes on two quiet cores with 24 GiB. For a first look, pass --trees resnet18
    --optimizers sgdm.
    """

    platform: Literal["cpu", "gpu", "tpu"] | None = None
    """The kind of device to measure. By default it is the one that JAX uses by itself."""
    trees: tuple[str, ...] = flags.TREES
    """The parameter trees to measure. The error for an unknown name lists the known ones."""
    optimizers: tuple[str, ...] = flags.OPTIMIZERS
    """Any of sgdm, adam and adamw. The whole step and the collectives are measured under the first."""
    rounds: int = 40
    """The number of rounds, in each of which every arm is timed once. At least 6."""
    seconds: float = 5.0
    """The time after which no further round starts for a tree and optimizer, once it has had 6."""
    step_rounds: int = 20
    """The number of rounds of each whole training step. 0 leaves the steps out."""
    steps: tuple[str, ...] | None = None
    """The nets of the whole training steps: resnet20 on 32x32 images in float32, and resnet50 and vit_b16
    on 224x224 images in bfloat16. By default resnet20 on a CPU, and the other two elsewhere."""
    batch: int = 128
    """The number of images in a training step."""
    out: Path = Path("overhead.jsonl")
    """The file of the results, as JSON lines. An old file is replaced. The picture is put beside it, as .png."""

    def __post_init__(self):
        for name in self.trees:
            flags.check_tree(name)
        for name in self.optimizers:
            flags.check_optimizer(name)
        if not self.trees or not self.optimizers:
            raise ValueError("--trees and --optimizers need at least one name each")
        for flag, rounds in {"rounds": self.rounds, "step-rounds": self.step_rounds}.items():
            if rounds < flags.MIN_ROUNDS and (flag, rounds) != ("step-rounds", 0):
                raise ValueError(
                    f"--{flag} {rounds}: an interval needs at least {flags.MIN_ROUNDS} rounds"
                )
        if not self.seconds >= 0:
            raise ValueError(f"--seconds {self.seconds}: it must be 0 or more")
        for name in self.steps or ():
            if name not in flags.STEP_NETS:
                raise ValueError(f"--steps {name}: unknown; there are {', '.join(flags.STEP_NETS)}")
        if self.steps == ():
            raise ValueError(
                "--steps needs at least one name; --step-rounds 0 leaves the steps out"
            )
        if self.batch < 1:
            raise ValueError(f"--batch {self.batch}: it must be at least 1")
        if self.out.suffix != ".jsonl":
            raise ValueError(f"--out {self.out}: the name must end in .jsonl")
        if not flags.can_write(self.out):
            raise ValueError(f"--out {self.out}: no file can be written there")


def main(config: Config) -> None:
    # These take seconds, which the help of the program can do without.
    from rich.console import Console

    from examples.benchmarks import overhead_records, report

    console = Console()
    try:
        overhead_records.use_platform(config.platform)
    except ValueError as error:
        sys.exit(str(error))
    begin = time.perf_counter()
    with config.out.open("w") as file:

        def write(record):
            file.write(json.dumps(record) + "\n")
            file.flush()

        records = overhead_records.run(config, console, write)
        elapsed = time.perf_counter() - begin
        write({"kind": "end", "seconds": round(elapsed, 1)})
    for table in report.make_tables(records):
        console.print(table)
    picture = config.out.with_suffix(".png")
    report.make_picture(records).savefig(picture, dpi=150)
    console.print(f"{elapsed:.0f} s; records: {config.out}; picture: {picture}")


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.benchmarks.overhead"))
