"""Makes the missing runs of the sweep: E1 to E5 of PLAN.md.

    python -m examples.experiments.sweep.run
    python -m examples.experiments.sweep.run mlp-letter mlp-letter-layer

If it was stopped for any reason, the same command continues where it was. Results are added
to examples/experiments/results/sweep/, which `python -m examples.experiments.sweep.report` reads.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from examples.experiments.store import RESULTS, locked, require_same_net
from examples.training.errors import report_errors

if TYPE_CHECKING:
    from examples.experiments.sweep.results import TaskResults
    from examples.experiments.sweep.tasks import Task

FOLDER = RESULTS / "sweep"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Makes the missing runs of the sweep, one point (a task, an arm and a rate) after the other."""

    tasks: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """The tasks, in this order. By default all of them, the cheapest experiments first."""
    data_dir: Path | None = None
    """A folder that holds fashion-mnist/ and, for finetuned-emoji, emoji-datasource-google/. By default, the folder of Debian's package dataset-fashion-mnist, and ./node_modules."""
    results: Path = FOLDER
    """The folder that results are read from and added to."""
    allow_dirty: bool = False
    """Make runs although Python files differ from the last commit. Such results are for trials only."""

    def __post_init__(self):
        from examples.experiments.sweep.tasks import find_task

        for name in self.tasks:
            find_task(name)


def make_runs(
    tasks: "list[Task]", folder: Path, data_dir: Path | None, show: Callable[[str], None]
) -> None:
    """Makes all missing runs of tasks.

    Args:
      tasks: the tasks, in the order of their runs.
      folder: the folder of results.
      data_dir: the folder of Fashion-MNIST and of the emoji; None for where packages put them.
      show: called with a line of text before each point.

    Raises:
      UserError: data cannot be read, or results cannot be read or added to.
      OSError: a folder cannot be written to.
    """
    from examples.experiments.sweep.results import TaskResults
    from examples.experiments.sweep.training import train_point
    from examples.training.provenance import provenance

    # All results are read before work begins, so that a bad line is found at once.
    every = {task.name: TaskResults(task, folder) for task in tasks}
    origin = provenance()
    for task in tasks:
        with locked(folder / f"{task.name}.jsonl"):
            results = every[task.name] = TaskResults(task, folder)
            made = {**origin, **_start_net(results, data_dir)}
            if results.waits_for:
                show(f"{task.name} waits for {results.waits_for}, whose results decide its rates")
            splits = None
            while points := results.missing_points():
                splits = splits or [task.load(seed, data_dir) for seed in task.seeds]
                point = points[0]
                left = _format(sum(_seconds_left(other) for other in every.values()))
                show(f"{task.name}, {point.arm} at {point.rate:g}; time left: about {left}")
                missing = results.missing_seeds(point)
                # A point of an MLP is one program for all its seeds, so they are trained together.
                groups = [missing] if task.family == "mlp" else [[seed] for seed in missing]
                for seeds in groups:
                    chosen = [splits[task.seeds.index(seed)] for seed in seeds]
                    for seed, record in zip(seeds, train_point(point, chosen, seeds), strict=True):
                        run = results.run(point.arm, point.rate, seed)
                        results.store.add(run, {**record, **made})
    show("done")


def _start_net(results: "TaskResults", data_dir: Path | None) -> dict[str, str]:
    """Makes the net that a task of fine-tuning starts from, and returns what names it in results.

    Raises:
      ResultsError: the task has results that start from another net.
    """
    if results.task.family != "pretrained" or results.complete:
        return {}
    from examples.classification.weights import digest_net
    from examples.experiments.sweep.pretraining import FOLDER, pretrain

    pretrain(data_dir)
    digest = digest_net(FOLDER)
    starts = {record.get("pretrained") for record in results.store.records()}
    require_same_net(results.store.path, starts, digest, FOLDER)
    return {"pretrained": digest}


def _seconds_left(results: "TaskResults") -> float:
    """Estimates the seconds that a task still takes, from its own runs or from a trial."""
    from examples.experiments.sweep.arms import CONTROLS

    done = [record["seconds"] for record in results.store.records()]
    # The median, because the first runs of an arm include its compilation.
    each = statistics.median(done) if done else results.task.seconds
    task = results.task
    points = len(task.arms) * (len(task.grid) or 2) + 2 * len(CONTROLS) * task.controls
    # A grid that is extended has more runs than are expected here.
    expected = max(points * len(task.seeds), len(done))
    return each * (expected - len(done)) if not results.complete else 0.0


def _format(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def main() -> None:
    with report_errors("stopped"):
        arguments = tyro.cli(
            Arguments, prog="python -m examples.experiments.sweep.run", description=__doc__
        )
        # Imported here because JAX and Flax take seconds, which the help can do without.
        from examples.experiments.sweep.tasks import TASKS, find_task
        from examples.training.provenance import require_commit

        if not arguments.allow_dirty:
            require_commit()
        tasks = [find_task(name) for name in arguments.tasks or TASKS]

        def show(text: str) -> None:
            print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

        make_runs(tasks, arguments.results, arguments.data_dir, show)


if __name__ == "__main__":
    main()
