"""Gradient Centralization (Yong et al., ECCV 2020) for JAX and Optax."""

import importlib
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
_FRAMEWORKS = ("equinox", "haiku", "linen", "nnx")


def __getattr__(name: str) -> Any:
    framework = name.removesuffix("_kernel_axes")
    if name.endswith("_kernel_axes") and framework in _FRAMEWORKS:
        return getattr(importlib.import_module(f"optax_gc._{framework}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
