"""Gradient Centralization (Yong et al., ECCV 2020) for JAX and Optax.

The names that end in ``_kernel_axes`` need their framework. Flax, Equinox and Haiku must all be
installed for ``from optax_gc import *``, and otherwise only the one that is used.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from optax_gc import diagnostics
from optax_gc._axes import conv_kernels, dense_kernels, exclude, kernel_axes
from optax_gc._centralize import centralize
from optax_gc._dimension_numbers import galore_dimension_numbers, muon_dimension_numbers
from optax_gc._optimizers import adagrad, adam, adamw, sgd, sgdw
from optax_gc._roles import AxisRoles
from optax_gc._tabulate import tabulate

if TYPE_CHECKING:
    from optax_gc._equinox import equinox_kernel_axes
    from optax_gc._haiku import haiku_kernel_axes
    from optax_gc._linen import linen_kernel_axes
    from optax_gc._nnx import nnx_kernel_axes

__all__ = [
    "AxisRoles",
    "adagrad",
    "adam",
    "adamw",
    "centralize",
    "conv_kernels",
    "dense_kernels",
    "diagnostics",
    "equinox_kernel_axes",
    "exclude",
    "galore_dimension_numbers",
    "haiku_kernel_axes",
    "kernel_axes",
    "linen_kernel_axes",
    "muon_dimension_numbers",
    "nnx_kernel_axes",
    "sgd",
    "sgdw",
    "tabulate",
]

# A framework is imported only when the function that inspects its models is used.
_FRAMEWORKS = {"equinox": "equinox", "haiku": "haiku", "linen": "flax", "nnx": "flax"}


def __getattr__(name: str) -> Any:
    part = name.removesuffix("_kernel_axes")
    if name.endswith("_kernel_axes") and part in _FRAMEWORKS:
        return getattr(importlib.import_module(f"optax_gc._{part}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    # help() reads every name that is listed here.
    absent = [
        f"{part}_kernel_axes"
        for part, framework in _FRAMEWORKS.items()
        if importlib.util.find_spec(framework) is None
    ]
    return [name for name in __all__ if name not in absent]
