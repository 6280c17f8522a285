"""Makes the runs of the paper's tables and figures that are missing, and keeps their results.

    python -m examples.experiments.run --help
    python -m examples.experiments.run table1
    python -m examples.experiments.run table4 figure5 --scale cpu

Stopped in whatever way and started again with the same command, it goes on where it was. Results
are added to examples/experiments/results/, which `examples.experiments.tables` and
`examples.experiments.figures` read.
"""

import dataclasses
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from absl import logging
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from examples.classifier import Data, Task, load_data, prepare
from examples.datasets import Dataset, DatasetError
from examples.datasets.transforms import Transform
from examples.experiments.cells import Cell, Scale
from examples.experiments.definitions import EXPERIMENTS, find
from examples.experiments.observations import OBSERVERS
from examples.experiments.records import Record, Records, RecordsError, alone, choose
from examples.runs import Config
from examples.train_classifier import DivergedError, Options, StoppedError, train
from examples.training import mesh as meshes
from examples.training.checkpoints import CheckpointError
from examples.training.provenance import provenance

# Runs under way, and the nets that others start from.
WORK = Path("runs", "experiments")
SOURCES = {
    cell.name: next(cell.runs(cell.config.learning_rate, cell.config.weight_decay))
    for cell in EXPERIMENTS["sources"].cells["cpu"]
}
# Runs of no more steps than this are begun again rather than slowed by checkpoints.
_SHORT = 3000


@dataclasses.dataclass(frozen=True)
class Settings:
    """Makes the missing runs of experiments, one after the other."""

    experiments: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Of table1, table2, table3 (with Figure 6), table4 (with Figure 7), figure3, figure4, figure5,
    curvature, rates, images, and sources: the nets that table4 starts from, made when it needs them."""
    scale: Scale = "cpu"
    """The paper's settings and data, or narrow nets on few small images."""
    data_dir: Path | None = None
    """Where the paper's data lie, and for table4 and figure3 PyTorch's resnet50.safetensors."""
    seeds: int | None = None
    """Fewer seeds than the definitions have."""

    def __post_init__(self):
        if not self.experiments:
            raise ValueError(f"name an experiment: {', '.join(EXPERIMENTS)}")
        for name in self.experiments:
            find(name, self.scale)
        if self.seeds is not None and self.seeds < 1:
            raise ValueError(f"--seeds {self.seeds}: at least 1")


class Runner:
    """Makes runs; those that differ in numbers alone share one compiled step."""

    def __init__(self, records: Records, data_dir: Path | None):
        self._records, self._data_dir = records, data_dir
        self._tasks: list[Task] = []
        self._tests: dict[Hashable, tuple[Dataset, Transform]] = {}

    def make(self, cell: Cell, config: Config) -> None:
        """Makes one run of a cell and adds its result."""
        begin = time.perf_counter()
        local = replace(config, pretrained=self._weights(config.pretrained))
        data = self._load(local)
        task = self._prepare(local, data, diagnose=cell.observe == "gradients")
        folder = _folder(config)
        try:
            if cell.observe:
                result = OBSERVERS[cell.observe](local, task, data)
            else:
                result = _train(local, task, data, folder)
        except DivergedError as error:
            result = {"diverged": str(error).partition(";")[0]}
        seconds = round(time.perf_counter() - begin, 1)
        self._records.add(config, {**result, "seconds": seconds, **provenance()})
        if config not in SOURCES.values():
            shutil.rmtree(folder, ignore_errors=True)

    def _load(self, config: Config) -> Data:
        data = load_data(config, self._data_dir)
        what = (config.dataset, config.classes, config.pad, config.pool, data.test.split)
        # One object for all runs, so that its batches are made once.
        test, transform = self._tests.setdefault(what, (data.test, data.test_transform))
        return data._replace(test=test, test_transform=transform)

    def _prepare(self, config: Config, data: Data, *, diagnose: bool) -> Task:
        for task in self._tasks:
            if task.serves(config):
                return task
        self._tasks.append(prepare(config, data, meshes.make_mesh(), diagnose=diagnose))
        return self._tasks[-1]

    def _weights(self, name: str | None) -> str | None:
        """Finds the weights that a definition names: those of a net made here, or a file."""
        if name is None:
            return None
        if name not in SOURCES:
            return str((self._data_dir or Path()) / name)
        return str(_folder(SOURCES[name]))


