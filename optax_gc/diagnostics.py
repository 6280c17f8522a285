"""Measures what gradient centralization does to a model: over which axes, and how much."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from optax_gc._axes import Axes, Mask, decide, kernel_axes
from optax_gc._centralize import project, widen
from optax_gc._layers import LayerAxes
from optax_gc._paths import slash_name
from optax_gc._resolve import NO_AXES, Leaf, fan_in, is_absent, resolve


@dataclasses.dataclass(frozen=True)
class LeafReport:
    """A description of what ``centralize`` does to one leaf.

    Attributes:
      path: the leaf's path, joined by slashes.
      shape: the leaf's shape.
      axes: the axes that are averaged over, or None if the leaf is left alone.
      fan_in: the number of weights of one neuron, or None if the leaf is left alone.
      neurons: the number of weight vectors in the leaf, those of stacked layers and experts
        included, or None if the leaf is left alone.
      reason: why the leaf is left alone; empty if it is centralized.
      note: what was assumed to find the axes; empty if nothing was.
      norm_before: the leaf's L2 norm, or None if it is abstract or not floating point.
      norm_after: the L2 norm after centralization.
      energy_removed: the share of the squared norm that centralization removes, from 0 to 1.
    """

    path: str
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None = None
    fan_in: int | None = None
    neurons: int | None = None
    reason: str = ""
    note: str = ""
    norm_before: float | None = None
    norm_after: float | None = None
    energy_removed: float | None = None


class GradientStats(NamedTuple):
    """The size of one kernel's gradient before and after centralization (Fig. 4).

    Attributes:
      norm_before: the L2 norm, a scalar.
      norm_after: the L2 norm after centralization.
      max_before: the largest absolute value, 0 for a leaf without entries.
      max_after: the largest absolute value after centralization.
    """

    norm_before: jax.Array
    norm_after: jax.Array
    max_before: jax.Array
    max_after: jax.Array


def describe(tree: Any, axes: Axes = kernel_axes, *, mask: Mask = None) -> tuple[LeafReport, ...]:
    """Describes what ``centralize(axes, mask=mask)`` does to each leaf.

    Args:
      tree: gradients, or parameters to see the axes before any training. Arrays are
        measured; pass ``jax.eval_shape`` of the parameters if you want only the axes.
      axes: as for :func:`optax_gc.centralize`.
      mask: as for :func:`optax_gc.centralize`.

    Returns:
      One record for each leaf, in the order of the tree, without those that are None or
      ``optax.MaskedNode``.

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
    updates: Any, axes: Axes = kernel_axes, *, mask: Mask = None
) -> dict[str, GradientStats]:
    """Measures each kernel's gradient before and after centralization (Fig. 4).

    To measure in every training step, put :func:`optax.snapshot` before ``centralize``. It
    keeps the result in the optimizer's state and does not change the updates. Read it with
    :func:`read_metrics`.

    Args:
      updates: the gradients before centralization.
      axes: as for :func:`optax_gc.centralize`.
      mask: as for :func:`optax_gc.centralize`.

    Returns:
      Scalars for each leaf that is centralized, by its path joined by slashes, in float32
      or wider.

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

    return {slash_name(leaf.path): measure(leaf) for leaf in _centralized(updates, axes, mask)}


def read_metrics(state: Any, name: str = "gc") -> dict[str, jax.Array]:
    """Reads what :func:`gradient_stats` measured in the last step, as flat scalars.

    The optimizer measures if its chain has a snapshot before ``centralize``::

        tx = optax.chain(
            optax.snapshot("gc", functools.partial(gradient_stats, axes=axes)),
            centralize(axes),
            optax.sgd(0.1),
        )
        ...
        logger.log({key: float(value) for key, value in read_metrics(opt_state).items()})

    Reading does not change the training step. It also works inside of a jitted step.

    Args:
      state: the optimizer's state, in which ``nnx.Optimizer``, ``optax.MultiSteps``,
        ``optax.masked`` or ``optax.partition`` may have wrapped the snapshot. If there are
        several snapshots of this name, as under ``optax.partition``, they are read as one.
      name: the name of the snapshot, and the first part of each key.

    Returns:
      For each kernel the share of its gradient's squared norm that GC removes, as
      "gc/PATH/removed", and the L2 norm before GC, as "gc/PATH/norm"; the same for all
      kernels together, as "gc/removed" and "gc/norm". Float32 scalars, or wider.

    Raises:
      ValueError: the state has no snapshot of this name.

    Examples:
      >>> import functools
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import optax_gc
      >>> from optax_gc.diagnostics import gradient_stats, read_metrics
      >>> grads = {"head": {"kernel": jnp.array([[6.0], [2.0]])}}
      >>> tx = optax.chain(optax.snapshot("gc", gradient_stats), optax_gc.centralize())
      >>> _, state = tx.update(grads, tx.init(grads))
      >>> for key, value in read_metrics(state).items():
      ...     print(f"{key} {value:.2f}")
      gc/removed 0.80
      gc/norm 6.32
      gc/head/kernel/removed 0.80
      gc/head/kernel/norm 6.32
    """

    # Anything else in the state can have this name, such as the label of a partition or a layer.
    def is_snapshot(path, value):
        del path
        return isinstance(value, dict) and all(
            isinstance(kernel, GradientStats) for kernel in value.values()
        )

    found = optax.tree.get_all_with_path(state, name, is_snapshot)
    if not found:
        raise ValueError(
            f"the state has no snapshot {name!r}: put optax.snapshot({name!r}, gradient_stats) "
            "before centralize in the chain"
        )
    # nnx.Optimizer keeps each array of its state in a box.
    stats = {
        path: GradientStats(*(leaf[...] for leaf in kernel))
        for _, snapshot in found
        for path, kernel in snapshot.items()
    }
    before = _norm(jnp.array([kernel.norm_before for kernel in stats.values()]))
    after = _norm(jnp.array([kernel.norm_after for kernel in stats.values()]))
    metrics = {f"{name}/removed": share_removed(before, after), f"{name}/norm": before}
    for path, kernel in stats.items():
        metrics[f"{name}/{path}/removed"] = share_removed(kernel.norm_before, kernel.norm_after)
        metrics[f"{name}/{path}/norm"] = kernel.norm_before
    return metrics


def neuron_means(
    params: Any, axes: Axes = kernel_axes, *, mask: Mask = None
) -> dict[str, jax.Array]:
    """Computes the mean of each neuron's weight vector (Fig. 3).

    It needs the parameters, so call it outside of the optimizer, under ``jit`` if speed
    matters.

    Args:
      params: the parameters.
      axes: as for :func:`optax_gc.centralize`.
      mask: as for :func:`optax_gc.centralize`.

    Returns:
      For each leaf that is centralized, by its path joined by slashes, an array of the
      means in float32 or wider. Its shape is that of the axes that are not averaged.

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
        slash_name(leaf.path): jnp.mean(widen(leaf.value), axis=leaf.axes)
        for leaf in _centralized(params, axes, mask)
    }


