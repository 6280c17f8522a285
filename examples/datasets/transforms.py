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


def pad(image: np.ndarray, rng: Rng, *, padding: int) -> np.ndarray:
    """Sets an image in a black frame of `padding` pixels."""
    del rng
    height, width, channels = image.shape
    padded = np.zeros((height + 2 * padding, width + 2 * padding, channels), image.dtype)
    padded[padding : padding + height, padding : padding + width] = image
    return padded


def pad_crop(image: np.ndarray, rng: Rng, *, padding: int) -> np.ndarray:
    """Shifts by up to `padding` pixels either way, black where nothing was."""
    height, width, _ = image.shape
    padded = pad(image, None, padding=padding)
    top, left = _drawn(rng).integers(2 * padding + 1, size=2)
    return padded[top : top + height, left : left + width]


def mean_pool(image: np.ndarray, rng: Rng, *, factor: int = 2) -> np.ndarray:
    """Averages blocks of factor x factor pixels; float32, still 0 to 255."""
    del rng
    height, width, channels = image.shape
    blocks = image.reshape(height // factor, factor, width // factor, factor, channels)
    return blocks.mean((1, 3), dtype=np.float32)


def resize(image: np.ndarray, rng: Rng, *, height: int, width: int) -> np.ndarray:
    """Resizes an RGB image, bilinear; when it shrinks, each pixel is a mean over what it covers."""
    del rng
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def resize_shorter(image: np.ndarray, rng: Rng, *, size: int) -> np.ndarray:
    """Resizes an RGB image so that its shorter side has `size` pixels, keeping its proportions."""
    height, width, _ = image.shape
    shorter = min(height, width)
    return resize(image, rng, height=size * height // shorter, width=size * width // shorter)


def center_crop(image: np.ndarray, rng: Rng, *, size: int) -> np.ndarray:
    """Cuts the middle size x size pixels out of an image that has them."""
    del rng
    height, width, _ = image.shape
    if min(height, width) < size:
        raise ValueError(f"a crop of {size} x {size} does not fit an image of {height} x {width}")
    top, left = round((height - size) / 2), round((width - size) / 2)
    return image[top : top + size, left : left + size]


def random_resized_crop(
    image: np.ndarray,
    rng: Rng,
    *,
    size: int,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> np.ndarray:
    """Resizes a random rectangle of an RGB image to size x size.

    Args:
      image: uint8 (H, W, 3).
      rng: the generator.
      size: of the result.
      scale: the least and the largest share of the image's area, drawn evenly.
      ratio: the least and the largest width over height, drawn evenly in its logarithm.
    """
    height, width, _ = image.shape
    top, left, h, w = random_rectangle(height, width, _drawn(rng), scale, ratio)
    crop = image[top : top + h, left : left + w]
    return resize(crop, None, height=size, width=size)


def random_rectangle(
    height: int,
    width: int,
    rng: np.random.Generator,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """Draws (top, left, height, width) inside an image, as torchvision's RandomResizedCrop does.

    After ten draws that do not fit, it is the middle of the image, as large as `ratio` lets it be.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            return int(top), int(left), h, w
    h = min(height, round(width / ratio[0]))
    w = min(width, round(height * ratio[1]))
    return (height - h) // 2, (width - w) // 2, h, w


def _drawn(rng: Rng) -> np.random.Generator:
    if rng is None:
        raise TypeError("a random transform was given no generator: is it used for evaluation?")
    return rng


def _normalize(mean: tuple[float, ...], std: tuple[float, ...]) -> Transform:
    return functools.partial(normalize, mean=mean, std=std)


_IMAGENET = _normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CIFAR = _normalize((0.507, 0.487, 0.441), (0.267, 0.256, 0.276))


def _cifar() -> tuple[Transform, Transform]:
    return compose(functools.partial(pad_crop, padding=4), flip, _CIFAR), _CIFAR


def _imagenet() -> tuple[Transform, Transform]:
    train = compose(functools.partial(random_resized_crop, size=224), flip, _IMAGENET)
    test = compose(
        functools.partial(resize_shorter, size=256),
        functools.partial(center_crop, size=224),
        _IMAGENET,
    )
    return train, test


def _fine_grained() -> tuple[Transform, Transform]:
    # To a square, as the paper says; its released code keeps proportions instead.
    middle = compose(
        functools.partial(resize, height=512, width=512),
        functools.partial(center_crop, size=448),
    )
    return compose(middle, flip, _IMAGENET), compose(middle, _IMAGENET)


def _plain(mean: float, std: float) -> tuple[Transform, Transform]:
    return _normalize((mean,), (std,)), _normalize((mean,), (std,))


_RECIPES = {
    "cifar100": _cifar(),
    "imagenet": _imagenet(),
    "mini_imagenet": _imagenet(),  # 84 x 84, enlarged: "other settings are those of ImageNet"
    "aircraft": _fine_grained(),
    "cars": _fine_grained(),
    "dogs": _fine_grained(),
    "cub": _fine_grained(),
    # Not in the paper: no augmentation, mean and standard deviation of the training images.
    "digits": _plain(0.305, 0.376),
    "mnist5k": _plain(0.131, 0.308),
    "fashion_mnist": _plain(0.286, 0.353),
}


def recipe(name: str) -> tuple[Transform, Transform]:
    """Gives the transforms of a data set's training and test images in the paper's runs.

    Args:
      name: one of `datasets.NAMES`.
    """
    return _RECIPES[name]
