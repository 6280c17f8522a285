"""Makes runs that are missing from the results, one after the other."""

import dataclasses
import hashlib
import importlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from jax.sharding import Mesh
from rich.console import Console

from examples.classification.weights import digest_net
from examples.experiments.columns import Column, Experiment, Scale
from examples.experiments.definitions import EXPERIMENTS, find
from examples.experiments.observations import OBSERVERS
from examples.experiments.outcomes import choose, estimate_seconds
from examples.experiments.store import Record, Store, locked, require_same_net, results_path
from examples.training.errors import DivergedError
from examples.training.folder import open_folder, write_result
from examples.training.loop import Finished, train
from examples.training.provenance import provenance
from examples.training.sharding import make_mesh

# Runs with at most this many steps save only at their end, because starting them again takes less
# time than their checkpoints would.
_SHORT = 3000

_TRAINERS = {
    "classifier": "examples.classification.task",
    "detector": "examples.detection.task",
}


class Trainer(Protocol):
    """An object that prepares the runs of an experiment, such as `classification.task.Trainer`."""

    config_type: Any

    def prepare(self, config: Any, *, diagnose: bool = False) -> Any:
        """Returns a task, whose `job` the training loop can make."""
        ...


class Plan(NamedTuple):
    """The runs that are wanted.

    Attributes:
      scale: the scale of all runs.
      experiments: the experiments, by name, in the order in which their runs are made.
      trainers: the trainer of each kind that the experiments name.
      sources: the settings of the nets that other runs start from, by the name that those runs have
        as their `pretrained`. Their folders are kept.
      data_dir: the folder of the weights that do not come from a source.
    """

    scale: Scale
    experiments: Mapping[str, Experiment[Any]]
    trainers: Mapping[str, Trainer]
    sources: Mapping[str, Any]
    data_dir: Path | None = None

    def columns(self, name: str) -> tuple[Column[Any], ...]:
        """Returns the columns of an experiment."""
        return self.experiments[name].columns[self.scale]


def plan_runs(
    names: Sequence[str],
    scale: Scale,
    data_dir: Path | None = None,
    seeds: int | None = None,
    mesh: Mesh | None = None,
) -> Plan:
    """Plans the runs of experiments, and of the nets that these start from.

    Args:
      names: the experiments.
      scale: the scale of the runs.
      data_dir: the folder of data and weights.
      seeds: at most this many seeds of each column; None for all.
      mesh: the devices; None for all of them.
    """
    experiments = {name: find(name, scale) for name in names}
    used = {column.config.pretrained for e in experiments.values() for column in e.columns[scale]}
    nets = EXPERIMENTS["sources"].columns["cpu"]
    if "sources" not in experiments:
        nets = tuple(column for column in nets if column.name in used)
        if nets:
            own = dataclasses.replace(EXPERIMENTS["sources"], columns={"cpu": nets})
            experiments = {"sources": own, **experiments}
    sources = {column.name: next(column.configs(None)) for column in nets}
    if seeds is not None:
        experiments = {name: _with_seeds(e, scale, seeds) for name, e in experiments.items()}
    mesh = mesh or make_mesh()
    trainers = {
        kind: importlib.import_module(_TRAINERS[kind]).Trainer(mesh, data_dir=data_dir)
        for kind in {experiment.trainer for experiment in experiments.values()}
    }
    return Plan(scale, experiments, trainers, sources, data_dir)


def _with_seeds(experiment: Experiment[Any], scale: Scale, seeds: int) -> Experiment[Any]:
    fewer = tuple(
        dataclasses.replace(column, seeds=min(column.seeds, seeds))
        for column in experiment.columns[scale]
    )
    return dataclasses.replace(experiment, columns={scale: fewer})


def make_runs(
    plan: Plan, *, results: Path, work: Path, show: Callable[[str, int, int], None]
) -> None:
    """Makes all missing runs of a plan, and begins with the experiments that take the shortest time.

    Args:
      plan: the runs.
      results: the folder that results are read from and added to.
      work: the folder of unfinished runs, and of the nets that others start from.
      show: a function that is called before each run with the run's name and the time left, the
        number of finished runs, and the number of all runs.

    Raises:
      UserError: a run cannot be made, or results cannot be read or added to.
      OSError: a folder cannot be written to.
    """
    every = [column for name in plan.experiments for column in plan.columns(name)]
    total = sum(len([*column.grid_configs()]) + column.seeds * len(column.arms) for column in every)
    # All results are read before work begins, so that a bad line is found at once.
    stores = {name: _read_store(name, plan, results) for name in plan.experiments}
    costs = {name: _estimate(name, plan, stores) for name in plan.experiments}
    # The nets that others start from come first. They are the first experiment of the plan.
    order = sorted(
        plan.experiments,
        key=lambda name: (name != "sources", costs[name] is None, costs[name] or 0.0),
    )
    done = 0
    for name in order:
        experiment = plan.experiments[name]
        with locked(results_path(results, name, plan.scale)):
            store = stores[name] = _read_store(name, plan, results)
            for column in plan.columns(name):
                for config in _all_configs(column, store, experiment):
                    if not _is_done(config, store, plan, work):
                        left = [_estimate(other, plan, stores) for other in order]
                        text = f"{name} {column.name} {config.gc} seed {config.seed}"
                        show(f"{text}; {_describe_time(left)}", done, total)
                        trainer = plan.trainers[experiment.trainer]
                        _make_run(column, config, trainer, plan, store, work)
                    done += 1
    show("done", done, total)


