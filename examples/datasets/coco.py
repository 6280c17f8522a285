"""Data sets in COCO's format (Lin et al. 2014, cocodataset.org/#format-data): objects in images.

A split is a folder of images and one file of annotations, which is read and checked once. What is
kept of it are flat arrays and the outlines of the objects.
"""

import collections
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from examples.datasets.digest import digest_of_data
from examples.datasets.files import check_images, check_names, decode, expect, find_folder
from examples.datasets.outlines import (
    Segmentation,
    draw_mask,
    find_extent,
    is_number,
    is_whole,
    read_outline,
)
from examples.datasets.types import DatasetError

ORIGIN = "COCO: cocodataset.org/#download"
# Boxes that end less than this outside of their image are cut off and not refused. COCO rounds the
# numbers of its boxes to a hundredth of a pixel, and other tools to whole pixels.
_ROUNDING = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class Coco:
    """One split of a data set in COCO's format. Its images are read one by one.

    Objects that cannot be trained on are left out: crowds, objects marked as `ignore`, objects of
    the area 0 or less than one pixel wide or high, and, if masks are wanted, objects whose outline
    has no pixel. The annotation file still holds them for the evaluation.

    Attributes:
      path: the annotation file.
      sha256: the SHA-256 digest of that file.
      image_dir: the folder of the images.
      names: the N names of the images, relative to `image_dir`.
      image_ids: int64 (N,), the numbers of the images in the file.
      sizes: int32 (N, 2), height and width.
      category_ids: the numbers of the K classes in the file. Class k of the labels is
        `category_ids[k - 1]`, because 0 is the background.
      class_names: the K names.
      first: int64 (N + 1,). The objects of image i are `first[i]` to `first[i + 1] - 1`.
      boxes: float32 (A, 4) as x1, y1, x2, y2, in pixels.
      labels: int32 (A,) from 1 to K.
      object_ids: int64 (A,), the numbers of the objects in the file.
      segmentations: A outlines; see `outlines.draw_mask`.
    """

    path: Path
    sha256: str
    image_dir: Path
    names: Sequence[str]
    image_ids: np.ndarray
    sizes: np.ndarray
    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    first: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    object_ids: np.ndarray
    segmentations: Sequence[Segmentation]

    def __len__(self) -> int:
        return len(self.names)

    def read_image(self, index: int) -> np.ndarray:
        """Reads an image as uint8 (height, width, 3), as it is stored: it is not turned.

        Raises:
          DatasetError: the file is missing or broken, or has another size than its annotation.
        """
        path = self.image_dir / self.names[index]
        image = decode(os.fspath(path))
        height, width = self.sizes[index].tolist()
        if image.shape[:2] != (height, width):
            turned = image.shape[:2] == (width, height) and _is_turned(path)
            advice = ". The file's EXIF entry turns it: save it turned, without that entry"
            raise DatasetError(
                f"{path}: the image has {image.shape[1]} x {image.shape[0]} pixels, and "
                f"{self.path} says {width} x {height} for image {self.image_ids[index]}"
                f"{advice if turned else ''}"
            )
        return image

    def objects(self, index: int) -> slice:
        """Returns where the objects of an image are in `boxes`, `labels` and `segmentations`."""
        return slice(int(self.first[index]), int(self.first[index + 1]))

    def draw_masks(self, index: int) -> np.ndarray:
        """Draws the objects of an image: bool (G, height, width)."""
        size = (int(self.sizes[index, 0]), int(self.sizes[index, 1]))
        outlines = self.segmentations[self.objects(index)]
        masks = [draw_mask(outline, size) for outline in outlines]
        return np.stack(masks) if masks else np.zeros((0, *size), bool)

    def digest(self, rows: np.ndarray) -> str:
        """Returns a digest of the annotation file and of the names of some images, not of their pixels.

        Args:
          rows: the places of the images, in their order.
        """
        return digest_of_data([self.sha256], [self.names[int(row)] for row in rows])


def load_coco(data_dir: Path | None, split: str, *, masks: bool = False) -> Coco:
    """Reads `annotations/instances_SPLIT.json` of a folder; its images are in the folder SPLIT.

    Args:
      data_dir: the folder.
      split: the name of the split, such as "train2017".
      masks: whether each object must have an outline.

    Raises:
      DatasetError: a file is missing, an image is cut short, or an annotation is broken. The
        message names the file, and the number of the image or the object if there is one.
    """
    folder = find_folder(data_dir, "coco", ORIGIN)
    return read_coco(
        folder / "annotations" / f"instances_{split}.json", folder / split, masks=masks
    )


