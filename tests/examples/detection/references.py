"""The arrays that torchvision computed, and their inputs."""

import functools
import zlib
from pathlib import Path

import numpy as np

DATA = Path(__file__).parents[2] / "data/detection"


@functools.cache
def load_arrays(name: str) -> dict[str, np.ndarray]:
    """Loads all arrays of one file."""
    with np.load(DATA / f"{name}.npz") as file:
        return dict(file)


def make_input(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Makes an input of a reference again. Its name is the seed."""
    seed = zlib.crc32(f"input:{name}".encode())
    rng = np.random.Generator(np.random.PCG64(seed))
    return rng.standard_normal(shape).astype(np.float32)
