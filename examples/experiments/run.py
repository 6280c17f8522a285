"""Makes the missing runs of the paper's tables and figures, and keeps their results.

    python -m examples.experiments.run
    python -m examples.experiments.run table1 figure5
    python -m examples.experiments.run table1 --scale paper --data-dir ~/data

If it was stopped for any reason, the same command continues where it was. Results are added
to examples/experiments/results/, which `examples.experiments.tables` and
`examples.experiments.figures` read.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from examples.experiments.columns import Scale
from examples.training.errors import SettingError, report_errors


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Makes the missing runs of experiments, one after the other."""

    experiments: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Any of table1, table2, table3 (with Figure 6), table4 (with Figure 7), table5, table6, figure3, figure4, figure5, curvature and sources (the nets that table4 to table6 start from, made when they are needed). By default, figure5 and all tables. The shortest ones come first."""
    scale: Scale = "cpu"
    """The settings and data of the paper (paper), or narrow nets on few small images (cpu)."""
    data_dir: Path | None = None
    """The folder of the paper's data sets and, for table4 to table6 and figure3, of the weights to start from, such as PyTorch's resnet50.safetensors."""
    seeds: int | None = None
    """Make only this many seeds of each column."""
    allow_dirty: bool = False
    """Make runs although Python files differ from the last commit. Such results are for trials only."""

    def __post_init__(self):
        from examples.experiments.definitions import find

        for name in self.experiments:
            experiment = find(name, self.scale)
            tuned = any(column.rates for column in experiment.columns[self.scale])
            if self.seeds is not None and self.seeds < 1 + tuned:
                raise SettingError(
                    f"--seeds {self.seeds}: it must be at least {1 + tuned}"
                    + tuned * ", because the other seeds choose the learning rate of each seed"
                )


def default_names(scale: Scale) -> list[str]:
    """Returns the experiments that are made if none is named."""
    from examples.experiments.definitions import EXPERIMENTS
    from examples.experiments.tables import TABLES

    return [name for name in TABLES if scale in EXPERIMENTS[name].columns]


def main() -> None:
    with report_errors("stopped"):
        arguments = tyro.cli(
            Arguments, prog="python -m examples.experiments.run", description=__doc__
        )
        # These imports take seconds, and the help of the program does not need them.
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        from examples.experiments.runner import make_runs, plan_runs
        from examples.experiments.store import RESULTS
        from examples.training.provenance import require_commit

        if not arguments.allow_dirty:
            require_commit()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        names = arguments.experiments or default_names(arguments.scale)
        with Progress(*columns, console=Console(stderr=True)) as progress:
            bar = progress.add_task("starting")

            def show(text, done, total):
                progress.update(bar, description=text, completed=done, total=total)

            plan = plan_runs(names, arguments.scale, arguments.data_dir, arguments.seeds)
            make_runs(plan, results=RESULTS, work=Path("runs", "experiments"), show=show)


if __name__ == "__main__":
    main()
