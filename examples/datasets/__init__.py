"""The paper's data sets and some small real ones, read where they lie on disk.

Nothing here downloads: the error for a missing file names what was expected and where it comes
from. `load` gives a split, `transforms.recipe` its augmentation, `pipeline` the batches.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from examples.datasets import cifar, fine_grained, imagenet, small
from examples.datasets.records import Dataset, DatasetError, Source
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
    """Finds one split of a data set and checks its files.

    Args:
      name: one of `NAMES`.
      split: "train", "validation" or "test". The test set is the one that the paper reports on:
        ImageNet's published validation images, the published test images of all others.
      data_dir: the folder that holds the data set, or the folder that holds that folder. None for
        digits and mnist5k, which packages bring, and for Fashion-MNIST where Debian puts it.
      validation: how many training images to hold out for choosing hyperparameters. They are drawn
        once and for all, a like share of each class; "train" has the others, "validation" these.
      limit: keep this many images, drawn by `seed`.
      classes: keep these classes alone; their labels become 0, 1, ... in this order.
      seed: of `limit`'s draw, nothing else.
      partial: take a data set that is smaller than the published one. By default that is an error,
        since a list or an archive cut short can look just so.

    Raises:
      DatasetError: a missing, truncated or foreign file.
      ValueError: a name, split or number that cannot be.
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
            raise SettingError(f"limit {limit}: {name} {split} has {len(source)} images")
        drawn = np.random.default_rng(seed).permutation(len(source))[:limit]
        source = source.take(drawn, source.labels[drawn])
    return Dataset(name, split, class_names, source)


def _read(
    name: str, split: str, data_dir: str | Path | None, partial: bool
) -> tuple[Source, tuple[str, ...]]:
    read, (train, test, classes) = _SETS[name]
    source, class_names = read(split, None if data_dir is None else Path(data_dir))
    found = (len(source), len(class_names))
    expected = (train if split == "train" else test, classes)
    # Whatever reads without an error may still be a part of it.
    if found != expected and not partial:
        raise DatasetError(
            f"{data_dir}: expected {expected[0]} {split} images of {expected[1]} classes, the whole "
            f"of {name}; found {found[0]} of {found[1]} (partial=True or --partial takes a part of it)"
        )
    return source, class_names


def _keep_classes(source, class_names, classes) -> tuple[Source, tuple[str, ...]]:
    known = set(range(len(class_names)))
    if not classes or len(set(classes)) != len(classes) or not known.issuperset(classes):
        raise SettingError(
            f"classes {tuple(classes)}: give labels from 0 to {len(class_names) - 1}, "
            "each once and at least one"
        )
    new_label = np.full(len(class_names), -1, np.int32)
    new_label[list(classes)] = np.arange(len(classes))
    labels = new_label[source.labels]
    kept = np.flatnonzero(labels >= 0)
    return source.take(kept, labels[kept]), tuple(class_names[label] for label in classes)


def _hold_out(source: Source, size: int, split: str) -> Source:
    """Splits the training images in two that hold each class in like shares."""
    if not 0 < size < len(source):
        raise SettingError(f"validation {size}: there are {len(source)} training images")
    rank = np.empty(len(source))
    rng = np.random.default_rng(0)
    for label in np.unique(source.labels):
        members = np.flatnonzero(source.labels == label)
        # Places from 0 to 1 in a drawn order: the `size` lowest take every class in turn.
        rank[members] = (rng.permutation(len(members)) + rng.random()) / len(members)
    order = np.argsort(rank, kind="stable")
    kept = np.sort(order[:size] if split == "validation" else order[size:])
    return source.take(kept, source.labels[kept])
