"""Image transforms, as pure functions of (image, rng), and the paper's recipes made of them.

An image is (height, width, channels) and uint8 from 0 to 255, until `normalize` makes it float32.
`rng` is a NumPy generator for this one image in this one epoch. Grain derives it from the seed and
the image's place in the stream, so the same seed gives the same images with any number of workers.
Functions without randomness ignore `rng`, and test transforms are called with None. The functions
use NumPy and Pillow, because they run in data workers, which must not start JAX a second time.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from examples.training.errors import SettingError

# No image is padded to more than this.
_MOST_PIXELS = 2**26

Rng = np.random.Generator | None
Transform = Callable[[np.ndarray, Rng], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Compose:
    """Transforms that run one after the other. It is a class so that it can be sent to data workers."""

    steps: tuple[Transform, ...]

    def __call__(self, image: np.ndarray, rng: Rng) -> np.ndarray:
        for step in self.steps:
            image = step(image, rng)
        return image


def compose(*steps: Transform) -> Compose:
    """Returns the transform that runs these one after the other."""
    return Compose(steps)


def normalize(
    image: np.ndarray, rng: Rng, *, mean: tuple[float, ...], std: tuple[float, ...]
) -> np.ndarray:
    """Scales 0 to 255 to 0 to 1, and then to (x - mean) / std in each channel, as float32."""
    del rng
    scaled = image.astype(np.float32) / np.float32(255)
    return (scaled - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)


def flip(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Swaps left and right with probability 1/2."""
    return image[:, ::-1] if _drawn(rng).random() < 0.5 else image


def pad(image: np.ndarray, rng: Rng, *, padding: int) -> np.ndarray:
    """Adds `padding` black pixels on every side.

    Raises:
      SettingError: the result would have more than 2**26 pixels.
    """
    del rng
    height, width, channels = image.shape
    if (height + 2 * padding) * (width + 2 * padding) > _MOST_PIXELS:
        raise SettingError(
            f"--pad {padding}: an image of {height} x {width} would get more than {_MOST_PIXELS:,} "
            "pixels; use a smaller number"
        )
    padded = np.zeros((height + 2 * padding, width + 2 * padding, channels), image.dtype)
    padded[padding : padding + height, padding : padding + width] = image
    return padded


def pad_crop(image: np.ndarray, rng: Rng, *, padding: int) -> np.ndarray:
    """Shifts an image by up to `padding` pixels in each direction. New pixels are black."""
    height, width, _ = image.shape
    padded = pad(image, None, padding=padding)
    top, left = _drawn(rng).integers(2 * padding + 1, size=2)
    return padded[top : top + height, left : left + width]


def mean_pool(image: np.ndarray, rng: Rng, *, factor: int = 2) -> np.ndarray:
    """Averages squares of factor x factor pixels. The result is float32, still from 0 to 255.

    Raises:
      SettingError: `factor` does not divide the image's sides.
    """
    del rng
    height, width, channels = image.shape
    if height % factor or width % factor:
        raise SettingError(
            f"--pool {factor}: it must divide the image's sides, which are {height} x {width}"
        )
    blocks = image.reshape(height // factor, factor, width // factor, factor, channels)
    return blocks.mean((1, 3), dtype=np.float32)


def resize(image: np.ndarray, rng: Rng, *, height: int, width: int) -> np.ndarray:
    """Resizes an RGB image bilinearly. A pixel of a smaller image is a mean over what it covers."""
    del rng
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def resize_shorter(image: np.ndarray, rng: Rng, *, size: int) -> np.ndarray:
    """Resizes an RGB image so that its shorter side has `size` pixels, and keeps its proportions."""
    height, width, _ = image.shape
    shorter = min(height, width)
    return resize(image, rng, height=size * height // shorter, width=size * width // shorter)


def center_crop(image: np.ndarray, rng: Rng, *, size: int) -> np.ndarray:
    """Returns the middle size x size pixels of an image that is at least as large."""
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
      size: the side of the result.
      scale: the smallest and the largest share of the image's area; the share is uniform.
      ratio: the smallest and the largest width over height; its logarithm is uniform.
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

    After ten draws that do not fit, it is the largest rectangle in the middle that `ratio` allows.
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
        raise TypeError("a random transform needs a generator: is it used for evaluation?")
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
    # Images become squares, as the paper says. Its released code keeps their proportions instead.
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
    "mini_imagenet": _imagenet(),  # 84 x 84, enlarged, since its other settings are those of ImageNet
    "aircraft": _fine_grained(),
    "cars": _fine_grained(),
    "dogs": _fine_grained(),
    "cub": _fine_grained(),
    # These are not in the paper. They have no augmentation, and are normalized by the mean and the
    # standard deviation of their training images.
    "digits": _plain(0.305, 0.376),
    "mnist5k": _plain(0.131, 0.308),
    "fashion_mnist": _plain(0.286, 0.353),
}


def recipe(name: str) -> tuple[Transform, Transform]:
    """Returns the transforms of a data set's training images and test images in the paper's runs.

    Args:
      name: one of `datasets.NAMES`.
    """
    return _RECIPES[name]
