"""Images on their way to the net: pure functions of (image, rng), and the paper's recipes.

An image is (height, width, channels), uint8 from 0 to 255 until `normalize` makes it float32.
`rng` is a NumPy generator that belongs to this one image in this one epoch (Grain derives it from
the seed and the image's place in the stream), so the same seed gives the same images on any number
of workers. NumPy and Pillow, not JAX: these functions run in data workers, which must not start a
second JAX. Functions that draw nothing ignore `rng`; test transforms are called with None.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

Rng = np.random.Generator | None
Transform = Callable[[np.ndarray, Rng], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Compose:
    """Transforms one after the other; a class, so that it travels to data workers."""

    steps: tuple[Transform, ...]

    def __call__(self, image: np.ndarray, rng: Rng) -> np.ndarray:
        for step in self.steps:
            image = step(image, rng)
        return image


def compose(*steps: Transform) -> Compose:
    return Compose(steps)


def normalize(
    image: np.ndarray, rng: Rng, *, mean: tuple[float, ...], std: tuple[float, ...]
) -> np.ndarray:
    """Scales 0 to 255 to 0 to 1, then to (x - mean) / std by channel, float32."""
    del rng
    scaled = image.astype(np.float32) / np.float32(255)
    return (scaled - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)


def flip(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Mirrors left and right in one case of two."""
    return image[:, ::-1] if _drawn(rng).random() < 0.5 else image


def pad_crop(image: np.ndarray, rng: Rng, *, padding: int) -> np.ndarray:
    """Shifts by up to `padding` pixels either way, black where nothing was."""
    height, width, channels = image.shape
    padded = np.zeros((height + 2 * padding, width + 2 * padding, channels), image.dtype)
    padded[padding : padding + height, padding : padding + width] = image
    top, left = _drawn(rng).integers(2 * padding + 1, size=2)
    return padded[top : top + height, left : left + width]


def mean_pool(image: np.ndarray, rng: Rng, *, factor: int = 2) -> np.ndarray:
    """Averages blocks of factor x factor pixels; float32, still 0 to 255."""
    del rng
    height, width, channels = image.shape
    blocks = image.reshape(height // factor, factor, width // factor, factor, channels)
    return blocks.mean((1, 3), dtype=np.float32)


def _drawn(rng: Rng) -> np.random.Generator:
    if rng is None:
        raise TypeError("a random transform was given no generator: is it used for evaluation?")
    return rng


def _plain(mean: float, std: float) -> tuple[Transform, Transform]:
    scale = functools.partial(normalize, mean=(mean,), std=(std,))
    return scale, scale


def _cifar() -> tuple[Transform, Transform]:
    scale = functools.partial(normalize, mean=(0.507, 0.487, 0.441), std=(0.267, 0.256, 0.276))
    return compose(functools.partial(pad_crop, padding=4), flip, scale), scale


_RECIPES = {
    "cifar100": _cifar(),
    # Mean and standard deviation of the training images.
    "digits": _plain(0.305, 0.376),
    "mnist5k": _plain(0.131, 0.309),
    "fashion_mnist": _plain(0.286, 0.353),
}


def recipe(name: str) -> tuple[Transform, Transform]:
    """Gives the transforms of a data set's training and test images, as the paper's runs have them.

    Args:
      name: one of `datasets.NAMES`.
    """
    return _RECIPES[name]
