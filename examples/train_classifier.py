"""Trains a classifier, from scratch or from pretrained weights: the paper's runs and small ones.

    python -m examples.train_classifier --help
    python -m examples.train_classifier digits --gc off
    python -m examples.train_classifier table1-resnet18 --data-dir ~/data --gc conv

Stopped in whatever way and started again with the same command, a run goes on from its last
checkpoint and ends with the numbers that it would have had.
"""

import contextlib
import dataclasses
import functools
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import tyro
from absl import logging
from rich.console import Console

from examples.classifier import Data, Task, evaluate, load_data, prepare
from examples.datasets import DatasetError, pipeline
from examples.runs import RUNS, Config
from examples.training import mesh as meshes
from examples.training import metrics
from examples.training.checkpoints import CheckpointError, Checkpoints
from examples.training.interrupt import interruptible
from examples.training.provenance import provenance
from examples.training.step import all_finite

# Evaluation images of fewer bytes than this are made once and kept.
_KEEP_BYTES = 2**28


@dataclasses.dataclass(frozen=True)
class Options:
    """How and where a run is made; its numbers do not depend on it, up to rounding."""

    data_dir: Path | None = None
    """Where the data set lies. Digits and MNIST-5k need none, nor Debian's Fashion-MNIST."""
    partial: bool = False
    """Take a data set that is smaller than the published one."""
    out: Path | None = None
    """The run's folder; by default runs/RUN-GC-SEED."""
    workers: int = 0
    """Processes that read and augment images; 0 for a thread."""
    checkpoint_every: int | None = None
    """Steps between checkpoints, by default those of an epoch; the end has one in any case."""
    log_every: int = 50
    """Steps between logged lines."""
    diagnose: bool = False
    """Log each kernel's gradient before and after GC, and the share that GC removes."""
    data_parallel: int | None = None
    """Devices that share a batch; by default all that --fsdp leaves."""
    fsdp: int = 1
    """Devices that share each kernel and its momentum."""
    distributed: bool = False
    """One of several processes; clusters that JAX knows need none of the next three flags."""
    coordinator: str | None = None
    """host:port of the first process."""
    processes: int | None = None
    """How many there are."""
    process: int | None = None
    """Which one this is, from 0."""

    def __post_init__(self):
        for name, least in (("workers", 0), ("checkpoint_every", 1), ("log_every", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{name.replace('_', '-')} {value}: at least {least}")


class StoppedError(Exception):
    """A run that cannot or must not go on; the message says why and where it stands."""


class DivergedError(StoppedError):
    """A run whose numbers are no longer finite."""


def open_folder(folder: Path, config: Config) -> None:
    """Makes a run's folder, or makes sure that it is this config's.

    Raises:
      StoppedError: it is another's, or cannot be written to.
    """
    now = json.loads(json.dumps(dataclasses.asdict(config)))
    path = folder / "config.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            if (folder / "metrics.jsonl").exists() or (folder / "checkpoints").exists():
                raise StoppedError(f"{folder} has no config.json: give another --out")
            _write(path, json.dumps(now, indent=1))
        old = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StoppedError(f"{folder}: no run can be kept here: {error}") from error
    changed = [
        f"{key} was {old.get(key)!r} and is {now.get(key)!r}"
        for key in sorted(old.keys() | now.keys())
        if old.get(key) != now.get(key)
    ]
    if changed:
        raise StoppedError(
            f"{folder} holds a run of another config: {', '.join(changed)}. "
            "Give another --out, or the settings of before"
        )


def train(
    config: Config, task: Task, data: Data, options: Options, console: Console
) -> dict[str, Any]:
    """Makes the run in the folder `options.out`, or goes on with it.

    Args:
      config: that of `task`, or another that it serves.
      task: what `prepare` gave.
      data: the config's own.
      options: `out` is not None.
      console: where progress is shown.

    Returns:
      What the folder's result.json holds: the final metrics, the config, how long it took, and
      where it was made. metrics.jsonl has the metrics of every epoch. {} in all processes but one.

    Raises:
      StoppedError: another run's folder, a number that is not finite, Ctrl-C, a full disk.
      CheckpointError: a checkpoint cannot be written or read.
    """
    if not task.serves(config):
        raise ValueError("this task was prepared for another config")
    folder = options.out
    if folder is None:
        raise ValueError("options.out names the run's folder: it cannot be None")
    open_folder(folder, config)
    sharing: dict[str, Any] = {
        "batch_size": config.batch_size,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }
    workers = {"workers": options.workers}
    stream = pipeline.train_batches(
        data.train, data.train_transform, seed=config.seed, **workers, **sharing
    )
    image = data.test_transform(data.test.source[0]["image"], None)
    if image.nbytes * len(data.test) < _KEEP_BYTES:
        tests = _kept_batches(data.test, data.test_transform, **sharing)
    else:
        tests = pipeline.eval_batches(data.test, data.test_transform, **workers, **sharing)
    total = config.epochs * task.steps_per_epoch
    schedule = task.schedule(config.learning_rate)
    begin = time.perf_counter()

    with contextlib.ExitStack() as stack:
        interrupted = stack.enter_context(interruptible())
        checkpoints = stack.enter_context(Checkpoints(folder / "checkpoints"))
        stack.enter_context(_disk_errors(checkpoints))
        batches = stack.enter_context(contextlib.closing(iter(stream)))
        done, state, record = checkpoints.restore(task.init(config), batches)
        log = metrics.Log(
            folder, step=done, offset=record.get("offset", 0), writes=jax.process_index() == 0
        )
        stack.enter_context(log)
        means = metrics.Means(**record.get("means", {}))
        clock = metrics.Clock(**record.get("clock", {}))
        before = record.get("seconds", 0.0)
        bar = stack.enter_context(metrics.Bar(console, done, total))

        def stopped(number, problem):
            epoch, batch = divmod(number - 1, task.steps_per_epoch)
            return DivergedError(
                f"step {number} (batch {batch + 1} of epoch {epoch + 1}): {problem}; "
                f"{checkpoints.last_good()}. Try a lower --learning-rate, or some --warmup-epochs"
            )

        def report(number, values):
            values = {key: float(value) for key, value in jax.device_get(values).items()}
            if problem := metrics.non_finite(values):
                raise stopped(number, problem)
            means.add(values)
            epoch = (number - 1) // task.steps_per_epoch + 1
            if number % options.log_every == 0:
                rate = float(schedule(number - 1))
                line = {"kind": "step", "step": number, "epoch": epoch, "learning_rate": rate}
                log.write(line | values, clock.rates())
            bar.show(number, f"epoch {epoch} of {config.epochs}", means.means() | clock.rates())

        pending = None
        for number in range(done + 1, total + 1):
            start = time.perf_counter()
            batch = meshes.put_batch(next(batches), task.mesh)
            waited = time.perf_counter() - start
            state, values = task.train_step(state, batch)
            # The metrics of the step before: waiting for this one's would let the device run dry.
            if pending is not None:
                report(*pending)
            pending = number, values

            epoch, rest = divmod(number, task.steps_per_epoch)
            stop = interrupted()
            first = number == done + 1  # it compiles, and is not timed
            due = number % (options.checkpoint_every or task.steps_per_epoch) == 0
            # Processes save together or not at all, and Ctrl-C reaches each at a step of its own.
            save = due or number == total or (stop and jax.process_count() == 1)
            if save or first or rest == 0:
                report(*pending)
                pending = None
            if not first:
                clock.add(time.perf_counter() - start, waited, config.batch_size)
            if rest == 0:
                line = {"step": number, "epoch": epoch}
                log.write({"kind": "train", **line, **means.means()}, clock.rates())
                means.clear()
                if epoch % config.evaluate_every == 0 or epoch == config.epochs:
                    tested = evaluate(task, state, tests)
                    if problem := metrics.non_finite(tested):
                        raise stopped(number, f"on test images the {problem}")
                    log.write({"kind": "test", **line, **tested})
            if save:
                if not all_finite(state):
                    raise stopped(number, "it leaves weights that are not finite")
                # Copies: it is written while training goes on.
                record = {
                    "offset": log.offset(),
                    "means": dict(vars(means)),
                    "clock": dict(vars(clock)),
                    "seconds": before + time.perf_counter() - begin,
                }
                checkpoints.save(number, state, batches, record)
            if stop:
                checkpoints.wait()
                raise StoppedError(
                    f"by Ctrl-C at step {number} of {total}; {checkpoints.last_good()}. "
                    "The same command goes on from there"
                )
        checkpoints.wait()
        lines = log.lines()

    if not lines:
        return {}
    last = {line["kind"]: line for line in lines}
    result = {
        **{
            f"{k}_{name}": last[k][name] for k in ("train", "test") for name in ("loss", "accuracy")
        },
        "steps": total,
        "seconds": before + time.perf_counter() - begin,
        **clock.rates(),
        "config": dataclasses.asdict(config),
        **provenance(),
    }
    metrics.draw_curves(lines, folder / "curves.png")
    _write(folder / "result.json", json.dumps(result) + "\n")
    return result


@functools.lru_cache(maxsize=1)
def _kept_batches(*args: Any, **kwargs: Any) -> list[Any]:
    # Kept for the next run on the same images.
    return list(pipeline.eval_batches(*args, **kwargs))


@contextlib.contextmanager
def _disk_errors(checkpoints: Checkpoints) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoppedError(f"{error}; {checkpoints.last_good()}") from error


def _write(path: Path, text: str) -> None:
    # A file that is there is whole.
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_text(text)
    os.replace(part, path)


@dataclasses.dataclass(frozen=True)
class Command:
    """A run, with flags over its settings."""

    config: Config
    options: Options = dataclasses.field(default_factory=Options)


def main() -> None:
    # Orbax logs the tracebacks of its threads; the error itself is raised and told below.
    logging.set_verbosity(logging.FATAL)
    console = Console(stderr=True)
    commands = {name: (text, Command(config)) for name, (text, config) in RUNS.items()}
    command = tyro.extras.overridable_config_cli(
        commands,
        prog="python -m examples.train_classifier",
        description=__doc__,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    config, options = command.config, command.options
    name = next(argument for argument in sys.argv[1:] if argument in RUNS)
    if options.out is None:
        options = dataclasses.replace(
            options, out=Path("runs", f"{name}-{config.gc}-{config.seed}")
        )
    try:
        if options.distributed:
            jax.distributed.initialize(options.coordinator, options.processes, options.process)
        data = load_data(config, options.data_dir, partial=options.partial)
        mesh = meshes.make_mesh(options.data_parallel, options.fsdp)
        task = prepare(config, data, mesh, diagnose=options.diagnose)
    except (CheckpointError, DatasetError, ImportError, OSError, TypeError, ValueError) as error:
        sys.exit(f"cannot start: {error}")
    try:
        result = train(config, task, data, options, console)
    except (CheckpointError, DatasetError, OSError, StoppedError) as error:
        sys.exit(f"stopped: {error}")
    if result:
        print(json.dumps({"run": name, **result}))


if __name__ == "__main__":
    main()
