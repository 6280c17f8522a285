"""What GC removes from a step's gradients is measured for each kernel and for all together."""

import jax.numpy as jnp
import pytest

from examples.training.gc_metrics import measure_gc
from optax_gc import kernel_axes


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_shares_neither_overflow_nor_underflow(size):
    kernel = jnp.array([[3.0], [1.0]]) * size
    measured = measure_gc({"a": {"kernel": kernel}, "b": {"kernel": kernel}}, kernel_axes)
    assert float(measured["gc/share_removed"]) == pytest.approx(0.8, rel=1e-5)
    assert float(measured["gc/a/kernel/norm_before"]) == pytest.approx(10**0.5 * size, rel=1e-5)
    assert float(measured["gc/b/kernel/max_after"]) == pytest.approx(size, rel=1e-5)
