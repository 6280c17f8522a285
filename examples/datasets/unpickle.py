"""Reads pickles that hold NumPy arrays and plain containers, and refuses all others.

A pickle may name any function of any module and have it called. Here four names are answered, those
that a pickled array consists of, and by functions of ours: nothing is imported.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from examples.datasets.files import expect


def _dtype(name: str, align: int = False, copy: int = False) -> np.dtype:
    # Python 2 wrote 0 and 1 for these flags, which NumPy no longer takes for booleans.
    return np.dtype(name, bool(align), bool(copy))


_RECONSTRUCT = np.empty(0).__reduce__()[0]  # NumPy's own, wherever this version keeps it

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
    """Reads a pickle of arrays, containers, strings and numbers; Python 2's strings as Latin-1.

    Raises:
      DatasetError: no file, no pickle, one cut short, or one that names anything else. `what` says
        what was expected.
    """
    with (
        expect(path, f"{what}, a pickle of arrays and plain containers alone"),
        path.open("rb") as f,
    ):
        return _Unpickler(f, encoding="latin1").load()
