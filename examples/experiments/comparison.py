"""What paired seeds can tell: a difference, its interval, its p-value."""

from typing import Any, NamedTuple

import numpy as np
from scipy import stats


class Difference(NamedTuple):
    """An arm beside the arm without GC, seed by seed.

    Attributes:
      mean: of the differences, in the unit of the values.
      half_width: half the 95 % interval of that mean, by Student's t.
      p_value: of the two-sided paired t-test against no difference.
      seeds: how many there are.
    """

    mean: float
    half_width: float
    p_value: float
    seeds: int

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves out 0, else 0."""
        return int(np.sign(self.mean)) if abs(self.mean) > self.half_width else 0


def half_width(sample: np.ndarray) -> float:
    """Gives half the 95 % interval of a mean, by Student's t; NaN for fewer than 2 values."""
    count = len(sample)
    if count < 2:
        return float("nan")
    return float(stats.t.ppf(0.975, count - 1) * sample.std(ddof=1) / np.sqrt(count))


def paired_difference(arm: np.ndarray, base: np.ndarray) -> Difference:
    """Compares two arms' values, (seeds,), of which entry i has the same seed."""
    difference = arm - base
    half = half_width(difference)
    if len(difference) < 2:
        p_value = float("nan")
    elif not difference.std():  # the test divides by it
        p_value = 0.0 if difference[0] else 1.0
    else:
        test: Any = stats.ttest_1samp(difference, 0.0)
        p_value = float(test.pvalue)
    return Difference(float(difference.mean()), half, p_value, len(difference))
