"""Pictures: what a detector of torchvision does with one before and after the net."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from examples.training.errors import UserError, describe
from examples.training.files import replacing

if TYPE_CHECKING:
    from PIL import Image

# Of the colours red, green and blue from 0 to 1, over ImageNet.
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
_MULTIPLE = 32


class PictureError(UserError):
    """A picture cannot be read. The message names the file."""


class Prepared(NamedTuple):
    """A picture as a detector takes it.

    Attributes:
      images: (1, H, W, 3) float32, normalised, resized, and padded with zeros at the right and the
        bottom to multiples of 32.
      sizes: (1, 2) height and width without padding.
    """

    images: jax.Array
    sizes: np.ndarray


def read_picture(path: str | Path) -> np.ndarray:
    """Reads a picture as uint8 (h, w, 3), turned as its EXIF entry says.

    Of an animated picture, this is the first frame.

    Raises:
      PictureError: the file is missing, damaged or no picture, or the picture is too large or has
        more than 8 bits for a colour.
    """
    from PIL import Image, ImageOps

    if not Path(path).is_file():
        what = "this is a folder" if Path(path).is_dir() else "no such file"
        raise PictureError(f"{path}: {what}; name one picture")
    try:
        with warnings.catch_warnings():
            # Pillow warns of details that do not matter here, and of pictures that are too large.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                mode = image.mode
                picture = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise PictureError(
            f"{path}: the picture has more than {Image.MAX_IMAGE_PIXELS:,} pixels: make it smaller"
        ) from error
    except Exception as error:  # Pillow's readers of damaged files raise many kinds
        raise PictureError(
            f"{path}: this is not a picture that can be read: {describe(error)}"
        ) from error
    if mode[0] in "IF":
        # Pillow would cut off all numbers above 255.
        raise PictureError(
            f"{path}: the picture has more than 8 bits for a colour: save it with 8 bits"
        )
    return picture


def save_picture(image: "Image.Image", path: Path) -> None:
    """Saves a picture such that a reader sees the old file or the whole new one.

    Raises:
      OSError: the file cannot be written.
    """
    with replacing(path) as part:
        image.save(part)


def prepare(picture: np.ndarray, *, shortest: int = 800, longest: int = 1333) -> Prepared:
    """Normalises and resizes a picture, as torchvision's detectors do.

    Args:
      picture: (h, w, 3) uint8 of red, green and blue.
      shortest: the length of the shorter side, in pixels.
      longest: the longer side is at most this; then the shorter one is shorter.
    """
    sides = np.array(picture.shape[:2], np.float32)
    # torchvision computes these in float32, which decides whether a side is rounded down.
    scale = min(np.float32(shortest) / sides.min(), np.float32(longest) / sides.max())
    height, width = (max(1, int(side * scale)) for side in sides)
    image = (jnp.asarray(picture, jnp.float32) / 255 - MEAN[None, None]) / STD[None, None]
    image = jax.image.resize(image, (height, width, 3), "linear", antialias=False)
    bottom, right = -height % _MULTIPLE, -width % _MULTIPLE
    image = jnp.pad(image, ((0, bottom), (0, right), (0, 0)))
    return Prepared(image[None], np.array([[height, width]]))


def restore_boxes(boxes: ArrayLike, size: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Returns boxes (N, 4) of a resized picture of a size (2,) in pixels of the picture itself."""
    ratio = np.asarray(picture.shape[:2], np.float32) / np.asarray(size, np.float32)
    return np.asarray(boxes) * ratio[[1, 0, 1, 0]]
