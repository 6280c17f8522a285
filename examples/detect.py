"""Finds objects in a picture with the weights of one of torchvision's detectors, or with your own.

    python -m examples.detect photo.jpg --weights maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth
    python -m examples.detect scene.png --weights runs/scenes-conv+fc-0

It prints the name, the score and the box of each object, and saves the picture with boxes, names,
scores and masks drawn on it. The kind of the detector is read from the weights, or from the folder
of a run of examples.train_detector.
"""

import dataclasses
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from examples.training.errors import SettingError, UserError, report_errors

if TYPE_CHECKING:
    from examples.detection import RCNN


@dataclasses.dataclass(frozen=True)
class Command:
    """The picture, the weights, and where the drawing goes."""

    image: tyro.conf.Positional[Path]
    """The picture. Of an animated one, the first frame is taken."""
    weights: Path
    """A state dict of torchvision's Faster or Mask R-CNN, as .pth or .safetensors, or the folder of
    a run of examples.train_detector, whose last checkpoint is taken."""
    out: Path | None = None
    """The picture to save, by default IMAGE with the ending .objects.png in this folder."""
    score_threshold: float = 0.5
    """Leave out objects whose score is not above this, which is from 0 to 1."""
    class_names: Path | None = None
    """A text file with the name of a class on each line, without the background. By default the
    names are those of a finished run, or those of COCO for 91 classes, and otherwise numbers."""
    norm_epsilon: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """The number that batch normalization adds to variances. By default it is 1e-5 for detectors
    with v2 in the name, and 0 for the others, because torchvision does the same with the weights
    that it calls COCO_V1. Weights that you trained yourself, and not from those, need 1e-5."""

    def check(self) -> None:
        """Raises a `UserError` for what can be known to be wrong before anything is loaded."""
        if not 0 <= self.score_threshold <= 1:
            raise SettingError(f"--score-threshold must be 0 to 1, not {self.score_threshold}")
        if self.norm_epsilon is not None and not 0 <= self.norm_epsilon < 1:
            raise SettingError(
                f"--norm-epsilon must be 0 or a little more, not {self.norm_epsilon}"
            )
        if self.norm_epsilon is not None and self.weights.is_dir():
            raise SettingError(
                "--norm-epsilon is for a file of weights: leave it out, because the run in "
                f"{self.weights} has its own"
            )
        target = self.target
        if target.resolve() == self.image.resolve():
            raise SettingError(f"--out {target} is the picture itself: choose another name")
        if target.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise SettingError(f"--out {target} must end in .png or .jpg")
        if target.is_dir():
            raise SettingError(f"--out {target} is a folder: name a picture in it")
        if not target.parent.is_dir():
            raise SettingError(f"--out {target}: there is no folder {target.parent}")
        try:
            tempfile.TemporaryFile(dir=target.parent).close()
        except OSError as error:
            raise SettingError(
                f"--out {target}: no file can be written in that folder: {error.strerror}"
            ) from error

    @property
    def target(self) -> Path:
        """Where the picture with the objects goes."""
        return self.out or Path(f"{self.image.stem}.objects.png")


def main() -> None:
    with report_errors("stopped"):
        command = tyro.cli(Command, prog="python -m examples.detect", description=__doc__)
        command.check()
        run(command)


def run(command: Command) -> None:
    """Finds the objects, prints them and saves the picture."""
    # These take seconds, which the help of the program can do without.
    import numpy as np

    from examples import detection
    from examples.detection import picture as pictures
    from examples.detection.drawing import draw_objects

    picture = pictures.read_picture(command.image)
    names = read_names(command.class_names) if command.class_names else None
    model, own_names, prepare = load_detector(command)
    if names is None:
        names = own_names or choose_names(model.num_classes)
    elif len(names) != model.num_classes - 1:
        raise UserError(
            f"--class-names {command.class_names} has {len(names)} names, and {command.weights} is "
            f"for {model.num_classes - 1} classes: write the name of each class on a line of its "
            "own, without the background"
        )
    prepared = prepare(picture)
    print(f"compiling for {prepared.images.shape[1]} x {prepared.images.shape[2]} pixels …")
    found = detection.detect(model, prepared.images, prepared.sizes)
    if not np.isfinite(found.scores).all():
        advice = "If you trained them yourself, try --norm-epsilon 1e-5"
        raise UserError(
            f"{command.weights}: the net computes numbers that are not finite with these weights. "
            f"{'' if command.weights.is_dir() else advice}"
        )

    number = int(found.valid.sum())
    boxes = pictures.restore_boxes(found.boxes[0, :number], prepared.sizes[0], picture)
    labels = [names[label - 1] for label in np.asarray(found.labels[0, :number])]
    scores = np.asarray(found.scores[0, :number])
    masks = None
    if isinstance(found, detection.MaskDetections):
        paste = functools.partial(detection.paste_masks, aligned=model.settings.aligned)
        small, size = np.asarray(found.masks[0]), (picture.shape[0], picture.shape[1])
        # One after the other: a hundred masks of a large picture are gigabytes in float32.
        masks = [np.asarray(paste(small[[i]], boxes[[i]], size))[0] > 0.5 for i in range(number)]
    for label, score, box in zip(labels, scores, boxes.round().astype(int), strict=True):
        print(f"{label} {score:.3f} at x {box[0]} to {box[2]}, y {box[1]} to {box[3]}")
    pictures.save_picture(draw_objects(picture, boxes, labels, scores, masks), command.target)
    print(f"{number} objects; picture: {command.target}")


def load_detector(
    command: Command,
) -> "tuple[RCNN, list[str] | None, Callable[[Any], Any]]":
    """Returns the detector, the names of its classes if they are known, and what prepares pictures.

    Raises:
      UserError: the weights cannot be read, or are not those of a detector.
    """
    from examples.detection import picture, pretrained
    from examples.models.pretrained import WeightsError, read_file

    threshold = command.score_threshold
    if command.weights.is_dir():
        from examples.detection.trained import read_run

        trained = read_run(command.weights, score_threshold=threshold)
        return trained.model, trained.names, trained.prepare
    state = read_file(command.weights)
    try:
        model = pretrained.create_from_state(
            state, norm_epsilon=command.norm_epsilon, score_threshold=threshold
        )
    except WeightsError as error:
        raise WeightsError(f"{command.weights}: {error}") from error
    return model, None, picture.prepare


def choose_names(num_classes: int) -> list[str]:
    """Returns a name for each class but the background, if the user has none."""
    from examples.detection.coco_names import COCO_CLASSES, COCO_NAMES

    known = COCO_NAMES if num_classes == COCO_CLASSES else {}
    return [known.get(i, f"class {i}") for i in range(1, num_classes)]


def read_names(path: Path) -> list[str]:
    """Reads the names of classes, one on a line. Empty lines are left out.

    Raises:
      UserError: the file is missing or is not text.
    """
    if not path.is_file():
        raise UserError(f"--class-names {path}: no such file")
    try:
        # With "utf-8-sig", the mark that some editors put in front of a text is no part of a name.
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(
            f"--class-names {path}: this is not text in UTF-8: save it with that encoding"
        ) from error
    return [line.strip() for line in lines if line.strip()]


if __name__ == "__main__":
    main()