def _folder(config: Config) -> Path:
    fields = json.dumps(dataclasses.asdict(config), sort_keys=True)
    return WORK / hashlib.sha256(fields.encode()).hexdigest()[:16]


def _train(config: Config, task: Task, data: Data, folder: Path) -> Record:
    """Makes a run, or ends one that was stopped; gives its metrics at the end and by epoch."""
    steps = task.steps_per_epoch * config.epochs
    options = Options(out=folder, checkpoint_every=steps if steps <= _SHORT else None)
    result = train(config, task, data, options, Console(quiet=True))
    curves: dict[str, dict[str, list[Any]]] = {}
    for text in (folder / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        if line["kind"] != "step":
            curve = curves.setdefault(line["kind"], {"epoch": [], "loss": [], "accuracy": []})
            curve["epoch"].append(line["epoch"])
            for name in ("loss", "accuracy"):
                curve[name].append(float(f"{line[name]:.5g}"))
    ends = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
    return {**{name: result[name] for name in ends}, "curves": curves}


def runs(cell: Cell, records: Records) -> Iterator[Config]:
    """Gives a cell's runs in their order: its grid, then all seeds at what the grid has chosen."""
    yield from cell.grid()
    chosen = choose(cell, records)
    if chosen is None:
        raise ValueError(f"the grid of {cell.name} is not done")
    yield from cell.runs(*chosen)


def is_done(config: Config, records: Records) -> bool:
    """Says whether a run has a result, and its weights are here if others start from them."""
    weights = config not in SOURCES.values() or (_folder(config) / "result.json").exists()
    return weights and records.get(config) is not None


def make(settings: Settings, show: Callable[[str, int, int], None]) -> None:
    """Makes all missing runs.

    Args:
      settings: which.
      show: called in front of each run with its name, the runs done and the runs in all.

    Raises:
      CheckpointError, DatasetError, OSError, StoppedError, ValueError: a run cannot be made.
      RecordsError: results cannot be read or added to.
    """
    work = {name: find(name, settings.scale).cells[settings.scale] for name in settings.experiments}
    if any(cell.config.pretrained in SOURCES for cells in work.values() for cell in cells):
        work = {"sources": EXPERIMENTS["sources"].cells["cpu"], **work}
    if settings.seeds is not None:
        fewer = settings.seeds
        work = {
            name: tuple(replace(cell, seeds=min(cell.seeds, fewer)) for cell in cells)
            for name, cells in work.items()
        }
    every = [cell for cells in work.values() for cell in cells]
    total = sum(len([*cell.grid(), *cell.runs(1.0, 0.0)]) for cell in every)
    done = 0
    for name, cells in work.items():
        with alone(name, settings.scale):
            records = Records(name, settings.scale)
            runner = Runner(records, settings.data_dir)
            for cell in cells:
                for config in runs(cell, records):
                    if not is_done(config, records):
                        show(f"{name} {cell.name} {config.gc} seed {config.seed}", done, total)
                        runner.make(cell, config)
                    done += 1
    show("done", done, total)


def main() -> None:
    # Orbax logs the tracebacks of its threads; the error itself is raised and told below.
    logging.set_verbosity(logging.FATAL)
    settings = tyro.cli(Settings, prog="python -m examples.experiments.run", description=__doc__)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    errors = (CheckpointError, DatasetError, ImportError, OSError, RecordsError, StoppedError)
    # The time left is that of as many runs of the kind that was made last.
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=600) as progress:
        bar = progress.add_task("starting")

        def show(text, done, total):
            progress.update(bar, description=text, completed=done, total=total)

        try:
            make(settings, show)
        except (*errors, ValueError) as error:
            progress.stop()
            sys.exit(f"stopped: {error}")
        except KeyboardInterrupt:
            progress.stop()
            sys.exit("stopped: the same command goes on from here")


if __name__ == "__main__":
    main()
