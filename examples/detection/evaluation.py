"""Average precision of detections, as pycocotools computes it from the annotation file."""

import contextlib
import functools
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from examples.datasets.coco import Coco
from examples.datasets.outlines import encode_mask
from examples.detection.masks import paste_masks
from examples.training.errors import DivergedError

# The names of pycocotools' twelve numbers, in its order: average precision over all IoUs, at two
# IoUs and for small, medium and large objects, and average recall with 1, 10 and 100 detections an
# image and for the same sizes.
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
_KINDS: dict[str, Any] = {"box": "bbox", "mask": "segm"}
# Masks are pasted in images whose sides are rounded up to multiples of this, so that few shapes are
# compiled.
_PASTE_MULTIPLE = 128
# So many masks are pasted at once: a hundred in a photograph of 12 million pixels are 5 GB.
_PASTE_MASKS = 10


class Scores(NamedTuple):
    """The scores of detections.

    Attributes:
      metrics: pycocotools' numbers, such as "box_AP50". A number for sizes that no object has is
        missing.
      classes: for "box" and "mask" the AP of each class by its name; NaN if no object is of it.
      results: the detections in COCO's format for results.
    """

    metrics: dict[str, float]
    classes: dict[str, dict[str, float]]
    results: list[dict[str, Any]]


class Scorer:
    """Scores detections on some images of a data set.

    Args:
      data: the data set.
      rows: the places of the images.
      masks: whether masks are scored too.
      aligned: as in `paste_masks`.
    """

    def __init__(self, data: Coco, rows: np.ndarray, *, masks: bool, aligned: bool = False):
        self._data, self._rows, self._aligned = data, rows, aligned
        self._kinds = ("box", "mask") if masks else ("box",)
        self._truth = read_truth(data.path)

    def score(self, outputs: Iterable[Mapping[str, np.ndarray]]) -> Scores:
        """Scores detections.

        Args:
          outputs: for each batch what `task.find_objects` returns.

        Raises:
          DivergedError: see `to_results`.
        """
        results = [
            entry
            for output in outputs
            for entry in to_results(self._data, output, aligned=self._aligned)
        ]
        metrics: dict[str, float] = {}
        classes: dict[str, dict[str, float]] = {}
        for kind in self._kinds:
            numbers, of_classes = self._score_kind(kind, results)
            found = dict(zip(NAMES, numbers, strict=True))
            metrics |= {f"{kind}_{name}": value for name, value in found.items() if value >= 0}
            classes[kind] = dict(zip(self._data.class_names, of_classes, strict=True))
        return Scores(metrics, classes, results)

    def _score_kind(
        self, kind: str, results: list[dict[str, Any]]
    ) -> tuple[list[float], list[float]]:
        # pycocotools adds entries to what it is given. It takes the size of a mask from its box if
        # there is one, so masks come without their boxes.
        left_out = {"box": "segmentation", "mask": "bbox"}[kind]
        mine: Any = [{k: v for k, v in entry.items() if k != left_out} for entry in results]
        with contextlib.redirect_stdout(io.StringIO()):
            if mine:
                found = self._truth.loadRes(mine)
            else:
                found = COCO()
                found.dataset = {**self._truth.dataset, "annotations": []}
                found.createIndex()
            scoring = COCOeval(self._truth, found, _KINDS[kind])
            scoring.params.imgIds = self._data.image_ids[self._rows].tolist()
            scoring.evaluate()
            scoring.accumulate()
            scoring.summarize()
        # Of all IoUs and recalls, for each class, of all sizes, with 100 detections an image.
        precision = scoring.eval["precision"][:, :, :, 0, -1]
        of_classes = [
            float(p[p > -1].mean()) if (p > -1).any() else float("nan")
            for p in np.moveaxis(precision, 2, 0)
        ]
        return [float(value) for value in scoring.stats], of_classes


def read_truth(path: Path) -> COCO:
    """Reads an annotation file, and adds what pycocotools needs and some programs do not write.

    Objects get new numbers, because pycocotools takes an object with the number 0 for none. Those
    without an outline, which no training of masks has seen, get their box as outline.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        content: Any = truth.dataset
        content.setdefault("info", {})
        for number, entry in enumerate(content["annotations"], 1):
            entry["id"] = number
            entry.setdefault("iscrowd", 0)
            x, y, width, height = entry["bbox"]
            if "area" not in entry:
                runs: Any = truth.annToRLE(entry) if entry.get("segmentation") else None
                entry["area"] = float(rle.area(runs)) if runs else width * height
            if not entry.get("segmentation"):
                corners = [x, y, x + width, y, x + width, y + height, x, y + height]
                entry["segmentation"] = [corners]
        truth.createIndex()
    return truth


def to_results(
    data: Coco, output: Mapping[str, np.ndarray], *, aligned: bool = False
) -> list[dict[str, Any]]:
    """Turns the detections of a batch into entries of COCO's format for results.

    Boxes and masks are those of the original image. Images that only fill the batch are left out.

    Raises:
      DivergedError: the net computes numbers for an image that are not finite.
    """
    results = []
    for place in np.flatnonzero(output["counts"]):
        row = int(output["row"][place])
        if np.isnan(output["scores"][place]).any():
            raise DivergedError(
                f"the net computes numbers that are not finite for image {data.image_ids[row]} of "
                f"{data.path}"
            )
        number = int(output["valid"][place].sum())
        if not number:
            continue
        height, width = data.sizes[row].tolist()
        ratio = np.array([width, height]) / output["size"][place][::-1]
        boxes = output["boxes"][place] * np.tile(ratio, 2)
        boxes = boxes.clip(0, [width, height, width, height])
        masks = None
        if "masks" in output:
            masks = _draw_masks(output["masks"][place], boxes, (height, width), aligned)
        for i in range(number):
            x1, y1, x2, y2 = boxes[i].tolist()
            entry = {
                "image_id": int(data.image_ids[row]),
                "category_id": data.category_ids[int(output["labels"][place, i]) - 1],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": float(output["scores"][place, i]),
            }
            if masks is not None:
                entry["segmentation"] = encode_mask(next(masks))
            results.append(entry)
    return results


def _draw_masks(
    masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int], aligned: bool
) -> Iterator[np.ndarray]:
    """Yields the mask of each detection in an image, bool (height, width)."""
    height, width = size
    rounded = (_round_up(height), _round_up(width))
    for start in range(0, len(masks), _PASTE_MASKS):
        some = slice(start, start + _PASTE_MASKS)
        pasted = _paste(masks[some], boxes[some].astype(np.float32), rounded, aligned)
        yield from np.asarray(pasted)[:, :height, :width]


@functools.partial(jax.jit, static_argnames=("size", "aligned"))
def _paste(masks: jax.Array, boxes: jax.Array, size: tuple[int, int], aligned: bool) -> jax.Array:
    return paste_masks(masks, boxes, size, aligned=aligned) > 0.5


def _round_up(side: int) -> int:
    return -(-side // _PASTE_MULTIPLE) * _PASTE_MULTIPLE