def read_coco(path: Path, image_dir: Path, *, masks: bool = False) -> Coco:
    """Reads an annotation file. See `load_coco`."""
    with expect(path, "annotations in COCO's format"):
        file = path.read_bytes()
        content = json.loads(file)
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: expected annotations in COCO's format, found a list or value")
    images, annotations, categories = (
        _entries(path, content, key) for key in ("images", "annotations", "categories")
    )
    for key, entries in {"image": images, "category": categories}.items():
        if not entries:
            raise DatasetError(f"{path}: expected at least one {key}, found none")
    image_rows = _by_id(path, "image", images)
    _by_id(path, "annotation", annotations)
    category_ids = tuple(sorted(_by_id(path, "category", categories)))
    labels = {number: label for label, number in enumerate(category_ids, 1)}
    class_names = _name_classes(categories)

    names = [_text(path, entry, "file_name") for entry in images]
    check_names(path, names, lambda row: f"image {images[row]['id']}")
    sizes = np.array([[_side(path, e, "height"), _side(path, e, "width")] for e in images])
    sizes = sizes.astype(np.int32).reshape(-1, 2)
    check_images(image_dir, names, lambda row: f"image {images[row]['id']} of {path}")

    kept: list[tuple[int, int, np.ndarray, int, Segmentation]] = []
    for entry in annotations:
        where = f"{path}, annotation {entry['id']}"
        row = _look_up(where, entry, "image", image_rows)
        label = _look_up(where, entry, "category", labels)
        height, width = sizes[row].tolist()
        box = _box(where, entry, height, width)
        area = entry.get("area", 0)
        if not is_number(area) or area < 0:
            raise DatasetError(f"{where}: expected an area of 0 or more, found {str(area)[:80]}")
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise DatasetError(f"{where}: iscrowd must be 0 or 1, not {crowd!r}")
        outline = read_outline(where, entry.get("segmentation"), (height, width))
        thin = (box[2:] - box[:2] < 1).any()
        if crowd or entry.get("ignore") or thin or entry.get("area") == 0:
            continue
        if masks and not _is_drawn(where, outline, box, (height, width)):
            continue
        kept.append((row, label, box, entry["id"], outline))
    kept.sort(key=lambda item: item[0])  # stable: objects of an image stay in the file's order
    rows = np.array([item[0] for item in kept], np.int64)
    return Coco(
        path=path,
        sha256=hashlib.sha256(file).hexdigest(),
        image_dir=image_dir,
        names=names,
        image_ids=np.array([entry["id"] for entry in images], np.int64),
        sizes=sizes,
        category_ids=category_ids,
        class_names=tuple(class_names[number] for number in category_ids),
        first=np.searchsorted(rows, np.arange(len(images) + 1)),
        boxes=np.array([item[2] for item in kept], np.float32).reshape(-1, 4),
        labels=np.array([item[1] for item in kept], np.int32),
        object_ids=np.array([item[3] for item in kept], np.int64),
        segmentations=[item[4] for item in kept],
    )


def _entries(path: Path, content: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    entries = content.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DatasetError(f'{path}: expected annotations in COCO\'s format, which list "{key}"')
    return entries


def _by_id(path: Path, kind: str, entries: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """Returns the row of each id."""
    rows: dict[int, int] = {}
    for row, entry in enumerate(entries):
        number = entry.get("id")
        if not is_whole(number):
            raise DatasetError(
                f"{path}, {kind} {row + 1} of the list: expected a whole number as id, found "
                f"{repr(number)[:80]}"
            )
        if number in rows:
            raise DatasetError(f"{path}: two {kind} entries have the id {number}")
        rows[number] = row
    return rows


def _name_classes(categories: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Returns the name of each category by its id. Equal names get their ids behind them."""
    names = {entry["id"]: str(entry.get("name", entry["id"])) for entry in categories}
    count = collections.Counter(names.values())
    return {
        number: name if count[name] == 1 else f"{name} ({number})" for number, name in names.items()
    }


def _look_up(where: str, entry: Mapping[str, Any], kind: str, known: Mapping[int, int]) -> int:
    number = entry.get(f"{kind}_id")
    if not is_whole(number):
        raise DatasetError(
            f"{where}: expected a whole number as {kind}_id, found {repr(number)[:80]}"
        )
    if number not in known:
        raise DatasetError(f"{where}: no {kind} has the id {number}")
    return known[number]


def _text(path: Path, entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str):
        raise DatasetError(f"{path}, image {entry['id']}: expected a {key}, found {value!r}")
    return value


def _side(path: Path, entry: Mapping[str, Any], key: str) -> int:
    value = entry.get(key)
    if not is_number(value) or value < 1 or value != int(value) or value > 2**20:
        raise DatasetError(
            f"{path}, image {entry['id']}: expected the {key} in whole pixels, found "
            f"{repr(value)[:80]}"
        )
    return int(value)


def _box(where: str, entry: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """Returns a box as x1, y1, x2, y2, cut at the borders of its image."""
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        raise DatasetError(
            f"{where}: expected a bbox of four numbers [x, y, width, height], found {str(box)[:80]}"
        )
    x, y, w, h = box
    # Where the file itself says that the area is 0, the box is not a mistake.
    if min(w, h) < 0 or (min(w, h) == 0 and entry.get("area") != 0):
        raise DatasetError(f"{where}: the bbox {box} has no area; correct it or remove it")
    outside = x < -_ROUNDING or y < -_ROUNDING
    if outside or x + w > width + _ROUNDING or y + h > height + _ROUNDING:
        looks_like_corners = w > x and h > y and w <= width and h <= height
        corners = ". Does it hold two corners instead?" if looks_like_corners else ""
        raise DatasetError(
            f"{where}: the bbox {box} [x, y, width, height] leaves its image of {width} x {height} "
            f"pixels{corners}"
        )
    edge = np.array([width, height, width, height], np.float64)
    return np.clip([x, y, x + w, y + h], 0, edge)


def _is_drawn(where: str, outline: Segmentation, box: np.ndarray, size: tuple[int, int]) -> bool:
    """Returns whether an object has a mask that can be learned, and refuses what cannot be one."""
    if outline is None:
        raise DatasetError(f"{where}: it has no segmentation, which training of masks needs")
    extent = find_extent(outline, size)
    if extent is None:
        return False
    if (extent[:2] >= box[2:]).any() or (extent[2:] <= box[:2]).any():
        raise DatasetError(
            f"{where}: the segmentation, from {extent[:2].tolist()} to {extent[2:].tolist()}, lies "
            f"outside of its bbox, from {box[:2].tolist()} to {box[2:].tolist()} (x, y)"
        )
    return True


def _is_turned(path: Path) -> bool:
    """Returns whether an image's EXIF entry swaps its sides."""
    with Image.open(path) as image:
        return image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
