"""Trains an image classifier from scratch or from pretrained weights.

    python -m examples.train_classifier --help
    python -m examples.train_classifier digits --gc off
    python -m examples.train_classifier table1-resnet18 --data-dir ~/data --gc conv

A run that was stopped, for whatever reason, continues from its last checkpoint when the same command
is given again, and ends with the same numbers as a run that was never stopped.
"""

import dataclasses
import json
from pathlib import Path

import tyro

from examples.classification.config import Config
from examples.classification.presets import PRESETS
from examples.training.command import parse_command
from examples.training.errors import report_errors
from examples.training.options import Options


@dataclasses.dataclass(frozen=True)
class Command:
    """A named run, whose settings and options can be changed by flags."""

    config: Config
    options: tyro.conf.OmitArgPrefixes[Options] = dataclasses.field(default_factory=Options)
    run: tyro.conf.Suppress[str] = ""


def main() -> None:
    with report_errors("cannot start"):
        command = parse_command(
            {name: (title, Command(config, run=name)) for name, (title, config) in PRESETS.items()},
            program="python -m examples.train_classifier",
            description=__doc__,
        )
        # These take seconds, which the help of the program can do without.
        from absl import logging
        from rich.console import Console

        from examples.classification.task import TITLES, Trainer
        from examples.training.curves import draw_curves
        from examples.training.folder import open_folder, write_result
        from examples.training.loop import train

        # Orbax logs the tracebacks of its threads; the errors themselves are raised and shown below.
        logging.set_verbosity(logging.FATAL)
        config, options = command.config, command.options
        folder = options.out or Path("runs", f"{command.run}-{config.gc}-{config.seed}")
        mesh = options.start()
        trainer = Trainer(
            mesh, data_dir=options.data_dir, partial=options.partial, workers=options.workers
        )
        task = trainer.prepare(config, diagnose=options.diagnose)
    with report_errors("stopped"):
        with open_folder(folder, config):
            finished = train(
                task.job,
                folder,
                checkpoint_every=options.checkpoint_every,
                log_every=options.log_every,
                console=Console(stderr=True),
            )
            result = write_result(folder, config, finished)
            if result:
                draw_curves(finished.lines, TITLES, folder / "curves.png")
        if result:
            print(json.dumps({"run": command.run, **result}))


if __name__ == "__main__":
    main()
