"""Makes a prepared run, as the program of every trainer does."""

import json
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from examples.training.command import BaseCommand
from examples.training.errors import report_errors
from examples.training.folder import open_folder, write_result
from examples.training.loop import Finished, Job, train


def run_program(
    command: BaseCommand, job: Job, write_figures: Callable[[Finished, Path], None]
) -> None:
    """Makes a run in its folder, and writes and prints its result.

    Args:
      command: the settings and options.
      job: what the loop needs to know of the run.
      write_figures: writes what belongs beside the result of a finished run into its folder.
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
                write_figures(finished, folder)
        if result:
            print(json.dumps({"run": command.run, **result}))