def constraint_drift(
    params: Any, initial: Any, axes: Axes = kernel_axes, *, mask: Mask = None
) -> dict[str, jax.Array]:
    """Measures how far each neuron has left the hyperplane that GC keeps it on.

    That is \\|eᵀ(w - w⁰)\\| with e = 1/√M (equation 3). If GC comes before SGD, with or
    without momentum, it is zero apart from rounding. Weight decay after GC and adaptive
    scaling make it grow. It needs the parameters, so call it outside of the optimizer.

    Args:
      params: the parameters.
      initial: the parameters before training, of the same structure and shapes.
      axes: as for :func:`optax_gc.centralize`.
      mask: as for :func:`optax_gc.centralize`.

    Returns:
      For each leaf that is centralized, by its path joined by slashes, an array of the
      drifts in float32 or wider. Its shape is that of the axes that are not averaged.

    Raises:
      TypeError: as :func:`optax_gc.centralize`.
      ValueError: as :func:`optax_gc.centralize`, or ``initial`` does not have a leaf or has
        it in another shape.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optax_gc import diagnostics
      >>> initial = {"head": {"kernel": jnp.zeros((4, 2))}}
      >>> params = {"head": {"kernel": jnp.array([[1.0, 1], [-1, 1], [2, 1], [-2, 1]])}}
      >>> print(diagnostics.constraint_drift(params, initial)["head/kernel"])
      [0. 2.]
    """
    start = {
        slash_name(leaf.path): leaf.value
        for leaf in resolve(initial, None, False)[0]
        if not is_absent(leaf.value)
    }
    drifts = {}
    for leaf in _centralized(params, axes, mask):
        name, shape = slash_name(leaf.path), leaf.value.shape
        if name not in start:
            raise ValueError(f"initial has no leaf {name}, which params have")
        if np.shape(start[name]) != shape:
            raise ValueError(
                f"the leaf {name} has shape {shape} in params, {np.shape(start[name])} in initial"
            )
        moved = jnp.sum(widen(leaf.value) - widen(start[name]), axis=leaf.axes)
        drifts[name] = jnp.abs(moved) / math.sqrt(fan_in(leaf.value, leaf.axes))
    return drifts