def _read_store(name: str, plan: Plan, results: Path) -> Store:
    return Store(results_path(results, name, plan.scale), plan.experiments[name].config_type)


def _estimate(name: str, plan: Plan, stores: Mapping[str, Store]) -> float | None:
    """Returns the seconds that an experiment will take, or None if nothing is known of a column."""
    metric = plan.experiments[name].metrics[0]
    seconds = [estimate_seconds(column, stores[name], metric) for column in plan.columns(name)]
    known = [value for value in seconds if value is not None]
    return sum(known) if len(known) == len(seconds) else None


def _describe_time(estimates: Sequence[float | None]) -> str:
    """Returns the time left; it is not known before the first run of a kind is made."""
    known = [seconds for seconds in estimates if seconds is not None]
    if not sum(known):
        return "time left: not known yet"
    hours, minutes = divmod(round(sum(known) / 60), 60)
    word = "about" if len(known) == len(estimates) else "more than"
    return f"time left: {word} {hours} h {minutes} min"


def _all_configs(column: Column[Any], store: Store, experiment: Experiment[Any]) -> Iterator[Any]:
    """Yields the runs of a column in order: its grid, then all seeds at what the grid has chosen."""
    yield from column.grid_configs()
    yield from column.configs(choose(column, store, experiment.metrics[0]))


def _is_done(config: Any, store: Store, plan: Plan, work: Path) -> bool:
    """Returns whether a run has its result and, if others start from it, its weights."""
    is_source = config in plan.sources.values()
    weights = not is_source or (_folder(config, work) / "result.json").exists()
    return weights and store.get(config) is not None


def _make_run(
    column: Column[Any], config: Any, trainer: Trainer, plan: Plan, store: Store, work: Path
) -> None:
    """Makes one run and adds its result.

    Raises:
      ResultsError: the store has results that start from another net.
    """
    begin = time.perf_counter()
    folder = _folder(config, work)
    start = _name_start(config, plan, store, work)
    local = dataclasses.replace(config, pretrained=_weights(config.pretrained, plan, work))
    task = trainer.prepare(local, diagnose=column.observe == "gradients")
    try:
        if column.observe:
            result = OBSERVERS[column.observe](task)
        else:
            with open_folder(folder, local):
                every = task.job.steps if task.job.steps <= _SHORT else None
                finished = train(
                    task.job, folder, checkpoint_every=every, console=Console(quiet=True)
                )
                write_result(folder, local, finished)
            result = _summary(finished)
    except DivergedError as error:
        result = {"diverged": str(error).partition(";")[0], **task.guess}
    seconds = round(time.perf_counter() - begin, 1)
    # A net that others start from is trained again if its folder is gone. Its result is there then.
    if store.get(config) is None:
        store.add(config, {**result, **start, "seconds": seconds, **provenance()})
    if config not in plan.sources.values():
        shutil.rmtree(folder, ignore_errors=True)


def _name_start(config: Any, plan: Plan, store: Store, work: Path) -> Record:
    """Returns the digest of the net that a run starts from, if it is one that was trained here.

    Raises:
      ResultsError: a run that starts from the net of the same name has another digest.
    """
    if config.pretrained not in plan.sources:
        return {}
    folder = _folder(plan.sources[config.pretrained], work)
    digest = digest_net(folder)
    others = (store.get(other) or {} for other in store if other.pretrained == config.pretrained)
    starts = {record.get("start") for record in others}
    require_same_net(store.path, starts, digest, folder)
    return {"start": digest}


def _summary(finished: Finished) -> Record:
    """Returns the metrics of a run at its end, and its curves by epoch."""
    ends: Record = {}
    curves: dict[str, dict[str, list[Any]]] = {}
    for line in finished.lines:
        kind = line["kind"]
        if kind == "step":
            continue
        curve = curves.setdefault(kind, {})
        curve.setdefault("epoch", []).append(line["epoch"])
        for name in line.keys() - {"kind", "step", "epoch"}:
            ends[f"{kind}_{name}"] = line[name]
            curve.setdefault(name, []).append(float(f"{line[name]:.5g}"))
    return {**dict(sorted(ends.items(), reverse=True)), "curves": curves}


def _folder(config: Any, work: Path) -> Path:
    fields = json.dumps(dataclasses.asdict(config), sort_keys=True)
    return work / hashlib.sha256(fields.encode()).hexdigest()[:16]


def _weights(name: str | None, plan: Plan, work: Path) -> str | None:
    """Returns the path of the weights that a definition names: a source's folder, or a file."""
    if name is None:
        return None
    if name not in plan.sources:
        return str((plan.data_dir or Path()) / name)
    return str(_folder(plan.sources[name], work))
