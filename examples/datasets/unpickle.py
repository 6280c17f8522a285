"""Reads pickles that hold only NumPy arrays and plain containers, and refuses all others.

A pickle can name any function of any module and have it called, or give NumPy's own objects a state
in which they read foreign memory. Here only the four names that a pickled array needs are known. They
stand for classes given here, which only keep what the pickle says. NumPy gets it after a check.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from examples.datasets.files import expect


class _DType:
    """What a pickle says about a dtype."""

    def __init__(self, name, align=False, copy=False):
        self.name, self.order = name, "="

    def __setstate__(self, state):
        self.order = state[1]


class _Array:
    """What a pickle says about an array."""

    def __init__(self, kind, shape, dtype):
        pass  # always those of an empty array, which gets its contents as a state

    def __setstate__(self, state):
        _, self.shape, self.dtype, self.is_transposed, self.content = state

    def make(self) -> np.ndarray:
        dtype = np.dtype(self.dtype.name).newbyteorder(self.dtype.order)
        if dtype.kind not in "buif":
            raise pickle.UnpicklingError(f"it has an array of {dtype}, not of numbers")
        # A string of Python 2 has been read as Latin-1.
        content = self.content.encode("latin1") if isinstance(self.content, str) else self.content
        order = "F" if self.is_transposed else "C"
        return np.frombuffer(content, dtype).reshape(self.shape, order=order)


def _make_arrays(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.make()
    if isinstance(value, dict):
        return {key: _make_arrays(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_make_arrays, value))
    return value


_ADMITTED = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "_reconstruct"): _Array,  # before NumPy 2
    ("numpy._core.multiarray", "_reconstruct"): _Array,
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
        return _make_arrays(_Unpickler(f, encoding="latin1").load())
