"""Files as the authors of the data sets wrote them: images and lists, read or refused.

Every error names the file, the line or entry if there is one, what was found and what was expected.
"""

import contextlib
import dataclasses
import os
import pickle
import stat
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image

from examples.datasets.archives import describe_archives
from examples.datasets.digest import digest_of_data
from examples.datasets.types import DatasetError, Example
from examples.training.errors import describe

# The modes of Pillow that hold 8 bits a channel or less. Converted to RGB, the others are clipped:
# an image of 16 bits comes out white.
_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})
# More than any image of the data sets has. Decoded, these take 200 MB.
_MOST_PIXELS = 2**26
# An image that is longer than this times its shorter side is not a photograph, and resizing it by
# its shorter side would make an image of gigabytes.
_LONGEST = 100
# What the readers of lists, pickles and images raise on broken files.
BROKEN = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,  # of SciPy for files of MATLAB 7.3, and of Pillow for rare kinds of images
    OSError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFiles:
    """Image files of any size, which are read and decoded to RGB one by one.

    Attributes:
      root: the folder that `names` start from.
      names: N paths relative to `root`.
      labels: int32 (N,).
      cut_bottom: the number of rows to remove at the bottom of each image.
    """

    root: str
    names: Sequence[str]
    labels: np.ndarray
    cut_bottom: int = 0

    @property
    def image_shape(self) -> None:
        """None, because the sizes vary."""
        return None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        path = os.path.join(self.root, self.names[index])
        image = decode(path)
        if len(image) <= self.cut_bottom:
            raise DatasetError(
                f"{path}: the image has {len(image)} rows, and the last {self.cut_bottom} of every "
                "image of this data set are a banner; replace the file"
            )
        image = image[: len(image) - self.cut_bottom]
        height, width, _ = image.shape
        if max(height, width) > _LONGEST * min(height, width):
            raise DatasetError(
                f"{path}: an image of {height} x {width} pixels is more than {_LONGEST} times as "
                "long as wide; remove it from the data set"
            )
        return {"image": image, "label": int(self.labels[index])}

    def take(self, indices: np.ndarray, labels: np.ndarray) -> "ImageFiles":
        """Returns the images at `indices`, in that order, with new labels."""
        names = [self.names[index] for index in indices]
        return dataclasses.replace(self, names=names, labels=labels)

    def digest(self) -> str:
        """Returns a digest of the names and labels, and not of the pixels."""
        return digest_of_data(self.names, self.labels)


