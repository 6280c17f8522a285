"""From images and their objects to batches of a few fixed shapes.

An image is resized with its ratio kept, and padded at the right and the bottom to the smallest of a
few shapes, the buckets. All images of a batch have one bucket, so a step is compiled once for each
bucket. The boxes and masks of an image are padded to a fixed number of objects.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import grain
import numpy as np
from PIL import Image

from examples.datasets.coco import Coco
from examples.detection.targets import stack_targets
from examples.training.errors import SettingError
from examples.training.stream import Stream

# The sides of padded images are multiples of the stride of the pyramid's last level but one.
_MULTIPLE = 32
# Images with a side of fewer pixels are left out of the training.
_SMALLEST = 32


class Pixels(NamedTuple):
    """How pixels become numbers.

    Attributes:
      order: the channels in the order in which the net takes them.
      mean, std: what is subtracted from and what divides the values 0 to 255, in that order.
    """

    order: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


# The order and scale of the weights that a backbone starts from: torchvision's, Detectron's, or those
# of this project's classifiers of Fashion-MNIST, whose gray pixels have one mean for all channels.
PIXELS = {
    "rgb": Pixels((0, 1, 2), (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "bgr": Pixels((2, 1, 0), (102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0)),
    "fashion_mnist": Pixels((0, 1, 2), (72.93, 72.93, 72.93), (90.015, 90.015, 90.015)),
}


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How the images of a data set become arrays.

    Attributes:
      short_side: an image is resized until its shorter side has so many pixels,
      long_side: or its longer side has so many.
      pixels: a key of `PIXELS`.
      masks: whether the objects' masks are wanted.
      mask_cells: the rows and columns that the mask of an object has in its box.
      max_objects: the number of places for objects.
    """

    short_side: int
    long_side: int
    pixels: str
    masks: bool
    mask_cells: int
    max_objects: int

    @property
    def buckets(self) -> tuple[tuple[int, int], ...]:
        """The padded heights and widths, small ones first.

        They are those of images of the ratio 4:3 and of the largest size, lying and standing.

        >>> Preparation(800, 1333, "rgb", True, 112, 100).buckets
        ((800, 1088), (1088, 800), (800, 1344), (1344, 800))
        """
        short, long = _round_up(self.short_side), _round_up(self.long_side)
        middle = min(_round_up(self.short_side * 4 / 3), long)
        shapes = [(short, middle), (middle, short), (short, long), (long, short)]
        return tuple(dict.fromkeys(shapes))

    def resize(self, size: np.ndarray) -> tuple[int, int]:
        """Returns the height and width to which an image of a height and width is resized."""
        height, width = size.tolist()
        scale = min(self.long_side / max(height, width), self.short_side / min(height, width))
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def bucket(self, size: np.ndarray) -> int:
        """Returns the place of the bucket of an image among `buckets`."""
        height, width = self.resize(size)
        fits = [i for i, (h, w) in enumerate(self.buckets) if height <= h and width <= w]
        return fits[0]


