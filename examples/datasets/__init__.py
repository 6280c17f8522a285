"""The paper's data sets and some small real ones, read from the disk.

Nothing is downloaded. The error for a missing file names what was expected and where it comes from.
`load` returns a split, `transforms.recipe` its augmentation, and `pipeline` makes the batches.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from examples.datasets import cifar, fine_grained, imagenet, small
from examples.datasets.files import ImageFiles
from examples.datasets.types import Dataset, DatasetError, Source
from examples.training.errors import SettingError

__all__ = ["NAMES", "Dataset", "DatasetError", "load"]

_Reader = Callable[[str, Path | None], tuple[Source, tuple[str, ...]]]

# name: (reader, published sizes: training images, test images, classes)
_SETS: dict[str, tuple[_Reader, tuple[int, int, int]]] = {
    "cifar100": (cifar.cifar100, (50_000, 10_000, 100)),
    "imagenet": (imagenet.imagenet, (1_281_167, 50_000, 1000)),
    "mini_imagenet": (imagenet.mini_imagenet, (50_000, 10_000, 100)),
    "aircraft": (fine_grained.aircraft, (6667, 3333, 100)),
    "cars": (fine_grained.cars, (8144, 8041, 196)),
    "dogs": (fine_grained.dogs, (12_000, 8580, 120)),
    "cub": (fine_grained.cub, (5994, 5794, 200)),
    "digits": (small.digits, (1297, 500, 10)),
    "mnist5k": (small.mnist5k, (3000, 2000, 10)),
    "fashion_mnist": (small.fashion_mnist, (60_000, 10_000, 10)),
}

NAMES = tuple(_SETS)


def load(
    name: str,
    split: str,
    data_dir: str | Path | None = None,
    *,
    validation: int = 0,
    limit: int | None = None,
    classes: Sequence[int] | None = None,
    seed: int = 0,
    partial: bool = False,
) -> Dataset:
    """Finds one split of a data set, and checks its files and its labels.

    Args:
      name: one of `NAMES`.
      split: "train", "validation" or "test". The test set is the one that the paper reports on:
        the published validation images of ImageNet, and the published test images of all others.
      data_dir: the folder that holds the data set, or the folder that holds that folder. None for
        digits and mnist5k, which packages contain, and for Fashion-MNIST from Debian's package.
      validation: the number of training images to hold out for choosing hyperparameters. They are
        always the same, with an equal share of each class. The split "validation" has these
        images, and "train" has the others.
      limit: the number of images to keep; None for all of them.
      classes: the classes to keep; None for all of them. Their labels become 0, 1, ... in this order.
      seed: the seed that chooses the images for `limit`.
      partial: accept a data set that is smaller than the published one. By default that is an
        error, because a list or an archive that is cut short can look like that.

    Raises:
      DatasetError: a file is missing, broken or of another kind.
      SettingError: a name, a split or a number is not possible.
    """
    if name not in NAMES:
        raise SettingError(f"no data set is called {name!r}; there are {', '.join(NAMES)}")
    if split not in ("train", "validation", "test"):
        raise SettingError(f'split must be "train", "validation" or "test", not {split!r}')
    if split == "validation" and not validation:
        raise SettingError('split="validation" needs validation=, the number of images to hold out')
    source, class_names = _read(name, "test" if split == "test" else "train", data_dir, partial)
    if classes is not None:
        source, class_names = _keep_classes(source, class_names, classes)
    if split != "test" and validation:
        source = _hold_out(source, validation, split)
    if limit is not None:
        if not 1 <= limit <= len(source):
            raise SettingError(
                f"--train-images {limit}: {name} has {len(source)} images in the split {split}"
            )
        drawn = np.random.default_rng(seed).permutation(len(source))[:limit]
        source = source.take(drawn, source.labels[drawn])
    return Dataset(name, split, class_names, source)


def _read(
    name: str, split: str, data_dir: str | Path | None, partial: bool
) -> tuple[Source, tuple[str, ...]]:
    read, (train, test, classes) = _SETS[name]
    source, class_names = read(split, None if data_dir is None else Path(data_dir))
    source = _check_labels(source, class_names, f"{data_dir}: {name} ({split})")
    found = (len(source), len(class_names))
    expected = (train if split == "train" else test, classes)
    # A part of a data set can be read without an error.
    if found != expected and not partial:
        raise DatasetError(
            f"{data_dir}: expected all of {name}, {expected[0]} {split} images of {expected[1]} classes; "
            f"found {found[0]} of {found[1]} (partial=True or --partial accepts a part of it)"
        )
    return source, class_names


def _check_labels(source: Source, class_names: tuple[str, ...], where: str) -> Source:
    """Checks the labels of a data set of any format, and converts them to int32.

    Raises:
      DatasetError: a label is not one of the classes, two classes have one name, or the labels and
        the images differ in number.
    """
    if not class_names:
        raise DatasetError(f"{where}: expected the names of its classes, found none")
    labels = np.asarray(source.labels)
    if labels.shape != (len(source),) or (labels.size and labels.dtype.kind not in "iu"):
        raise DatasetError(
            f"{where}: expected a whole number as the label of each of {len(source)} images, "
            f"found {labels.dtype} of shape {labels.shape}"
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
    if wrong.size:
        index = int(wrong[0])
        name = source.names[index] if isinstance(source, ImageFiles) else f"number {index}"
        raise DatasetError(
            f"{where}: expected class numbers from 0 to {len(class_names) - 1}, counted from 0, found "
            f"{int(labels[index])} for the image {name}"
        )
    twice = {name for name in class_names if class_names.count(name) > 1}
    if twice:
        raise DatasetError(
            f"{where}: expected different class names, found twice: {', '.join(sorted(twice))}"
        )
    return dataclasses.replace(cast(Any, source), labels=labels.astype(np.int32))


def _keep_classes(source, class_names, classes) -> tuple[Source, tuple[str, ...]]:
    known = set(range(len(class_names)))
    if not classes or len(set(classes)) != len(classes) or not known.issuperset(classes):
        raise SettingError(
            f"--classes {tuple(classes)}: pass at least one label from 0 to {len(class_names) - 1}, "
            "and each only once"
        )
    new_label = np.full(len(class_names), -1, np.int32)
    new_label[list(classes)] = np.arange(len(classes))
    labels = new_label[source.labels]
    kept = np.flatnonzero(labels >= 0)
    return source.take(kept, labels[kept]), tuple(class_names[label] for label in classes)


def _hold_out(source: Source, size: int, split: str) -> Source:
    """Returns one of two parts of the training images, which have equal shares of each class."""
    if not 0 < size < len(source):
        raise SettingError(f"--validation {size}: there are {len(source)} training images")
    rank = np.empty(len(source))
    rng = np.random.default_rng(0)
    for label in np.unique(source.labels):
        members = np.flatnonzero(source.labels == label)
        # Each class has ranks from 0 to 1 in random order, so the lowest have an equal share of each.
        rank[members] = (rng.permutation(len(members)) + rng.random()) / len(members)
    order = np.argsort(rank, kind="stable")
    kept = np.sort(order[:size] if split == "validation" else order[size:])
    return source.take(kept, source.labels[kept])
