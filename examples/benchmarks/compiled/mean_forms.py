"""Forms of the means that share launches on a GPU, and the centralization with each of them."""

import collections
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from examples.benchmarks import trees

Kernels = list[tuple[jax.Array, tuple[int, ...]]]


def plain(kernels: Kernels) -> list[jax.Array]:
    """A mean for each kernel."""
    return [jnp.mean(g, axes, keepdims=True) for g, axes in kernels]


def share_reduction(kernels: Kernels) -> list[jax.Array]:
    """One reduction of several operands for all kernels of the same shape."""

    def means(group, axes):
        zeros = (jnp.zeros((), jnp.float32),) * len(group)
        sums = jax.lax.reduce(
            group, zeros, lambda x, y: tuple(a + b for a, b in zip(x, y, strict=True)), axes
        )
        return [jnp.expand_dims(its, axes) / _fan_in(group[0], axes) for its in sums]

    return _by_shape(kernels, means)


def stack_kernels(kernels: Kernels) -> list[jax.Array]:
    """Kernels of the same shape are stacked and get one mean."""

    def means(group, axes):
        stacked = jnp.stack(group)
        return list(jnp.mean(stacked, tuple(axis + 1 for axis in axes), keepdims=True))

    return _by_shape(kernels, means)


def concatenate_kernels(kernels: Kernels) -> list[jax.Array]:
    """Kernels of the same fan-in are put side by side, as matrices, and get one mean."""

    def means(group, axes):
        del axes
        matrices = [g.reshape(-1, g.shape[-1]) for g in group]
        rows = jnp.mean(jnp.concatenate(matrices, 1), 0)
        ends = list(itertools.accumulate(g.shape[-1] for g in group))
        return [
            rows[end - g.shape[-1] : end].reshape((1,) * (g.ndim - 1) + (-1,))
            for g, end in zip(group, ends, strict=True)
        ]

    return _by_shape(kernels, means, _fan_in)


def multiply_by_ones(kernels: Kernels) -> list[jax.Array]:
    """A product with a vector of ones for each kernel."""

    def mean(g):
        rows = g.reshape(-1, g.shape[-1])
        ones = jnp.ones(rows.shape[0])
        sums = jnp.matmul(ones, rows, precision=jax.lax.Precision.HIGHEST)
        return (sums / rows.shape[0]).reshape((1,) * (g.ndim - 1) + (-1,))

    return [mean(g) for g, _ in kernels]


# XLA's name for fusions that Triton makes without one operation that sets how they run.
_HEROLESS = {"xla_gpu_experimental_enable_triton_heroless_priority_fusion": True}

FORMS: dict[str, tuple[Callable[[Kernels], list[jax.Array]] | None, dict[str, Any]]] = {
    "no GC": (None, {}),
    "plain: a mean for each kernel": (plain, {}),
    "one reduction of several operands for equal shapes": (share_reduction, {}),
    "stacked equal shapes, one mean": (stack_kernels, {}),
    "equal fan-in side by side, one mean": (concatenate_kernels, {}),
    "product with ones": (multiply_by_ones, {}),
    "plain, multi-output fusion by Triton": (
        plain,
        {"xla_gpu_unsupported_enable_triton_multi_output_fusion": True},
    ),
    "plain, fusions by Triton": (plain, {"xla_gpu_experimental_all_fusions_with_triton": True}),
    "no GC, heroless fusions by Triton": (None, _HEROLESS),
    "plain, heroless fusions by Triton": (plain, _HEROLESS),
}


def _by_shape(kernels, means, key=lambda g, axes: (g.shape, axes)) -> list[jax.Array]:
    """Applies `means` to groups of equal keys and puts the results back in order."""
    groups = collections.defaultdict(list)
    for place, (g, axes) in enumerate(kernels):
        groups[key(g, axes)].append((place, g, axes))
    out: dict[int, jax.Array] = {}
    for group in groups.values():
        places, arrays, axes = zip(*group, strict=True)
        out |= zip(places, means(arrays, axes[0]), strict=True)
    return [out[place] for place in range(len(kernels))]


def _fan_in(g, axes) -> int:
    return math.prod(g.shape[axis] for axis in axes)


def make_transform(tree: trees.Tree, form: Callable | None) -> optax.GradientTransformation:
    """The centralization of a tree, with its means taken by a form."""
    if form is None:
        return optax.identity()
    axes = [its for _, its in tree.leaves]

    def centralized(updates, params):
        del params
        leaves, treedef = jax.tree.flatten(updates)
        kernels = [(g, its) for g, its in zip(leaves, axes, strict=True) if its]
        means = iter(form(kernels))
        return treedef.unflatten(
            g - next(means) if its else g for g, its in zip(leaves, axes, strict=True)
        )

    return optax.stateless(centralized)
