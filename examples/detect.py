"""Finds objects in a picture with the weights of one of torchvision's detectors.

    python -m examples.detect photo.jpg --weights maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth

It prints the name, the score and the box of each object, and saves the picture with boxes, names,
scores and masks drawn on it. The kind of the detector is read from the weights.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from examples.training.errors import SettingError, UserError, report_errors


@dataclasses.dataclass(frozen=True)
class Command:
    """The picture, the weights, and where the drawing goes."""

    image: tyro.conf.Positional[Path]
    """The picture."""
    weights: Path
    """A state dict of torchvision's Faster or Mask R-CNN, as .pth or .safetensors."""
    out: Path | None = None
    """The picture to save, by default IMAGE with the ending .objects.png in this folder."""
    score_threshold: float = 0.5
    """Leaves objects out whose score is not above this. From 0 to 1."""
    class_names: Path | None = None
    """A text file with the name of a class on each line, without the background. By default the
    names of COCO for 91 classes, and numbers for others."""
    norm_epsilon: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """The number that batch normalization adds to variances. By default it is 0 for the detectors whose weights
    torchvision calls COCO_V1 without v2 in the name, and 1e-5 for those of the name v2. Weights that you trained
    with torchvision need 1e-5."""

    def check(self) -> None:
        """Raises a `UserError` for what can be known to be wrong before anything is loaded."""
        if not 0 <= self.score_threshold <= 1:
            raise SettingError(f"--score-threshold must be 0 to 1, not {self.score_threshold}")
        if self.norm_epsilon is not None and not 0 <= self.norm_epsilon < 1:
            raise SettingError(
                f"--norm-epsilon must be 0 or a little more, not {self.norm_epsilon}"
            )
        if self.target.resolve() == self.image.resolve():
            raise SettingError(f"--out {self.target} is the picture itself: choose another name")
        if self.target.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise SettingError(f"--out {self.target} must end in .png or .jpg")
        if not self.target.parent.is_dir():
            raise SettingError(f"--out {self.target}: there is no folder {self.target.parent}")

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
    from examples.detection import pretrained
    from examples.detection.drawing import draw_objects
    from examples.models.pretrained import read_file

    picture = pictures.read_picture(command.image)
    model = pretrained.create_from_state(
        read_file(command.weights),
        norm_epsilon=command.norm_epsilon,
        score_threshold=command.score_threshold,
    )
    names = read_class_names(command.class_names, model.num_classes)
    prepared = pictures.prepare(picture)
    print(f"compiling for {prepared.images.shape[1]} x {prepared.images.shape[2]} pixels …")
    found = detection.detect(model, prepared.images, prepared.sizes)
    if not np.isfinite(found.scores).all():
        raise UserError(f"{command.weights}: these weights give scores that are not numbers")

    number = int(found.valid.sum())
    boxes = pictures.restore_boxes(found.boxes[0, :number], prepared.sizes[0], picture)
    labels = [names[label] for label in np.asarray(found.labels[0, :number])]
    scores = np.asarray(found.scores[0, :number])
    masks = None
    if isinstance(found, detection.MaskDetections):
        size = (picture.shape[0], picture.shape[1])
        masks = np.asarray(detection.paste_masks(found.masks[0, :number], boxes, size)) > 0.5
    for label, score, box in zip(labels, scores, boxes.round().astype(int), strict=True):
        print(f"{label} {score:.3f} at x {box[0]} to {box[2]}, y {box[1]} to {box[3]}")
    pictures.save_picture(draw_objects(picture, boxes, labels, scores, masks), command.target)
    print(f"{number} objects; picture: {command.target}")


def read_class_names(path: Path | None, num_classes: int) -> dict[int, str]:
    """Returns the name of each class but the background.

    Raises:
      UserError: the file has another number of names than there are classes, or is not text.
    """
    from examples.detection.coco_names import COCO_CLASSES, COCO_NAMES

    numbers = range(1, num_classes)
    if path is None:
        known = COCO_NAMES if num_classes == COCO_CLASSES else {}
        return {i: known.get(i, f"class {i}") for i in numbers}
    try:
        names = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: this is not a text file of names") from error
    names = [name.strip() for name in names if name.strip()]
    if len(names) != len(numbers):
        raise UserError(
            f"{path} has {len(names)} names, and the weights are for {len(numbers)} classes "
            "without the background"
        )
    return dict(zip(numbers, names, strict=True))


if __name__ == "__main__":
    main()