def prepare_image(
    picture: np.ndarray, preparation: Preparation, *, flip: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Resizes, normalises and pads an image.

    Args:
      picture: uint8 (height, width, 3) in the order red, green, blue.
      preparation: how.
      flip: mirror it from left to right.

    Returns:
      The image, float32 of the shape of its bucket, and its height and width without padding.
    """
    size = np.array(picture.shape[:2])
    height, width = preparation.resize(size)
    if (height, width) != picture.shape[:2]:
        resized = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
        picture = np.asarray(resized)
    if flip:
        picture = picture[:, ::-1]
    order, mean, std = PIXELS[preparation.pixels]
    values = (picture[..., order] - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    padded = np.zeros((*preparation.buckets[preparation.bucket(size)], 3), np.float32)
    padded[:height, :width] = values
    return padded, np.array([height, width], np.int32)


def prepare_objects(
    data: Coco, index: int, preparation: Preparation, *, flip: bool = False
) -> dict[str, np.ndarray]:
    """Returns the objects of an image, for `stack_targets`.

    Returns:
      ``boxes`` float32 (G, 4) in pixels of the resized image, ``labels`` int32 (G,), and with masks
      also ``masks`` float16 (G, M, M), the share of each cell that the object covers, and
      ``mask_frames``, which are the boxes.
    """
    boxes = data.boxes[data.objects(index)]
    height, width = preparation.resize(data.sizes[index])
    ratio = np.array([width, height], np.float32) / data.sizes[index, ::-1]
    scaled = (boxes * np.tile(ratio, 2)).astype(np.float32)
    if flip:
        scaled[:, [0, 2]] = width - scaled[:, [2, 0]]
    targets = {"boxes": scaled, "labels": data.labels[data.objects(index)]}
    if preparation.masks:
        cells = preparation.mask_cells
        drawn = zip(data.draw_masks(index), boxes, strict=True)
        masks = [crop_mask(mask, box, cells) for mask, box in drawn]
        stacked = np.stack(masks) if masks else np.zeros((0, cells, cells))
        stacked = stacked.astype(np.float16)
        targets["masks"] = stacked[..., ::-1] if flip else stacked
        targets["mask_frames"] = scaled
    return targets


def crop_mask(mask: np.ndarray, box: np.ndarray, cells: int) -> np.ndarray:
    """Divides a box into cells, and returns the share of each that a mask covers.

    Args:
      mask: bool (height, width).
      box: x1, y1, x2, y2 in the mask's pixels, of any fraction.
      cells: the number of rows and of columns.

    Returns:
      float32 (cells, cells), from 0 to 1.
    """
    # The number of the mask's pixels above and left of each point. Between the corners of pixels it
    # is bilinear, so the area in a cell is a difference of it at the cell's corners. This needs no
    # matrix product, whose threads would compete with those of the training.
    x1, y1, x2, y2 = (float(side) for side in box)
    top, left = max(0, math.floor(y1)), max(0, math.floor(x1))
    inside = mask[top : math.ceil(y2), left : math.ceil(x2)]
    area = np.zeros((inside.shape[0] + 1, inside.shape[1] + 1))
    area[1:, 1:] = inside.cumsum(0).cumsum(1)
    area = _interpolate(area, np.linspace(y1 - top, y2 - top, cells + 1))
    area = _interpolate(area.T, np.linspace(x1 - left, x2 - left, cells + 1)).T
    shares = np.diff(np.diff(area, axis=0), axis=1) * (cells**2 / ((x2 - x1) * (y2 - y1)))
    return shares.astype(np.float32)


def _interpolate(rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Returns the rows at positions between them. The last row continues below."""
    low = np.minimum(positions.astype(int), len(rows) - 1)
    high = np.minimum(low + 1, len(rows) - 1)
    fraction = (positions - low)[:, None]
    return rows[low] * (1 - fraction) + rows[high] * fraction


def choose_images(data: Coco, *, empty: bool = False) -> np.ndarray:
    """Returns the places of the images to train on. Images that are very small are left out.

    Args:
      data: the data set.
      empty: keep images without an object too.

    Raises:
      SettingError: there is no such image.
    """
    wanted = np.diff(data.first) > 0
    if empty:
        wanted[:] = True
    if not wanted.any():
        raise SettingError(f"{data.path}: no image has an object, so there is nothing to learn")
    wanted &= data.sizes.min(1) >= _SMALLEST
    if not wanted.any():
        raise SettingError(
            f"{data.path}: every image that could be trained on has a side of fewer than {_SMALLEST} "
            "pixels, and such images are left out: enlarge them"
        )
    return np.flatnonzero(wanted)


def train_batches(
    plan: "Plan",
    *,
    epochs: int,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Stream:
    """Makes the batches of a plan.

    Batch k depends only on the plan and on k, for any number of workers, and all processes together
    see the same images as one process would.

    Args:
      plan: which images are in which batch.
      epochs: the number of passes over the images.
      workers: the number of processes that make batches; with 0, a thread does it.
      process_index: the number of this process, which takes its share of every batch.
      process_count: the number of processes, a divisor of the plan's batch size.

    Returns:
      Batches of ``image`` float32 (N, H, W, 3), ``size`` int32 (N, 2), and the objects as
      `stack_targets` returns them, with N = batch size / process_count.
    """
    source = _TrainBatches(plan, epochs, process_index, process_count)
    return Stream(grain.MapDataset.source(source), workers)


def check_objects(data: Coco, rows: np.ndarray, preparation: Preparation) -> None:
    """Raises a SettingError if an image has more objects than there are places."""
    numbers = np.diff(data.first)[rows]
    if numbers.max() > preparation.max_objects:
        most = rows[numbers.argmax()]
        raise SettingError(
            f"--max-objects {preparation.max_objects}: image {data.image_ids[most]} of {data.path} "
            f"has {numbers.max()} objects, so it must be at least that"
        )


def group_by_bucket(data: Coco, rows: np.ndarray, preparation: Preparation) -> list[np.ndarray]:
    """Returns the places of the images of each bucket that has any."""
    buckets = np.array([preparation.bucket(data.sizes[row]) for row in rows])
    return [rows[buckets == bucket] for bucket in np.unique(buckets)]


def fill_batches(group: np.ndarray, batch_size: int) -> np.ndarray:
    """Divides images into batches, of which the last one is filled with the first images."""
    number = -(-len(group) // batch_size)
    return np.resize(group, number * batch_size).reshape(number, batch_size)


class Plan:
    """Decides which images are in which training batch, and which of them are mirrored.

    In each epoch, the images of each bucket are shuffled and dealt out. The last batch of a bucket
    is filled with the first images of the bucket. Then the batches are shuffled. If asked for, half of
    the images are mirrored, others in each epoch.

    Args:
      data: the data set.
      rows: the places of the images.
      preparation: how images become arrays.
      batch_size: the number of images in a step, over all processes together.
      seed: the seed of order and mirroring.
      mirror: mirror half of the images.
    """

    def __init__(
        self,
        data: Coco,
        rows: np.ndarray,
        preparation: Preparation,
        batch_size: int,
        seed: int,
        *,
        mirror: bool = True,
    ):
        self.data, self.preparation = data, preparation
        self.batch_size, self.seed, self._mirror = batch_size, seed, mirror
        self._groups = group_by_bucket(data, rows, preparation)
        self._epoch: tuple[int, np.ndarray] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches in an epoch."""
        return sum(-(-len(group) // self.batch_size) for group in self._groups)

    def batch(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images of a batch, counted from 0, and which of them are mirrored."""
        epoch, step = divmod(number, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, self._deal(epoch)
        rng = np.random.default_rng([self.seed, 1, number])
        share = 0.5 if self._mirror else 0.0
        return self._epoch[1][step], rng.random(self.batch_size) < share

    def _deal(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, 0, epoch])
        batches = [fill_batches(rng.permutation(group), self.batch_size) for group in self._groups]
        return rng.permutation(np.concatenate(batches))


class _TrainBatches:
    """Random access to the batches of a plan."""

    def __init__(self, plan: Plan, epochs: int, process_index: int, process_count: int):
        self._plan, self._epochs = plan, epochs
        self._share = _share(plan.batch_size, process_index, process_count)

    def __len__(self) -> int:
        return self._epochs * self._plan.steps_per_epoch

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        plan = self._plan
        rows, flips = plan.batch(int(index))
        images, objects = [], []
        for row, flip in zip(rows[self._share], flips[self._share], strict=True):
            picture = plan.data.read_image(row)
            images.append(prepare_image(picture, plan.preparation, flip=flip))
            objects.append(prepare_objects(plan.data, row, plan.preparation, flip=flip))
        targets = stack_targets(objects, plan.preparation.max_objects)
        image, size = (np.stack(arrays) for arrays in zip(*images, strict=True))
        return {"image": image, "size": size, **targets}


def evaluation_batches(
    data: Coco,
    rows: np.ndarray,
    preparation: Preparation,
    *,
    batch_size: int,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Stream:
    """Makes the batches of one pass over images, each bucket by itself.

    The last batch of a bucket is filled with the first images of the bucket. All processes have the
    same number of batches. The arguments are those of `Plan` and of `train_batches`.

    Returns:
      Batches of ``image`` and ``size`` as for the training, ``row`` int32 (N,), the places of the
      images in the data set, and ``counts`` bool (N,), which is False for repeated images.
    """
    source = _EvaluationBatches(
        data, rows, preparation, batch_size, _share(batch_size, process_index, process_count)
    )
    return Stream(grain.MapDataset.source(source), workers)


class _EvaluationBatches:
    """Random access to the batches of one pass."""

    def __init__(
        self,
        data: Coco,
        rows: np.ndarray,
        preparation: Preparation,
        batch_size: int,
        share: slice,
    ):
        self._data, self._preparation, self._share = data, preparation, share
        self._batches = []
        for group in group_by_bucket(data, rows, preparation):
            filled = fill_batches(group, batch_size)
            counts = np.arange(filled.size).reshape(filled.shape) < len(group)
            self._batches.extend(zip(filled, counts, strict=True))

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> dict[str, Any]:
        rows, counts = (part[self._share] for part in self._batches[int(index)])
        images = [prepare_image(self._data.read_image(row), self._preparation) for row in rows]
        image, size = (np.stack(arrays) for arrays in zip(*images, strict=True))
        return {"image": image, "size": size, "row": rows.astype(np.int32), "counts": counts}


def _share(batch_size: int, process_index: int, process_count: int) -> slice:
    """Returns the part of a batch that a process makes.

    The parts follow one another, so that an image has the same place in the whole batch as with one
    process. What a detector draws for an image depends on that place.
    """
    size = batch_size // process_count
    return slice(process_index * size, (process_index + 1) * size)


def _round_up(side: float) -> int:
    return int(-(-side // _MULTIPLE) * _MULTIPLE)
