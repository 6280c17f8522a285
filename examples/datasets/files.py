"""Files as the data sets' authors wrote them: images, lists and MATLAB files, read or refused."""

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from PIL import Image

from examples.datasets.records import DatasetError, Example


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFiles:
    """Image files of any size, read and decoded to RGB one by one.

    Attributes:
      root: the folder that `names` start from.
      names: N paths relative to `root`.
      labels: int32 (N,).
      cut_bottom: rows to leave out at the bottom of each image.
    """

    root: str
    names: Sequence[str]
    labels: np.ndarray
    cut_bottom: int = 0

    @property
    def image_shape(self) -> None:
        return None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        image = decode(os.path.join(self.root, self.names[index]))
        image = image[: len(image) - self.cut_bottom]
        return {"image": image, "label": int(self.labels[index])}

    def take(self, indices: np.ndarray, labels: np.ndarray) -> "ImageFiles":
        names = [self.names[index] for index in indices]
        return dataclasses.replace(self, names=names, labels=labels)


@contextlib.contextmanager
def expect(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Turns whatever a reader raises on a missing or broken file into one clear error."""
    try:
        yield
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such file; expected {what}") from error
    # The readers of pickles, MATLAB files and images raise nearly anything on broken ones.
    except Exception as error:
        raise DatasetError(
            f"{path}: expected {what}, whole, but reading it failed: {error!r}"
        ) from error


def locate(data_dir: Path | None, folder: str, origin: str) -> Path:
    """Gives `data_dir/folder` if there is one, else `data_dir`.

    Raises:
      DatasetError: no data_dir, or one that is no folder.
    """
    if data_dir is None:
        raise DatasetError(
            f"give data_dir (--data-dir), the folder that holds {folder}/ ({origin})"
        )
    if not data_dir.is_dir():
        raise DatasetError(f"{data_dir}: no such folder; expected {folder}/ in it ({origin})")
    return data_dir / folder if (data_dir / folder).is_dir() else data_dir


def decode(path: str) -> np.ndarray:
    """Reads an image file as uint8 (height, width, 3).

    Raises:
      DatasetError: no file, or one that Pillow cannot decode to its end.
    """
    with expect(path, "an image"), Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def check_images(root: Path, names: Iterable[str]) -> None:
    """Looks at the first and the last bytes of each file.

    Raises:
      DatasetError: a file is missing, cut short or no image.
    """
    for name in names:
        path = os.path.join(root, name)
        # Some good files have bytes after their end. Decoding is slow and has the last word.
        if not _looks_whole(path):
            decode(path)


def _looks_whole(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            start = file.read(4)
            file.seek(-4, os.SEEK_END)
            end = file.read()
    except OSError:
        return False
    jpeg = start.startswith(b"\xff\xd8\xff") and end.endswith(b"\xff\xd9")
    png = start == b"\x89PNG" and end == b"\xaeB`\x82"
    return jpeg or png


def read_pairs(path: Path, what: str) -> dict[str, str]:
    """Reads lines of a key and a value, parted by the first space."""
    with expect(path, what):
        pairs = [line.split(" ", 1) for line in path.read_text("utf-8").splitlines()]
        return {key: value.strip() for key, value in pairs}


def read_mat(path: Path, variable: str, what: str) -> Any:
    """Reads one variable of a MATLAB file, an array of rank 1."""
    with expect(path, what):
        return np.atleast_1d(scipy.io.loadmat(path, squeeze_me=True)[variable])


def image_folders(folder: Path) -> dict[str, list[str]]:
    """Lists folders of images: the sorted names in each, by the folder's sorted name.

    Raises:
      DatasetError: no folder, or none in it.
    """
    with expect(folder, "a folder with a folder of images for each class"):
        classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        found = {name: image_names(folder / name) for name in classes}
    if not found:
        raise DatasetError(f"{folder}: expected a folder of images for each class, found none")
    return found


def image_names(folder: Path) -> list[str]:
    """Lists a folder's image files, sorted."""
    ends = (".jpeg", ".jpg", ".png")
    return sorted(entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(ends))
