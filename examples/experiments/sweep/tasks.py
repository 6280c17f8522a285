"""The tasks of E1, in the order of their runs. PLAN.md describes them."""

import dataclasses
import difflib
from collections.abc import Iterator
from typing import Literal

from examples.experiments.sweep import data, nets
from examples.experiments.sweep.rates import rate
from examples.training.errors import SettingError

Optimizer = Literal["sgdm", "adamw", "muon"]
SEEDS = tuple(range(100, 112))

# The numbers of the lowest and the highest rate of each optimizer's grid.
_GRIDS: dict[Optimizer, tuple[int, int]] = {"sgdm": (-4, 1), "adamw": (-7, -2), "muon": (-6, -1)}


@dataclasses.dataclass(frozen=True)
class Task:
    """One net on one data set, with one optimizer.

    Attributes:
      name: its name in results, tables and pictures.
      family: what `nets.net` calls the kind of net.
      norm: what `nets.net` calls the normalization.
      load: the loader of its examples.
      optimizer: the optimizer.
      batch_size: the number of examples in a step.
      epochs: the passes over the training examples, or None where `steps` is given.
      steps: the number of steps, or None where `epochs` is given.
      seconds: what a run took on one core in a trial. The time left is estimated from it until
        the task has results of its own.
    """

    name: str
    family: Literal["mlp", "resnet8", "vit", "lm"]
    norm: str
    load: data.Loader
    optimizer: Optimizer
    batch_size: int
    epochs: int | None
    steps: int | None
    seconds: float

    @property
    def net(self) -> nets.Net:
        """What makes the net."""
        return nets.net(self.family, self.norm)

    @property
    def grid(self) -> range:
        """The numbers of the rates of the grid, before any extension."""
        low, high = _GRIDS[self.optimizer]
        return range(low, high + 1)

    @property
    def rates(self) -> tuple[float, ...]:
        """The rates of the grid, before any extension."""
        return tuple(rate(number) for number in self.grid)


def find_task(name: str) -> Task:
    """Returns a task by its name.

    Raises:
      SettingError: no task has this name.
    """
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=3, cutoff=0.0)
        raise SettingError(f"no task is called {name!r}; the nearest names are {', '.join(near)}")
    return TASKS[name]


def _mlps() -> Iterator[Task]:
    tables = (
        "segment",
        "satimage",
        "texture",
        "optdigits",
        "spambase",
        "penbased",
        "letter",
        "magic",
    )
    for name in tables:
        for norm, suffix in (("none", ""), ("layer", "-layer")):
            yield Task(
                f"mlp-{name}{suffix}", "mlp", norm, data.table(name), "sgdm", 64, 20, None, 1.0
            )


def _resnets() -> Iterator[Task]:
    sets = {
        "mnist300": (data.mnist(300), 25, 4.0),
        "fashion1000": (data.fashion(1000), 15, 6.0),
        "mnist2500": (data.mnist(2500), 10, 8.0),
    }
    norms = {
        "one group": "one-group",
        "groups of two": "groups-of-two",
        "batch": "batch",
        "none": "none",
    }
    for name, (load, epochs, seconds) in sets.items():
        for norm, suffix in norms.items():
            yield Task(
                f"resnet8-{name}-{suffix}", "resnet8", norm, load, "sgdm", 50, epochs, None, seconds
            )


def _vits() -> Iterator[Task]:
    optimizers: tuple[Optimizer, ...] = ("sgdm", "adamw", "muon")
    sets = {
        "mnist2500": (data.mnist(2500), ("layer",)),
        "fashion10000": (data.fashion(10_000), ("layer", "rms")),
    }
    for name, (load, norms) in sets.items():
        for norm in norms:
            for optimizer in optimizers:
                yield Task(
                    f"vit-{name}-{norm}-{optimizer}",
                    "vit",
                    norm,
                    load,
                    optimizer,
                    64,
                    None,
                    600,
                    15.0,
                )


def _lms() -> Iterator[Task]:
    optimizers: tuple[Optimizer, ...] = ("adamw", "muon")
    for optimizer in optimizers:
        yield Task(
            f"lm-pydoc-{optimizer}", "lm", "layer", data.text(64), optimizer, 32, None, 300, 45.0
        )


TASKS: dict[str, Task] = {task.name: task for task in (*_mlps(), *_resnets(), *_vits(), *_lms())}