@contextlib.contextmanager
def expect(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Turns the errors of readers on a missing or broken file into one clear DatasetError.

    Args:
      path: the file that is read.
      what: what the file should hold.
    """
    try:
        # Opening a pipe would wait for a writer for ever.
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise DatasetError(f"{path}: expected {what}, found something that is not a file")
        yield
    except DatasetError:
        raise
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such file; expected {what}") from error
    except BROKEN as error:
        raise DatasetError(
            f"{path}: expected {what}, but reading it failed: {describe(error)}"
        ) from error


def find_folder(data_dir: Path | None, folder: str, origin: str) -> Path:
    """Returns `data_dir/folder` if it exists, or else `data_dir`.

    Args:
      data_dir: the folder that the user named.
      folder: the name of the folder that the authors' archive unpacks to.
      origin: the name and the address of the data set, for the error.

    Raises:
      DatasetError: `data_dir` is None or is not a folder.
    """
    if data_dir is None:
        raise DatasetError(
            f"pass --data-dir (data_dir), a folder that contains {folder}/. The data set is {origin}. "
            f"Download {describe_archives(folder)} from there and unpack it into {folder}/"
        )
    if not data_dir.is_dir():
        raise DatasetError(
            f"{data_dir}: no such folder; expected {folder}/ in it. The data set is {origin}. "
            f"Download {describe_archives(folder)} from there"
        )
    return data_dir / folder if (data_dir / folder).is_dir() else data_dir


def decode(path: str, what: str = "an image") -> np.ndarray:
    """Reads an image file as uint8 (height, width, 3).

    Args:
      path: the file.
      what: what the errors say that the file should hold.

    Raises:
      DatasetError: the file is missing, is not a regular file, cannot be decoded to its end, holds
        more than 8 bits a channel, or has more than 2**26 pixels.
    """
    with expect(path, what), Image.open(path) as image:
        if image.mode not in _EIGHT_BIT_MODES:
            raise DatasetError(
                f"{path}: the image has the mode {image.mode}, which holds more than 8 bits a "
                "channel; convert it to 8 bits first"
            )
        if image.width * image.height > _MOST_PIXELS:
            raise DatasetError(
                f"{path}: the image has {image.width} x {image.height} pixels, which is more than "
                f"{_MOST_PIXELS:,}; make it smaller or remove it from the data set"
            )
        return np.asarray(image.convert("RGB"))


def check_images(
    root: Path, names: Iterable[str], what: Callable[[int], str] = lambda place: "an image"
) -> None:
    """Looks at the first and the last bytes of each file, and decodes the files that look unusual.

    Args:
      root: the folder that the names start from.
      names: the names of the files.
      what: what the errors say that the file at a place, counted from 0, should hold.

    Raises:
      DatasetError: a file is missing, is cut short or is not an image.
    """
    for place, name in enumerate(names):
        path = os.path.join(root, name)
        # Some good files have bytes after their end, so only decoding shows whether they are whole. It is slow.
        if not _looks_whole(path):
            decode(path, what(place))


def _looks_whole(path: str) -> bool:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            start = file.read(4)
            file.seek(-4, os.SEEK_END)
            end = file.read()
    except OSError:
        return False
    jpeg = start.startswith(b"\xff\xd8\xff") and end.endswith(b"\xff\xd9")
    png = start == b"\x89PNG" and end == b"\xaeB`\x82"
    return jpeg or png


def check_names(
    listed: Path,
    names: Sequence[str],
    entry: Callable[[int], str] = lambda place: f"entry {place + 1}",
) -> None:
    """Checks the file names of a list.

    Args:
      listed: the file that holds the list.
      names: the names.
      entry: what the errors call the entry at a place, counted from 0.

    Raises:
      DatasetError: a name is listed twice, is absolute or leaves the folder of the images.
    """
    seen: dict[str, int] = {}
    for place, name in enumerate(names):
        path = PurePath(name)
        if not name or "\0" in name or path.is_absolute() or ".." in path.parts:
            raise DatasetError(
                f"{listed}, {entry(place)}: expected a path inside the folder of the images, found "
                f"{name[:80]!r}"
            )
        if name in seen:
            raise DatasetError(
                f"{listed}, {entry(place)}: expected each image once, found {name[:80]!r}, which is "
                f"{entry(seen[name])} too"
            )
        seen[name] = place


def read_lines(path: Path, what: str) -> list[str]:
    """Reads the lines of a text file in UTF-8."""
    with expect(path, what):
        return path.read_text("utf-8").splitlines()


def read_pairs(path: Path, what: str) -> dict[str, str]:
    """Reads lines that each hold a key, a space and a value.

    Raises:
      DatasetError: a line has no value, or a key is there twice.
    """
    pairs: dict[str, str] = {}
    for number, line in enumerate(read_lines(path, what), 1):
        key, space, value = line.partition(" ")
        if not space or not value.strip():
            raise DatasetError(f"{path}, line {number}: expected {what}, found {line[:80]!r}")
        if key in pairs:
            raise DatasetError(
                f"{path}, line {number}: expected each name once, found {key[:80]!r} again"
            )
        pairs[key] = value.strip()
    return pairs


def whole_numbers(path: Path, numbers: Iterable[Any]) -> list[int]:
    """Returns the numbers of a list as integers.

    Raises:
      DatasetError: one of them is not a whole number.
    """
    whole = []
    for position, number in enumerate(numbers, 1):
        try:
            value = int(number)
            exact = value == (number if not isinstance(number, str) else int(number))
        except (TypeError, ValueError, OverflowError):
            exact = False
            value = 0
        if not exact:
            raise DatasetError(
                f"{path}, entry {position}: expected the whole number of a class, found {str(number)[:80]!r}"
            )
        whole.append(value)
    return whole


def list_image_folders(folder: Path) -> dict[str, list[str]]:
    """Returns the sorted names of the images in each subfolder, by the subfolder's sorted name.

    Raises:
      DatasetError: there is no such folder, or no subfolder.
    """
    with expect(folder, "a folder with a folder of images for each class"):
        classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        found = {name: list_images(folder / name) for name in classes}
    if not found:
        raise DatasetError(f"{folder}: expected a folder of images for each class, found none")
    return found


def list_images(folder: Path) -> list[str]:
    """Returns the sorted names of a folder's image files."""
    ends = (".jpeg", ".jpg", ".png")
    return sorted(entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(ends))
