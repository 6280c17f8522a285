"""Measures how much centralization removes from the gradients of a training step."""

from typing import Any

from examples.training.steps import Metrics
from optax_gc.diagnostics import gradient_stats, read_metrics


def measure_gc(grads: Any, axes: Any) -> Metrics:
    """Measures what GC removes, or would remove, from each kernel's gradient and from all together.

    Args:
      grads: the gradients, before the optimizer.
      axes: the input axes of the kernels, as `nnx_kernel_axes(model)` returns them.

    Returns:
      For each kernel the L2 norm and the largest absolute value before and after (Figure 4 of the
      paper), as "gc/PATH/NAME", and the share of the squared norm of all kernels that GC removes,
      as "gc/share_removed".
    """
    stats = gradient_stats(grads, axes)
    measured = {
        f"gc/{path}/{name}": value
        for path, kernel in stats.items()
        for name, value in kernel._asdict().items()
    }
    return {**measured, "gc/share_removed": read_metrics({"gc": stats})["gc/removed"]}
