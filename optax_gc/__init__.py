"""Gradient Centralization (Yong et al., ECCV 2020) for JAX and Optax."""

from typing import TYPE_CHECKING, Any

from optax_gc import diagnostics
from optax_gc._axes import conv_kernels, dense_kernels, kernel_axes
from optax_gc._centralize import centralize
from optax_gc._optimizers import adagrad, adam, adamw, sgd, sgdw
from optax_gc._tabulate import tabulate

if TYPE_CHECKING:
    from optax_gc._linen import linen_kernel_axes
    from optax_gc._nnx import nnx_kernel_axes

__all__ = [
    "adagrad",
    "adam",
    "adamw",
    "centralize",
    "conv_kernels",
    "dense_kernels",
    "diagnostics",
    "kernel_axes",
    "linen_kernel_axes",
    "nnx_kernel_axes",
    "sgd",
    "sgdw",
    "tabulate",
]


def __getattr__(name: str) -> Any:
    # Flax is only imported when a function that inspects Flax models is used.
    if name == "linen_kernel_axes":
        from optax_gc._linen import linen_kernel_axes

        return linen_kernel_axes
    if name == "nnx_kernel_axes":
        from optax_gc._nnx import nnx_kernel_axes

        return nnx_kernel_axes
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
