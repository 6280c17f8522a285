"""Compares two arms by paired seeds: a difference, its interval and its p value."""

from typing import NamedTuple

import numpy as np
from scipy import stats


class Difference(NamedTuple):
    """The difference of an arm to the arm without GC, paired by seed.

    Attributes:
      mean: the mean of the differences, in the unit of the values.
      half_width: half of the 95 % interval of that mean, by Student's t; NaN for one seed.
      p_value: of the two-sided paired t-test; NaN for one seed.
      seeds: the number of seeds.
    """

    mean: float
    half_width: float
    p_value: float
    seeds: int

    @property
    def sign(self) -> int:
        """1 or -1 if the interval excludes 0, or else 0."""
        return int(np.sign(self.mean)) if abs(self.mean) > self.half_width else 0


def half_width(sample: np.ndarray) -> float:
    """Returns half of the 95 % interval of a mean, by Student's t; NaN for fewer than 2 values."""
    if len(sample) < 2:
        return float("nan")
    spread = stats.sem(sample)
    if not spread:  # the interval of SciPy is NaN where all values are equal
        return 0.0
    low, high = stats.t.interval(0.95, len(sample) - 1, scale=spread)
    return float(high - low) / 2


def paired_difference(arm: np.ndarray, base: np.ndarray) -> Difference:
    """Compares the values of two arms, (seeds,), whose entries i have the same seed."""
    difference = arm - base
    if len(difference) < 2:
        p_value = float("nan")
    elif not difference.std():  # the test divides by the spread
        p_value = 0.0 if difference[0] else 1.0
    else:
        p_value = float(stats.ttest_rel(arm, base).pvalue)
    return Difference(float(difference.mean()), half_width(difference), p_value, len(difference))