def share_removed(before: jax.typing.ArrayLike, after: jax.typing.ArrayLike) -> jax.Array:
    """Computes the share of a squared norm that was removed.

    Args:
      before: the norm before, a scalar or an array.
      after: the norm after, of the same shape.

    Returns:
      ``1 - (after / before)**2``, at least 0 in spite of rounding, 0 for a norm of 0, and NaN
      where a norm is NaN.
    """
    before = jnp.asarray(before)
    share = 1 - jnp.square(after / jnp.where(before == 0, 1, before))
    return jnp.where(before == 0, 0, jnp.maximum(share, 0))


def _centralized(tree, axes, mask) -> Iterator[Leaf]:
    return (leaf for leaf in resolve(tree, axes, mask)[0] if leaf.axes is not None)


def _norm(array):
    # The entries are divided by the largest first, so that no square overflows or underflows.
    largest = _largest(array)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return scale * jnp.sqrt(jnp.sum(jnp.square(jnp.abs(widen(array)) / scale)))


def _largest(array):
    return jnp.max(jnp.abs(widen(array)), initial=0)


@functools.partial(jax.jit, static_argnums=1)
def _norms(array, axes):
    return _norm(array), _norm(project(array, axes))


def _report(leaf, axes) -> LeafReport:
    shape = tuple(np.shape(leaf.value))
    report = LeafReport(slash_name(leaf.path), shape, reason=leaf.reason)
    if leaf.reason == NO_AXES:
        report = dataclasses.replace(report, reason=_explain(leaf, axes) or NO_AXES)
    if leaf.axes is not None:
        weights = fan_in(leaf.value, leaf.axes)
        report = dataclasses.replace(
            report,
            axes=leaf.axes,
            fan_in=weights,
            neurons=math.prod(shape) // weights,
            note=_explain(leaf, axes),
        )
    if _is_measurable(leaf.value):
        before, after = map(float, _norms(leaf.value, leaf.axes))
        removed = float(share_removed(before, after))
        report = dataclasses.replace(
            report, norm_before=before, norm_after=after, energy_removed=removed
        )
    return report


def _explain(leaf, axes) -> str:
    if isinstance(axes, LayerAxes):
        return axes.note(leaf.path)
    rule, args, options = axes, (), {}
    if isinstance(axes, functools.partial):
        rule, args, options = axes.func, axes.args, axes.keywords
    return decide(leaf.path, leaf.value, *args, **options)[1] if rule is kernel_axes else ""


def _is_measurable(value) -> bool:
    is_array = isinstance(value, (jax.Array, np.ndarray)) and not isinstance(value, Tracer)
    return is_array and jnp.issubdtype(value.dtype, jnp.inexact)
