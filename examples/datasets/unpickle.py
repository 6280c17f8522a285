"""Reads pickles that hold only NumPy arrays and plain containers, and refuses all others.

A pickle can name any function of any module and have it called. Here only the four names that a
pickled array needs are known. They stand for functions given here, and nothing is imported.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from examples.datasets.files import expect


def _dtype(name: str, align: int = False, copy: int = False) -> np.dtype:
    # Python 2 wrote these flags as 0 and 1, which NumPy no longer accepts.
    return np.dtype(name, bool(align), bool(copy))


_RECONSTRUCT = np.empty(0).__reduce__()[0]  # NumPy's own function, wherever this version keeps it

_ADMITTED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,  # before NumPy 2
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")
        return _ADMITTED[module_name, global_name]


def load_arrays(path: Path, what: str) -> Any:
    """Reads a pickle of arrays, containers, strings and numbers. Strings of Python 2 are Latin-1.

    Args:
      path: the file.
      what: what the file should hold, for the error.

    Raises:
      DatasetError: the file is missing, is not a pickle, is cut short or names anything else.
    """
    with (
        expect(path, f"{what}, a pickle of only arrays and plain containers"),
        path.open("rb") as f,
    ):
        return _Unpickler(f, encoding="latin1").load()
