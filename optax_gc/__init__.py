"""Gradient Centralization (Yong et al., ECCV 2020) for JAX and Optax."""

from optax_gc._axes import conv_kernels, dense_kernels, kernel_axes
from optax_gc._centralize import centralize

__all__ = ["centralize", "conv_kernels", "dense_kernels", "kernel_axes"]
