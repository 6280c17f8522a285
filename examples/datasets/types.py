"""The types of a data set whose files are found: labels, and random access to decoded images."""

import dataclasses
from typing import Protocol, TypedDict

import numpy as np

from examples.datasets.digest import digest_of_data
from examples.training.errors import UserError


class DatasetError(UserError):
    """A file of a data set is missing, broken or of another kind. The message names the file."""


class Example(TypedDict):
    """One decoded image, uint8 (height, width, channels), and its class."""

    image: np.ndarray
    label: int


class Source(Protocol):
    """Random access to examples. Their labels are known without decoding an image."""

    @property
    def labels(self) -> np.ndarray:
        """int32 (N,)."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(height, width, channels), or None where sizes vary."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def take(self, indices: np.ndarray, labels: np.ndarray) -> "Source":
        """Returns the examples at `indices`, in that order, with new labels."""
        ...

    def digest(self) -> str:
        """Returns a digest of which examples these are, and in which order.

        Images in memory count with their pixels, and image files with their names only, because
        it would take long to read them all.
        """
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays:
    """Images held in memory.

    Attributes:
      images: uint8 (N, height, width, channels).
      labels: int32 (N,).
    """

    images: np.ndarray
    labels: np.ndarray

    @property
    def image_shape(self) -> tuple[int, int, int]:
        _, height, width, channels = self.images.shape
        return height, width, channels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        return {"image": self.images[index], "label": int(self.labels[index])}

    def take(self, indices: np.ndarray, labels: np.ndarray) -> "Arrays":
        """Returns the images at `indices`, in that order, with new labels."""
        return Arrays(self.images[indices], labels)

    def digest(self) -> str:
        """Returns a digest of the images and labels."""
        return digest_of_data(self.images, self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set.

    Attributes:
      name: one of `datasets.NAMES`.
      split: "train", "validation" or "test".
      class_names: the name of each label.
      source: the examples.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    source: Source

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(height, width, channels) as stored, or None where sizes vary."""
        return self.source.image_shape

    def __len__(self) -> int:
        return len(self.source)
