"""What a data set is once its files are found: a record with random access to decoded images."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypedDict

import numpy as np
from PIL import Image


class DatasetError(Exception):
    """A data set's files are missing, truncated or of another kind; the message names the path."""


class Example(TypedDict):
    """One decoded image, uint8 (height, width, channels), and its class."""

    image: np.ndarray
    label: int


class Source(Protocol):
    """Random access to examples whose labels are known without decoding an image."""

    labels: np.ndarray
    """Integers (N,)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...

    def take(self, indices: np.ndarray, labels: np.ndarray) -> "Source":
        """Gives the examples at `indices`, in their order, under new labels."""
        ...


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Images held in memory.

    Attributes:
      images: uint8 (N, height, width, channels).
      labels: integers (N,).
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> Example:
        return {"image": self.images[index], "label": int(self.labels[index])}

    def take(self, indices: np.ndarray, labels: np.ndarray) -> "Arrays":
        return Arrays(self.images[indices], labels)


@dataclasses.dataclass(frozen=True)
class Files:
    """Image files, read and decoded to RGB one by one.

    Attributes:
      root: the folder that `names` start from.
      names: N paths relative to `root`.
      labels: integers (N,).
      cut_bottom: rows to leave out at the bottom of each image.
    """

    root: str
    names: Sequence[str]
    labels: np.ndarray
    cut_bottom: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> Example:
        image = decode(Path(self.root, self.names[index]))
        return {
            "image": image[: len(image) - self.cut_bottom],
            "label": int(self.labels[index]),
        }

    def take(self, indices: np.ndarray, labels: np.ndarray) -> "Files":
        names = [self.names[index] for index in indices]
        return dataclasses.replace(self, names=names, labels=labels)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One split of a data set.

    Attributes:
      name: one of `datasets.NAMES`.
      split: "train", "validation" or "test".
      class_names: the name of each label.
      source: the examples.
      image_shape: (height, width, channels) as stored, or None where sizes vary.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    source: Source
    image_shape: tuple[int, int, int] | None

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.source)


def decode(path: Path) -> np.ndarray:
    """Reads an image file as uint8 (height, width, 3).

    Raises:
      DatasetError: no file, or one that Pillow cannot decode to its end.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three on broken files
        raise DatasetError(f"{path}: expected a whole image file: {error}") from error
