"""Outlines of objects in COCO's format: polygons or runs of pixels (RLE), checked and drawn."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

from examples.datasets.types import DatasetError

# What an object is drawn by: polygons, or runs of pixels with the size of their image.
Segmentation = Sequence[np.ndarray] | Mapping[str, Any] | None


def draw_mask(segmentation: Segmentation, size: tuple[int, int]) -> np.ndarray:
    """Draws an object: bool (height, width).

    Args:
      segmentation: polygons x1, y1, x2, y2, ..., or runs {"size": [height, width], "counts": ...}
        as a list of numbers or in COCO's compressed form.
      size: height and width.
    """
    from pycocotools import mask

    rle: Any = mask  # Its annotations leave out some forms of outlines that it takes.
    if segmentation is None:
        raise ValueError("this object has no outline")
    if isinstance(segmentation, Mapping):
        runs = _compress(segmentation)
    else:
        runs = rle.merge(rle.frPyObjects([p.tolist() for p in segmentation], *size))
    return rle.decode(runs).astype(bool)


def find_extent(segmentation: Segmentation, size: tuple[int, int]) -> np.ndarray | None:
    """Returns the smallest box x1, y1, x2, y2 around an outline, or None if it has no pixel.

    The arguments are those of `draw_mask`.
    """
    from pycocotools import mask as rle

    if isinstance(segmentation, Mapping):
        runs = _compress(segmentation)
        if not rle.area(runs):
            return None
        x, y, width, height = rle.toBbox(runs)
        return np.array([x, y, x + width, y + height])
    assert segmentation is not None
    # Only small polygons can have no pixel. To draw them all would take minutes for COCO.
    if sum(map(_polygon_area, segmentation)) < 1 and not draw_mask(segmentation, size).any():
        return None
    points = np.concatenate(segmentation).reshape(-1, 2)
    return np.concatenate([points.min(0), points.max(0)])


def _polygon_area(polygon: np.ndarray) -> float:
    x, y = polygon[::2], polygon[1::2]
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _compress(runs: Mapping[str, Any]) -> Any:
    """Returns runs in COCO's compressed form."""
    from pycocotools import mask

    rle: Any = mask
    return rle.frPyObjects(runs, *runs["size"]) if isinstance(runs["counts"], list) else runs


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Returns a mask, bool (height, width), as compressed runs that JSON can hold."""
    from pycocotools import mask as rle

    runs: dict[str, Any] = dict(rle.encode(np.asfortranarray(mask.astype(np.uint8))))
    return {"size": list(mask.shape), "counts": runs["counts"].decode()}


def is_whole(value: Any) -> TypeGuard[int]:
    """Returns whether a value of a JSON file is a whole number that fits into 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**62


def is_number(value: Any) -> TypeGuard[float]:
    """Returns whether a value of a JSON file is a number that a position can have."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) < 1e9  # it is False for NaN too


def read_outline(where: str, value: Any, size: tuple[int, int]) -> Segmentation:
    """Checks an object's segmentation, and returns None if it has none.

    Args:
      where: the file and the number of the object, for the error.
      value: what the file holds.
      size: height and width of the image.

    Raises:
      DatasetError: the segmentation is broken.
    """
    if value is None or value == []:
        return None
    if isinstance(value, dict):
        return _runs(where, value, size)
    if not isinstance(value, list):
        raise DatasetError(
            f"{where}: expected a segmentation of polygons or runs, found {str(value)[:80]}"
        )
    polygons = []
    for polygon in value:
        if not isinstance(polygon, list) or not all(map(is_number, polygon)):
            raise DatasetError(
                f"{where}: expected polygons of numbers x, y, x, y, ..., found {str(polygon)[:80]}"
            )
        if len(polygon) < 6 or len(polygon) % 2:
            raise DatasetError(
                f"{where}: a polygon has {len(polygon)} numbers, and needs two for each of at "
                "least three points"
            )
        points = np.array(polygon, np.float64)
        if (points < -size[1] - size[0]).any() or (points > 2 * (size[0] + size[1])).any():
            raise DatasetError(f"{where}: a polygon is far outside of its image")
        polygons.append(points)
    return polygons


def _runs(where: str, value: Mapping[str, Any], size: tuple[int, int]) -> Mapping[str, Any]:
    """Checks runs of pixels: a list of lengths, or the same compressed to text."""
    counts = value.get("counts")
    if value.get("size") != list(size):
        raise DatasetError(
            f"{where}: the runs (RLE) are those of an image of size {str(value.get('size'))[:80]}, "
            f"and its image has {list(size)} (height, width)"
        )
    if isinstance(counts, str):
        try:
            counts_list = _decompress(counts)
        except ValueError as error:
            raise DatasetError(f"{where}: the compressed runs (RLE) are broken: {error}") from error
    elif isinstance(counts, list) and all(is_whole(n) for n in counts):
        counts_list = counts
    else:
        raise DatasetError(f"{where}: expected the counts of runs (RLE), found {str(counts)[:80]}")
    if min(counts_list, default=0) < 0 or sum(counts_list) != math.prod(size):
        raise DatasetError(
            f"{where}: the runs (RLE) cover {sum(counts_list)} pixels, and its image has "
            f"{math.prod(size)}"
        )
    return {"size": list(size), "counts": counts}


def _decompress(text: str) -> list[int]:
    """Returns the lengths of compressed runs, because pycocotools checks none of them.

    Each character holds 6 bits, from "0" on: 5 bits of a number, lowest first, and whether more
    follow. From the fourth on, a number is the difference to the one two before.
    """
    counts: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"it holds the character {character!r}")
        number |= (bits & 31) << shift
        shift += 5
        if shift > 40:
            raise ValueError("a number has too many digits")
        if not bits & 32:
            if bits & 16:
                number -= 1 << shift
            counts.append(number + (counts[-2] if len(counts) > 2 else 0))
            number = shift = 0
    if shift:
        raise ValueError("it is cut off")
    return counts
