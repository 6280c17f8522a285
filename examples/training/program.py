"""Makes a prepared run, as the program of every trainer does."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from examples.training.command import BaseCommand
from examples.training.curves import draw_curves
from examples.training.errors import report_errors
from examples.training.folder import open_folder, write_result
from examples.training.loop import Job, train
from examples.training.steps import State


def run_program(
    command: BaseCommand,
    job: Job,
    titles: Mapping[str, str],
    *,
    finish: Callable[[State, Path], None] | None = None,
) -> None:
    """Makes a run in its folder, writes and prints its result, and draws its curves.

    Args:
      command: the settings and options.
      job: what the loop needs to know of the run.
      titles: the metrics whose curves are drawn, with their titles; see `draw_curves`.
      finish: writes what else a finished run leaves, from its last state into its folder. All
        processes call it.
    """
    folder, options = command.folder, command.options
    with report_errors("stopped"):
        with open_folder(folder, command.config):
            finished = train(
                job,
                folder,
                checkpoint_every=options.checkpoint_every,
                log_every=options.log_every,
                console=Console(stderr=True),
            )
            result = write_result(folder, command.config, finished)
            if result:
                draw_curves(finished.lines, titles, folder / "curves.png")
            if finish:
                finish(finished.state, folder)
        if result:
            print(json.dumps({"run": command.run, **result}))
