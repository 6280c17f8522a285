"""Trains an image classifier from scratch or from pretrained weights.

    python -m examples.train_classifier --help
    python -m examples.train_classifier digits --gc off
    python -m examples.train_classifier table1-resnet18 --data-dir ~/data --gc conv

A run that was stopped, for whatever reason, continues from its last checkpoint when the same command
is given again, and ends with the same numbers as a run that was never stopped.
"""

import dataclasses

from examples.classification.config import Config
from examples.classification.presets import PRESETS
from examples.training.command import BaseCommand, parse_command
from examples.training.errors import report_errors


@dataclasses.dataclass(frozen=True)
class Command(BaseCommand):
    """A named run, whose settings and options can be changed by flags."""

    config: Config


def main() -> None:
    with report_errors("cannot start"):
        command = parse_command(
            Command, PRESETS, program="python -m examples.train_classifier", description=__doc__
        )
        # These take seconds, which the help of the program can do without.
        from examples.classification.task import TITLES, Trainer
        from examples.training.program import run_program

        options = command.options
        trainer = Trainer(
            options.start(),
            data_dir=options.data_dir,
            partial=options.partial,
            workers=options.workers,
        )
        task = trainer.prepare(command.config, diagnose=options.diagnose)
    run_program(command, task.job, TITLES)


if __name__ == "__main__":
    main()
