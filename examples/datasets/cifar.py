"""CIFAR-100: 50000 + 10000 colour images of 32x32 in 100 classes.

The files are cifar-100-python/{train,test,meta} of "CIFAR-100 python version",
www.cs.toronto.edu/~kriz/cifar.html. They are pickles that Python 2 wrote.
"""

from pathlib import Path

import numpy as np

from examples.datasets.files import expect, find_folder
from examples.datasets.types import Arrays
from examples.datasets.unpickle import load_arrays


def cifar100(split: str, data_dir: Path | None) -> tuple[Arrays, tuple[str, ...]]:
    """Reads one split with its fine labels."""
    origin = '"CIFAR-100 python version", www.cs.toronto.edu/~kriz/cifar.html'
    folder = find_folder(data_dir, "cifar-100-python", origin)
    what = f"a file of {origin}"
    meta, batch = load_arrays(folder / "meta", what), load_arrays(folder / split, what)
    with expect(folder / "meta", what):
        class_names = tuple(str(name) for name in meta["fine_label_names"])
    with expect(folder / split, what):
        data, labels = batch["data"], np.asarray(batch["fine_labels"])
        if data.dtype != np.uint8 or data.shape != (len(labels), 3 * 32 * 32):
            raise ValueError(f"it holds {data.dtype} {data.shape} for {len(labels)} labels")
    # They are stored channel by channel; images here are (height, width, channels).
    images = np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return Arrays(images, labels), class_names
