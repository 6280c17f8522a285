"""The tasks of E1 to E5, in the order of their runs. PLAN.md describes them."""

import dataclasses
import difflib
from collections.abc import Iterator
from typing import Literal

from examples.experiments.sweep import data, nets, pictures
from examples.experiments.sweep.arms import Arm
from examples.training.errors import SettingError

Experiment = Literal["e1", "e2", "e3", "e4", "e5"]
Optimizer = Literal["sgdm", "adam", "adamw", "lion", "muon"]
SEEDS = tuple(range(100, 112))

# How pictures and tables call each normalization.
NORM_LABELS = {
    "none": "no normalization",
    "layer": "layer norm",
    "rms": "RMS norm",
    "batch": "batch norm",
    "groups of two": "group norm, groups of two",
    "one group": "group norm, one group",
}

# The numbers of the rates of each optimizer's grid.
_GRIDS: dict[Optimizer, range] = {
    "sgdm": range(-4, 2),
    "adam": range(-7, -1),
    "adamw": range(-7, -1),
    "lion": range(-9, -3),
    "muon": range(-6, 0),
}
_DATASETS = {"mnist": "MNIST", "fashion": "Fashion-MNIST"}
# E2 crosses these numbers of images and of steps.
IMAGES = (100, 300, 1000, 3000)
STEPS = (30, 100, 300, 1000)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One net on one data set, with one optimizer.

    Attributes:
      name: its name in results, tables and pictures.
      family: what `nets.net` calls the kind of net.
      norm: what `nets.net` calls the normalization.
      dataset: the data set that its examples are from.
      load: the loader of its examples.
      optimizer: the optimizer.
      batch_size: the number of examples in a step.
      epochs: the passes over the training examples, or None where `steps` is given.
      steps: the number of steps, or None where `epochs` is given.
      grid: the numbers of the rates of the grid, before any extension.
      seconds: what a run takes on one core, roughly. The time left is estimated from it until the
        task has results of its own.
      experiment: the experiment of the plan that it belongs to.
      arms: the arms that run at every rate of the grid.
      controls: whether the controls run, at two rates.
      seeds: the seeds of its runs.
      images: the number of training images, in a task of E2.
      rates_from: the task whose results decide at which two rates each arm runs, or None for a task
        with a grid of its own.
    """

    name: str
    family: Literal["mlp", "resnet8", "resnet20", "pretrained", "vit", "lm"]
    norm: str
    dataset: str
    load: data.Loader
    optimizer: Optimizer
    batch_size: int
    epochs: int | None = None
    steps: int | None = None
    grid: range
    seconds: float
    experiment: Experiment = "e1"
    arms: tuple[Arm, ...] = ("none", "gc")
    controls: bool = True
    seeds: tuple[int, ...] = SEEDS
    images: int | None = None
    rates_from: str | None = None

    @property
    def net(self) -> nets.Net:
        """Returns the function that makes the net."""
        return nets.net(self.family, self.norm)


def find_task(name: str) -> Task:
    """Returns a task by its name.

    Raises:
      SettingError: no task has this name.
    """
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=3, cutoff=0.0)
        raise SettingError(f"no task is called {name!r}; the nearest names are {', '.join(near)}")
    return TASKS[name]


def tasks_of(experiment: Experiment) -> list[Task]:
    """Returns the tasks of an experiment, in the order of their runs."""
    return [task for task in TASKS.values() if task.experiment == experiment]


def _mlps() -> Iterator[Task]:
    tables = [
        "segment",
        "satimage",
        "texture",
        "optdigits",
        "spambase",
        "penbased",
        "letter",
        "magic",
    ]
    for name in tables:
        for norm, suffix in (("none", ""), ("layer", "-layer")):
            yield Task(
                name=f"mlp-{name}{suffix}",
                family="mlp",
                norm=norm,
                dataset=name,
                load=data.table(name),
                optimizer="sgdm",
                batch_size=64,
                epochs=20,
                grid=_GRIDS["sgdm"],
                seconds=0.6,
            )


def _resnets() -> Iterator[Task]:
    sets = {
        "mnist300": (data.mnist(300), 25, 2.0),
        "fashion1000": (data.fashion(1000), 15, 4.0),
        "mnist2500": (data.mnist(2500), 10, 6.0),
    }
    for name, (load, epochs, seconds) in sets.items():
        for norm in ("one group", "groups of two", "batch", "none"):
            yield Task(
                name=f"resnet8-{name}-{norm.replace(' ', '-')}",
                family="resnet8",
                norm=norm,
                dataset=_DATASETS[name.rstrip("0123456789")],
                load=load,
                optimizer="sgdm",
                batch_size=50,
                epochs=epochs,
                grid=_GRIDS["sgdm"],
                seconds=seconds,
            )


def _vit(name: str, load: data.Loader, norm: str, optimizer: Optimizer, **changes) -> Task:
    return Task(
        name=f"vit-{name}-{norm}-{optimizer}",
        family="vit",
        norm=norm,
        dataset=_DATASETS[name.rstrip("0123456789")],
        load=load,
        optimizer=optimizer,
        batch_size=64,
        steps=600,
        grid=_GRIDS[optimizer],
        seconds=11.0,
        **changes,
    )


def _lm(optimizer: Optimizer, **changes) -> Task:
    return Task(
        name=f"lm-pydoc-{optimizer}",
        family="lm",
        norm="layer",
        dataset="pydoc",
        load=data.text(64),
        optimizer=optimizer,
        batch_size=32,
        steps=300,
        grid=_GRIDS[optimizer],
        seconds=20.0,
        **changes,
    )


# E5 compares GC on the gradient with GC on the update. With AdamW and Muon it shares its runs with E1.
_BOTH_PLACES: tuple[Arm, ...] = ("none", "gc", "gc_update")


def _transformers() -> Iterator[Task]:
    for optimizer in ("sgdm", "adamw", "muon"):
        yield _vit("mnist2500", data.mnist(2500), "layer", optimizer)
    fashion = data.fashion(10_000)
    for optimizer in ("sgdm", "adamw", "muon"):
        arms = ("none", "gc") if optimizer == "sgdm" else _BOTH_PLACES
        yield _vit("fashion10000", fashion, "layer", optimizer, arms=arms)
    for optimizer in ("sgdm", "adamw", "muon"):
        yield _vit("fashion10000", fashion, "rms", optimizer)
    for optimizer in ("adamw", "muon"):
        yield _lm(optimizer, arms=_BOTH_PLACES)
    for optimizer in ("adam", "lion"):
        changes = {"experiment": "e5", "arms": _BOTH_PLACES, "controls": False}
        yield _vit("fashion10000", fashion, "layer", optimizer, **changes)
        yield _lm(optimizer, **changes)


def _images_and_steps() -> Iterator[Task]:
    for norm in ("one group", "batch"):
        for images in IMAGES:
            for steps in STEPS:
                yield Task(
                    name=f"resnet8-fashion{images}-{norm.replace(' ', '-')}-{steps}-steps",
                    family="resnet8",
                    norm=norm,
                    dataset="Fashion-MNIST",
                    load=data.fashion(images),
                    optimizer="sgdm",
                    batch_size=50,
                    steps=steps,
                    grid=range(-3, 1),
                    seconds=1.0 + 0.011 * steps,
                    experiment="e2",
                    images=images,
                    controls=False,
                )


def _full_size() -> Iterator[Task]:
    for norm in ("one group", "batch"):
        yield Task(
            name=f"resnet20-fashion10000-{norm.replace(' ', '-')}",
            family="resnet20",
            norm=norm,
            dataset="Fashion-MNIST",
            load=data.fashion(10_000),
            optimizer="sgdm",
            batch_size=128,
            epochs=10,
            grid=range(0),
            seconds=900.0,
            experiment="e3",
            controls=False,
            seeds=SEEDS[:4],
            rates_from=f"resnet8-fashion1000-{norm.replace(' ', '-')}",
        )


def _fine_tuning() -> Iterator[Task]:
    sets = {"faces": (pictures.faces, 150, 8.0), "emoji": (pictures.emoji, 300, 16.0)}
    for name, (load, steps, seconds) in sets.items():
        yield Task(
            name=f"finetuned-{name}",
            family="pretrained",
            norm="batch",
            dataset=name,
            load=load,
            optimizer="sgdm",
            batch_size=50,
            steps=steps,
            grid=range(-4, 0),
            seconds=seconds,
            experiment="e4",
            controls=False,
        )


TASKS: dict[str, Task] = {
    task.name: task
    for tasks in (_mlps, _resnets, _transformers, _images_and_steps, _fine_tuning, _full_size)
    for task in tasks()
}
