"""Shows as text what gradient centralization does to a model."""

import math
import shutil
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from optax_gc._axes import Axes, Mask, kernel_axes
from optax_gc.diagnostics import LeafReport, describe, share_removed

# A share of the energy below this is only rounding.
_NOTHING = 1e-6
_NOTHING_REMOVED = (
    "nothing to remove, the mean is 0 already, as after a LayerNorm with its initial scale or with "
    "weight standardization"
)


def tabulate(tree: Any, axes: Axes = kernel_axes, *, mask: Mask = None) -> str:
    """Shows as text what ``centralize(axes, mask=mask)`` does to a model.

    The text has a row for each leaf that is centralized, and then a line for each reason why
    other leaves are left alone. Long paths are cut at the front to fit the terminal. Programs
    that need the numbers use :func:`optax_gc.diagnostics.describe`.

    Args:
      tree: gradients, or parameters to see the axes before any training. Arrays are
        measured; pass ``jax.eval_shape`` of the parameters if you want only the axes.
      axes: as for :func:`optax_gc.centralize`.
      mask: as for :func:`optax_gc.centralize`.

    Returns:
      A table of paths, shapes, averaged axes, fan-ins and numbers of neurons. For arrays it
      also has the L2 norm before and after, and the share of the energy (the squared norm)
      that is removed.

    Raises:
      TypeError: as :func:`optax_gc.centralize`.
      ValueError: as :func:`optax_gc.centralize`.

    Examples:
      >>> import jax
      >>> import optax_gc
      >>> params = {
      ...     "conv": {"kernel": jax.ShapeDtypeStruct((3, 3, 16, 32), "float32")},
      ...     "head": {"kernel": jax.ShapeDtypeStruct((32, 10), "float32")},
      ...     "experts": {"kernel": jax.ShapeDtypeStruct((4, 32, 32), "float32")},
      ... }
      >>> print(optax_gc.tabulate(params))
      kernel       shape      axes   fan-in  neurons
      conv/kernel  3x3x16x32  0,1,2     144       32
      head/kernel  32x10      0          32       10
      <BLANKLINE>
      left alone, rank 3 is ambiguous: 1 leaf, 4,096 weights
        experts/kernel
      <BLANKLINE>
      centralized: 2 of 3 leaves, 4,928 of 9,024 weights
    """
    reports = describe(tree, axes, mask=mask)
    kernels = [report for report in reports if report.axes is not None]
    remarks: dict[str, list[LeafReport]] = {}
    for report in reports:
        if report.axes is None:
            remarks.setdefault(f"left alone, {report.reason}", []).append(report)
        if report.note:
            remarks.setdefault(f"please check: {report.note}", []).append(report)
        if report.norm_before and (report.energy_removed or 0) < _NOTHING and report.axes:
            remarks.setdefault(_NOTHING_REMOVED, []).append(report)
    width = shutil.get_terminal_size().columns
    lines = [*_table(kernels, width), ""] if kernels else []
    for remark, those in remarks.items():
        lines += [f"{remark}: {_counted(those)}", *_some_paths(those, width), ""]
    return "\n".join([*lines, *_totals(reports, kernels)])


def _table(kernels, width) -> list[str]:
    rows = [("kernel", "shape", "axes", "fan-in", "neurons")]
    rows += [
        (
            kernel.path,
            "x".join(map(str, kernel.shape)),
            ",".join(map(str, kernel.axes or ())),
            f"{kernel.fan_in:,}",
            f"{kernel.neurons:,}",
        )
        for kernel in kernels
    ]
    if any(kernel.norm_before is not None for kernel in kernels):
        rows = [(*row, *norms) for row, norms in zip(rows, _norm_columns(kernels), strict=True)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[0] = min(widths[0], max(12, width - sum(widths[1:]) - 2 * len(widths[1:])))

    def line(path, shape, axes, *numbers):
        cells = [f"{_cut(path, widths[0]):{widths[0]}}", f"{shape:{widths[1]}}"]
        cells += [f"{axes:{widths[2]}}"]
        cells += [f"{cell:>{size}}" for cell, size in zip(numbers, widths[3:], strict=True)]
        return "  ".join(cells)

    return [line(*row) for row in rows]


def _norm_columns(kernels) -> Iterator[tuple[str, str, str]]:
    yield "norm", "after", "removed"
    for kernel in kernels:
        if kernel.norm_before is None:
            yield "", "", ""
        else:
            yield (
                f"{kernel.norm_before:.3g}",
                f"{kernel.norm_after:.3g}",
                f"{kernel.energy_removed:.1%}",
            )


def _cut(path, width) -> str:
    return path if len(path) <= width else "…" + path[1 - width :]


def _counted(reports) -> str:
    leaves = "1 leaf" if len(reports) == 1 else f"{len(reports):,} leaves"
    return f"{leaves}, {_weights(reports):,} weights"


def _weights(reports: Iterable[LeafReport]) -> int:
    return sum(math.prod(report.shape) for report in reports)


def _some_paths(reports, width) -> list[str]:
    shown = [_cut(report.path, max(width - 3, 12)) for report in reports[:4]]
    if len(reports) > len(shown):
        shown.append(f"and {len(reports) - len(shown):,} more")
    return textwrap.wrap(
        ", ".join(shown),
        max(width, 20),
        initial_indent="  ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _totals(reports, kernels) -> Iterator[str]:
    weights = f"{_weights(kernels):,} of {_weights(reports):,} weights"
    yield f"centralized: {len(kernels):,} of {len(reports):,} leaves, {weights}"
    measured = [report for report in reports if report.norm_before is not None]
    if measured:
        before = math.hypot(*(report.norm_before for report in measured))
        after = math.hypot(*(report.norm_after for report in measured))
        removed = float(share_removed(before, after))
        yield f"norm: {before:.3g}, {after:.3g} after, {removed:.1%} of the energy removed"
