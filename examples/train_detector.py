"""Trains a Faster or a Mask R-CNN on COCO, or on any data set in COCO's format.

    python -m examples.train_detector --help
    python -m examples.train_detector scenes --gc off
    python -m examples.train_detector table6-r50 --data-dir ~/coco --pretrained resnet50.pth

The folder --data-dir holds annotations/instances_SPLIT.json and a folder of images for each split.
Pretrained weights are those of a classifier of torchvision. For the paper's ResNeXts, which
torchvision lacks, timm's resnext101_32x4d.gluon_in1k and resnext101_64x4d.gluon_in1k have the same
names.

A run that was stopped, for whatever reason, continues from its last checkpoint when the same command
is given again, and ends with the same numbers as a run that was never stopped.
"""

import dataclasses
import json
from pathlib import Path

import tyro

from examples.detection.config import Config
from examples.detection.presets import PRESETS
from examples.training.command import parse_command
from examples.training.errors import SettingError, report_errors
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
            program="python -m examples.train_detector",
            description=__doc__,
        )
        # These take seconds, which the help of the program can do without.
        from absl import logging
        from rich.console import Console

        from examples.detection.results import write_scores
        from examples.detection.task import TITLES, Trainer, scale_learning_rate
        from examples.training.curves import draw_curves
        from examples.training.folder import open_folder, write_result
        from examples.training.loop import train

        # Orbax logs the tracebacks of its threads; the errors themselves are raised and shown below.
        logging.set_verbosity(logging.FATAL)
        config, options = command.config, command.options
        console = Console(stderr=True)
        if advice := scale_learning_rate(config, PRESETS[command.run][1]):
            console.print(advice, soft_wrap=True)
        if options.partial:
            raise SettingError("--partial is for the classifier's data sets only: leave it out")
        folder = options.out or Path("runs", f"{command.run}-{config.gc}-{config.seed}")
        trainer = Trainer(options.start(), data_dir=options.data_dir, workers=options.workers)
        task = trainer.prepare(config, diagnose=options.diagnose)
    with report_errors("stopped"):
        with open_folder(folder, config):
            finished = train(
                task.job,
                folder,
                checkpoint_every=options.checkpoint_every,
                log_every=options.log_every,
                console=console,
            )
            result = write_result(folder, config, finished)
            if result:
                titles = {
                    name: TITLES[name] for name in TITLES if config.masks or name != "mask_AP"
                }
                draw_curves(finished.lines, titles, folder / "curves.png")
                write_scores(task, folder)
        if result:
            print(json.dumps({"run": command.run, **result}))


if __name__ == "__main__":
    main()
