"""The paper's data sets and some small real ones, read where they lie on disk.

Nothing here downloads: the error for a missing file names what was expected and where it comes
from. `load` gives a split, `transforms.recipe` its augmentation, `pipeline` the batches.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from examples.datasets import small
from examples.datasets.records import Dataset, DatasetError, Source

__all__ = ["NAMES", "Dataset", "DatasetError", "load"]

NAMES = (
    "cifar100",
    "imagenet",
    "mini_imagenet",
    "aircraft",
    "cars",
    "dogs",
    "cub",
    "digits",
    "mnist5k",
    "fashion_mnist",
)


def load(
    name: str,
    split: str,
    data_dir: str | Path | None = None,
    *,
    validation: int = 0,
    limit: int | None = None,
    classes: Sequence[int] | None = None,
    seed: int = 0,
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

    Raises:
      DatasetError: a missing, truncated or foreign file.
      ValueError: a name, split or number that cannot be.
    """
    if name not in NAMES:
        raise ValueError(f"no data set is called {name!r}; there are {', '.join(NAMES)}")
    if split not in ("train", "validation", "test"):
        raise ValueError(f'split must be "train", "validation" or "test", not {split!r}')
    if split == "validation" and not validation:
        raise ValueError('split="validation" needs validation=, the number of images to hold out')
    source, class_names = _read(name, "test" if split == "test" else "train", data_dir)
    if classes is not None:
        source, class_names = _keep_classes(source, class_names, classes)
    if split != "test" and validation:
        source = _hold_out(source, validation, split)
    if limit is not None:
        if not 1 <= limit <= len(source):
            raise ValueError(f"limit {limit}: {name} {split} has {len(source)} images")
        drawn = np.random.default_rng(seed).permutation(len(source))[:limit]
        source = source.take(drawn, source.labels[drawn])
    shape = source[0]["image"].shape
    return Dataset(name, split, class_names, source, shape)


def _read(name: str, split: str, data_dir: str | Path | None) -> tuple[Source, tuple[str, ...]]:
    if name in ("digits", "mnist5k"):
        if data_dir is not None:
            raise ValueError(f"{name} comes inside a Python package: it takes no data_dir")
        return small.digits(split) if name == "digits" else small.mnist5k(split)
    folder = None if data_dir is None else Path(data_dir)
    if name == "fashion_mnist":
        return small.fashion_mnist(split, folder)
    raise NotImplementedError(name)


def _keep_classes(source, class_names, classes) -> tuple[Source, tuple[str, ...]]:
    if len(set(classes)) != len(classes) or not set(classes) <= set(range(len(class_names))):
        raise ValueError(
            f"classes {tuple(classes)}: give labels from 0 to {len(class_names) - 1}, each once"
        )
    new_label = np.full(len(class_names), -1, np.int32)
    new_label[list(classes)] = np.arange(len(classes))
    labels = new_label[source.labels]
    kept = np.flatnonzero(labels >= 0)
    return source.take(kept, labels[kept]), tuple(class_names[label] for label in classes)


def _hold_out(source: Source, size: int, split: str) -> Source:
    """Splits the training images in two that hold each class in like shares."""
    if not 0 < size < len(source):
        raise ValueError(f"validation {size}: there are {len(source)} training images")
    rank = np.empty(len(source))
    rng = np.random.default_rng(0)
    for label in np.unique(source.labels):
        members = np.flatnonzero(source.labels == label)
        # Places from 0 to 1 in a drawn order: the `size` lowest take every class in turn.
        rank[members] = (rng.permutation(len(members)) + rng.random()) / len(members)
    order = np.argsort(rank, kind="stable")
    kept = np.sort(order[:size] if split == "validation" else order[size:])
    return source.take(kept, source.labels[kept])
