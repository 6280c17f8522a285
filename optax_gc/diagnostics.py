"""What gradient centralization does to a model: over which axes, and how much."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from optax_gc._axes import is_kernel_name, kernel_axes, last_name
from optax_gc._centralize import project, widen
from optax_gc._layers import LayerAxes, path_names, unboxed
from optax_gc._resolve import NO_AXES, Leaf, is_absent, resolve


@dataclasses.dataclass(frozen=True)
class LeafReport:
    """What ``centralize`` does to one leaf.

    Attributes:
      path: the leaf's keys, joined by slashes.
      shape: its shape.
      axes: the axes averaged over, None where the leaf is left alone.
      fan_in: the weights of one neuron, None where the leaf is left alone.
      neurons: the number of weight vectors, stacked layers and experts counted, or None.
      reason: why the leaf is left alone, empty where it is not.
      norm_before: the leaf's L2 norm; None for abstract leaves and those of integers.
      norm_after: the same after centralization.
      energy_removed: the share of the squared norm that centralization removes.
    """

    path: str
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None = None
    fan_in: int | None = None
    neurons: int | None = None
    reason: str = ""
    norm_before: float | None = None
    norm_after: float | None = None
    energy_removed: float | None = None


class GradientStats(NamedTuple):
    """The size of one kernel's gradient before and after centralization (Fig. 4).

    Attributes:
      norm_before: L2 norm, a scalar.
      norm_after: L2 norm after centralization.
      max_before: the largest absolute value.
      max_after: the largest absolute value after centralization.
    """

    norm_before: jax.Array
    norm_after: jax.Array
    max_before: jax.Array
    max_after: jax.Array


def describe(tree: Any, axes: Any = kernel_axes, *, mask: Any = None) -> tuple[LeafReport, ...]:
    """Says for each leaf what ``centralize(axes, mask=mask)`` does to it.

    Args:
      tree: gradients; or parameters, to see the axes before any training. Arrays are
        measured, so give ``jax.eval_shape`` of the parameters if only axes are of interest.
      axes: as for :func:`optax_gc.centralize`.
      mask: as for :func:`optax_gc.centralize`.

    Returns:
      One record a leaf, in the order of the tree, None and ``optax.MaskedNode`` left out.

    Raises:
      TypeError: as :func:`optax_gc.centralize`.
      ValueError: as :func:`optax_gc.centralize`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optax_gc import diagnostics
      >>> grads = {"kernel": jnp.array([[1.0, 3.0], [1.0, 5.0]]), "bias": jnp.ones(2)}
      >>> for leaf in diagnostics.describe(grads):
      ...     print(leaf.path, leaf.axes or leaf.reason)
      bias not a kernel by name
      kernel (0,)
    """
    leaves, _ = resolve(tree, axes, mask)
    return tuple(_report(leaf, axes) for leaf in leaves if not is_absent(leaf.value))


def gradient_stats(
    updates: Any, axes: Any = kernel_axes, *, mask: Any = None
) -> dict[str, GradientStats]:
    """Measures each kernel's gradient before and after centralization (Fig. 4).

    Put in front of ``centralize``, :func:`optax.snapshot` takes the measure in the step
    itself and keeps it in the optimizer's state, without changing the updates::

        tx = optax.chain(
            optax.snapshot("gc", functools.partial(gradient_stats, axes=axes)),
            centralize(axes),
            optax.sgd(0.1),
        )
        ...
        for path, stats in optax.tree.get(opt_state, "gc").items():
            log(f"{path}/norm", float(stats.norm_before[...]), step)

    The ``[...]`` takes the array out of the box that ``nnx.Optimizer`` keeps its state in.

    Args:
      updates: the gradients, not centralized yet.
      axes: as for :func:`optax_gc.centralize`.
      mask: as for :func:`optax_gc.centralize`.

    Returns:
      Scalars for each leaf that is centralized, by its path joined by slashes. Float32 or
      wider.

    Raises:
      TypeError: as :func:`optax_gc.centralize`.
      ValueError: as :func:`optax_gc.centralize`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optax_gc import diagnostics
      >>> grads = {"head": {"kernel": jnp.array([[6.0], [2.0]]), "bias": jnp.ones(1)}}
      >>> stats = diagnostics.gradient_stats(grads)["head/kernel"]
      >>> print(stats.max_before, stats.max_after)
      6.0 2.0
    """

    def measure(leaf):
        after = project(leaf.value, leaf.axes)
        return GradientStats(_norm(leaf.value), _norm(after), _largest(leaf.value), _largest(after))

    return {_name(leaf.path): measure(leaf) for leaf in _centralized(updates, axes, mask)}


def neuron_means(params: Any, axes: Any = kernel_axes, *, mask: Any = None) -> dict[str, jax.Array]:
    """Takes the mean of each neuron's weight vector (Fig. 3).

    It needs the parameters, so it is called beside the training step, under ``jit`` if
    speed matters.

    Args:
      params: the parameters.
      axes: as for :func:`optax_gc.centralize`.
      mask: as for :func:`optax_gc.centralize`.

    Returns:
      For each leaf that is centralized, by its path joined by slashes, an array of the
      means, in the shape of the axes that are not averaged. Float32 or wider.

    Raises:
      TypeError: as :func:`optax_gc.centralize`.
      ValueError: as :func:`optax_gc.centralize`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optax_gc import diagnostics
      >>> params = {"head": {"kernel": jnp.array([[6.0, 1.0], [2.0, 3.0]]), "bias": jnp.ones(2)}}
      >>> print(diagnostics.neuron_means(params)["head/kernel"])
      [4. 2.]
    """
    return {
        _name(leaf.path): jnp.mean(widen(leaf.value), axis=leaf.axes)
        for leaf in _centralized(params, axes, mask)
    }


def constraint_drift(
    params: Any, initial: Any, axes: Any = kernel_axes, *, mask: Any = None
) -> dict[str, jax.Array]:
    """Measures how far each neuron has left the hyperplane that GC keeps it on.

    That is \\|eᵀ(w - w⁰)\\| with e = 1/√M (equation 3): zero but for rounding for SGD, with
    or without momentum, behind GC. Weight decay outside of GC and adaptive scaling move it.
    It needs the parameters, so it is called beside the training step.

    Args:
      params: the parameters.
      initial: the parameters at the start, of the same structure and shapes.
      axes: as for :func:`optax_gc.centralize`.
      mask: as for :func:`optax_gc.centralize`.

    Returns:
      For each leaf that is centralized, by its path joined by slashes, an array of the
      drifts, in the shape of the axes that are not averaged. Float32 or wider.

    Raises:
      TypeError: as :func:`optax_gc.centralize`.
      ValueError: as :func:`optax_gc.centralize`; also a leaf that ``initial`` does not have,
        or has in another shape.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optax_gc import diagnostics
      >>> initial = {"head": {"kernel": jnp.zeros((4, 2))}}
      >>> params = {"head": {"kernel": jnp.array([[1.0, 1], [-1, 1], [2, 1], [-2, 1]])}}
      >>> print(diagnostics.constraint_drift(params, initial)["head/kernel"])
      [0. 2.]
    """
    start = {_name(leaf.path): leaf.value for leaf in resolve(initial, None, False)[0]}
    drifts = {}
    for leaf in _centralized(params, axes, mask):
        name, shape = _name(leaf.path), leaf.value.shape
        if name not in start:
            raise ValueError(f"initial has no leaf {name}, which params have")
        if start[name].shape != shape:
            raise ValueError(
                f"the leaf {name} has shape {shape} in params, {start[name].shape} in initial"
            )
        moved = jnp.sum(widen(leaf.value) - widen(start[name]), axis=leaf.axes)
        drifts[name] = jnp.abs(moved) / math.sqrt(_fan_in(leaf))
    return drifts


def share_removed(before: float, after: float) -> float:
    """The share of a squared norm that is gone; rounding makes it no less than none."""
    return max(0.0, 1 - (after / before) ** 2) if before else 0.0


def _centralized(tree, axes, mask) -> Iterator[Leaf]:
    return (leaf for leaf in resolve(tree, axes, mask)[0] if leaf.axes is not None)


def _fan_in(leaf) -> int:
    return math.prod(leaf.value.shape[axis] for axis in leaf.axes)


def _name(path) -> str:
    return "/".join(path_names(unboxed(path))) or "<root>"


def _norm(array):
    return jnp.sqrt(jnp.sum(jnp.square(jnp.abs(widen(array)))))


def _largest(array):
    return jnp.max(jnp.abs(widen(array)))


@functools.partial(jax.jit, static_argnums=1)
def _norms(array, axes):
    return _norm(array), _norm(project(array, axes))


def _report(leaf, axes) -> LeafReport:
    shape = tuple(np.shape(leaf.value))
    report = LeafReport(_name(leaf.path), shape, reason=leaf.reason)
    if leaf.reason == NO_AXES:
        report = dataclasses.replace(report, reason=_why_no_axes(leaf, axes))
    if leaf.axes is not None:
        fan_in, neurons = _fan_in(leaf), math.prod(shape) // _fan_in(leaf)
        report = dataclasses.replace(report, axes=leaf.axes, fan_in=fan_in, neurons=neurons)
    if _is_measurable(leaf.value):
        before, after = map(float, _norms(leaf.value, leaf.axes))
        removed = share_removed(before, after)
        report = dataclasses.replace(
            report, norm_before=before, norm_after=after, energy_removed=removed
        )
    return report


def _why_no_axes(leaf, axes) -> str:
    if isinstance(axes, LayerAxes):
        return axes.reason(leaf.path)
    function = axes.func if isinstance(axes, functools.partial) else axes
    if function is not kernel_axes:
        return leaf.reason
    name, rank = last_name(leaf.path), len(leaf.value.shape)
    if "embed" in name.lower():
        return "embedding by name"
    if rank < 2 or not is_kernel_name(name):
        return "not a kernel by name"
    return f"rank {rank} is ambiguous"


def _is_measurable(value) -> bool:
    is_array = isinstance(value, (jax.Array, np.ndarray)) and not isinstance(value, Tracer)
    return is_array and jnp.issubdtype(value.dtype, jnp.inexact)
