"""The training loop: steps, evaluations, checkpoints and lines, for any net and any data."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
from jax.sharding import Mesh
from rich.console import Console

from examples.training.checkpoints import Checkpoints
from examples.training.errors import DivergedError, StoppedError
from examples.training.interrupt import interruptible
from examples.training.log import Line, Log, non_finite
from examples.training.progress import Bar, Clock, Means
from examples.training.sharding import put_batch
from examples.training.steps import Metrics, State, all_finite

# The record of a run before its first step, which has no checkpoint.
_START: Mapping[str, Any] = {"log": None, "means": {}, "clock": {}, "seconds": 0.0}


class Job(NamedTuple):
    """All that the loop needs to know about a run.

    Attributes:
      epochs: the number of passes over the data.
      steps_per_epoch: the number of batches in a pass.
      evaluate_every: the number of epochs between evaluations; the last epoch always has one.
      examples_per_step: the number of examples in a batch, for the speed that is reported.
      learning_rate: from the number of a step, counted from 0, to its learning rate. It is logged.
      mesh: the devices that share the batches.
      init: returns the state before the first step.
      train_step: from a state and a batch to the next state and the metrics of the step.
      evaluate: from a state to metrics by name. A DivergedError of it says what is not finite.
      batches: the training batches of this process, without end.
      progress: how the progress bar writes a metric: {"loss": "loss {:.4f}"}.
      data: a digest of the data, by what it is for: {"training": "2f1c…", "evaluation": "09ab…"}. A run
        continues only with the data it began with.
    """

    epochs: int
    steps_per_epoch: int
    evaluate_every: int
    examples_per_step: int
    learning_rate: Callable[[int], Any]
    mesh: Mesh
    init: Callable[[], State]
    train_step: Callable[[State, Any], tuple[State, Metrics]]
    evaluate: Callable[[State], Mapping[str, float]]
    batches: grain.IterDataset
    progress: Mapping[str, str]
    data: Mapping[str, str]

    @property
    def steps(self) -> int:
        """The number of steps of the whole run."""
        return self.epochs * self.steps_per_epoch


class Finished(NamedTuple):
    """A run that is finished.

    Attributes:
      lines: what the run logged, in order; empty in all processes but the first.
      steps: the number of steps.
      seconds: the time that the run took, over all its restarts.
      rates: its speed, by the names of `progress.Clock.rates`.
      state: the state after the last step.
    """

    lines: list[Line]
    steps: int
    seconds: float
    rates: Mapping[str, float]
    state: State


def train(
    job: Job,
    folder: Path,
    *,
    checkpoint_every: int | None = None,
    log_every: int = 50,
    console: Console,
) -> Finished:
    """Makes a run in a folder, or continues the run that is there from its last checkpoint.

    A continued run has the same numbers, to the last bit, as one that was never stopped.

    Args:
      job: the run.
      folder: the folder of the run, which `folder.open_folder` keeps for this process.
      checkpoint_every: the number of steps between checkpoints, by default one epoch.
      log_every: the number of steps between logged lines.
      console: where progress is shown.

    Raises:
      DivergedError: a metric, an evaluation or a weight is not finite.
      StoppedError: the run was stopped by Ctrl-C or by a full disk, or it began with other data.
      CheckpointError: a checkpoint cannot be written or read.
    """
    begin = time.perf_counter()
    with contextlib.ExitStack() as stack:
        interrupted = stack.enter_context(interruptible())
        checkpoints = stack.enter_context(Checkpoints(folder / "checkpoints"))
        stack.enter_context(_disk_errors(checkpoints))
        batches = stack.enter_context(contextlib.closing(iter(job.batches)))
        state = job.init()
        done, state, record = checkpoints.restore(state, batches) or (0, state, _START)
        _require_same_data(job, record, folder)
        writes = jax.process_index() == 0
        log = stack.enter_context(Log(folder, step=done, place=record["log"], writes=writes))
        if log.moved:
            console.print(f"no checkpoint covers the lines of an earlier start: see {log.moved}")
        means, clock = Means(**record["means"]), Clock(**record["clock"])
        before = record["seconds"]
        bar = stack.enter_context(Bar(console, done, job.steps, job.progress))

        def diverged(number, problem):
            epoch, batch = divmod(number - 1, job.steps_per_epoch)
            return DivergedError(
                f"step {number} (batch {batch + 1} of epoch {epoch + 1}): {problem}; "
                f"{checkpoints.last_good()}. Try a lower --learning-rate, in proportion to a smaller "
                "--batch-size, or a warm-up"
            )

        def report(number, values):
            values = {key: float(value) for key, value in jax.device_get(values).items()}
            if problem := non_finite(values):
                raise diverged(number, problem)
            means.add(values)
            epoch = (number - 1) // job.steps_per_epoch + 1
            if number % log_every == 0:
                rate = float(job.learning_rate(number - 1))
                line = {"kind": "step", "step": number, "epoch": epoch, "learning_rate": rate}
                log.write(line | values, clock.rates())
            bar.show(number, f"epoch {epoch} of {job.epochs}", means.means() | clock.rates())

        pending = None
        for number in range(done + 1, job.steps + 1):
            start = time.perf_counter()
            batch = put_batch(next(batches), job.mesh)
            waited = time.perf_counter() - start
            state, values = job.train_step(state, batch)
            # The previous step is reported, because waiting for this one's metrics would leave the
            # device without work.
            if pending is not None:
                report(*pending)
            pending = number, values

            epoch, rest = divmod(number, job.steps_per_epoch)
            stop = interrupted(number)
            first = number == done + 1  # this step compiles, so it is not timed
            due = number % (checkpoint_every or job.steps_per_epoch) == 0
            save = due or number == job.steps or stop
            if save or first or rest == 0:
                report(*pending)
                pending = None
            if not first:
                clock.add(time.perf_counter() - start, waited, job.examples_per_step)
            if rest == 0:
                line = {"step": number, "epoch": epoch}
                log.write({"kind": "train", **line, **means.means()}, clock.rates())
                means.clear()
                if epoch % job.evaluate_every == 0 or epoch == job.epochs:
                    try:
                        tested = dict(job.evaluate(state))
                    except DivergedError as error:
                        raise diverged(number, f"in the evaluation {error}") from error
                    if problem := non_finite(tested):
                        raise diverged(number, f"in the evaluation the {problem}")
                    log.write({"kind": "test", **line, **tested})
            if save:
                if not all_finite(state):
                    raise diverged(number, "it leaves weights that are not finite")
                # Copies, because they are written while training continues.
                record = {
                    "log": log.place(),
                    "means": dict(vars(means)),
                    "clock": dict(vars(clock)),
                    "seconds": before + time.perf_counter() - begin,
                    "data": dict(job.data),
                }
                checkpoints.save(number, state, batches, record)
            if stop:
                checkpoints.wait()
                cause = "Ctrl-C" if jax.process_count() == 1 else "Ctrl-C or SIGTERM"
                raise StoppedError(
                    f"{cause} at step {number} of {job.steps}; {checkpoints.last_good()}. "
                    "The same command continues from there"
                )
        checkpoints.wait()
        lines = log.lines()
    seconds = before + time.perf_counter() - begin
    return Finished(lines, job.steps, seconds, clock.rates(), state)


def _require_same_data(job: Job, record: Mapping[str, Any], folder: Path) -> None:
    # Checkpoints of earlier versions do not name their data.
    old = record.get("data", job.data)
    if changed := [kind for kind, digest in job.data.items() if old.get(kind) != digest]:
        raise StoppedError(
            f"{folder} holds a run that began with other data for {' and '.join(changed)}. Pass "
            "another --out, or the data of that run"
        )


@contextlib.contextmanager
def _disk_errors(checkpoints: Checkpoints) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoppedError(f"{error}; {checkpoints.last_good()}") from error
