"""Gradient Centralization (Yong et al., ECCV 2020) for JAX and Optax."""

from optax_gc._axes import conv_kernels, dense_kernels, kernel_axes
from optax_gc._centralize import centralize
from optax_gc._optimizers import adagrad, adam, adamw, sgd, sgdw

__all__ = [
    "adagrad",
    "adam",
    "adamw",
    "centralize",
    "conv_kernels",
    "dense_kernels",
    "kernel_axes",
    "sgd",
    "sgdw",
]
