"""Times the parts of a Mask R-CNN's training step, and its inference beside torchvision's.

    python -m examples.benchmarks.detection_step --help

Each part is compiled and timed by itself, so their sum may be above the time of the whole. The
backward pass is what the loss with its gradient takes beyond the loss. Peak memory is what XLA
plans for the compiled program: its inputs, outputs and temporary arrays.
"""

import dataclasses
import json
import os
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
    """Time the parts of the training step of a Mask R-CNN, or its inference."""

    backbone: str = "resnet50"
    """The net of the backbone."""
    height: int = 800
    """The height of the images."""
    width: int = 1344
    """The width of the images."""
    images: int = 1
    """The number of images in a batch of training."""
    rounds: int = 3
    """How often each part is timed; the median counts."""
    torchvision: bool = False
    """Time the inference of torchvision's maskrcnn_resnet50_fpn and of ours on one image, in turns,
    with the same weights, and no training. It needs torch and torchvision."""
    out: Path | None = None
    """A file to which the results are written as JSON lines. It is replaced if it is there."""

    def __post_init__(self):
        for name in ("height", "width", "images", "rounds"):
            if getattr(self, name) < 1:
                raise SettingError(f"--{name} must be at least 1, not {getattr(self, name)}")
        if self.out and not flags.can_write(self.out):
            raise SettingError(f"--out {self.out}: no file can be written there")


def make_table(records: list[dict[str, Any]]) -> Table:
    """Returns the records as a table."""
    table = Table()
    for column in ("part", "seconds", "to compile, s", "peak memory, GB"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for record in records:
        first = (
            f"{record['seconds']:.3f}" if "seconds" in record else f"ratio {record['ratio']:.2f}"
        )
        compiling = f"{record['compile_seconds']:.0f}" if "compile_seconds" in record else ""
        memory = f"{record['peak_bytes'] / 1e9:.2f}" if "peak_bytes" in record else ""
        table.add_row(record["part"], first, compiling, memory)
    return table


def main(config: Config) -> None:
    # These take seconds, which the help of the program can do without.
    import jax

    from examples.benchmarks.detection_parts import time_inference, time_parts
    from examples.training.provenance import commit

    console = Console()
    records = (time_inference if config.torchvision else time_parts)(config, console)
    settings = {**dataclasses.asdict(config), "out": None}
    machine = {"jax": jax.__version__, "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    machine["commit"] = commit()
    if config.out:
        lines = [{"settings": settings, "machine": machine}, *records]
        config.out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    console.print(make_table(records))
    console.print(f"{machine['cores']} cores, load {machine['load']:.1f}, jax {machine['jax']}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, prog="python -m examples.benchmarks.detection_step"))
    except SettingError as error:
        sys.exit(f"cannot start: {error}")
