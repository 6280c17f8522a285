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
import functools

from examples.detection.config import Config
from examples.detection.presets import PRESETS
from examples.training.command import BaseCommand, parse_command
from examples.training.errors import SettingError, report_errors


@dataclasses.dataclass(frozen=True)
class Command(BaseCommand):
    """A named run, whose settings and options can be changed by flags."""

    config: Config


def main() -> None:
    with report_errors("cannot start"):
        command = parse_command(
            Command, PRESETS, program="python -m examples.train_detector", description=__doc__
        )
        # These take seconds, which the help of the program can do without.
        from rich.console import Console

        from examples.detection.results import write_scores
        from examples.detection.task import TITLES, Trainer, scale_learning_rate
        from examples.training.program import run_program

        config, options = command.config, command.options
        if advice := scale_learning_rate(config, PRESETS[command.run][1]):
            Console(stderr=True).print(advice, soft_wrap=True)
        if options.partial:
            raise SettingError("--partial is for the classifier's data sets only: leave it out")
        trainer = Trainer(options.start(), data_dir=options.data_dir, workers=options.workers)
        task = trainer.prepare(config, diagnose=options.diagnose)
        titles = {name: TITLES[name] for name in TITLES if config.masks or name != "mask_AP"}
    run_program(command, task.job, titles, finish=functools.partial(write_scores, task))


if __name__ == "__main__":
    main()
