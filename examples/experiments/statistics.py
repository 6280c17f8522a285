"""The tests that PLAN.md names, as calls of SciPy and statsmodels, and its words for a verdict."""

import bisect
import math
import warnings
from typing import Any, Literal, NamedTuple

import numpy as np
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

Verdict = Literal["helps", "hurts", "no difference", "cannot tell"]

# A difference of the test error within this many points, either way, is called none.
MARGIN = 0.5
LEVEL = 0.05
# How often a true difference should be found.
_WANTED_POWER = 0.8


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


def paired_difference(arm: np.ndarray, base: np.ndarray) -> Difference:
    """Compares the values of two arms, (seeds,), whose entries i have the same seed."""
    difference = arm - base
    if len(difference) < 2:
        p_value = float("nan")
    elif not np.ptp(difference):  # the test divides by the spread
        p_value = 0.0 if difference[0] else 1.0
    else:
        p_value = float(stats.ttest_rel(arm, base).pvalue)
    return Difference(float(difference.mean()), half_width(difference), p_value, len(difference))


def half_width(sample: np.ndarray) -> float:
    """Returns half of the 95 % interval of a mean, by Student's t; NaN for fewer than 2 values."""
    if len(sample) < 2:
        return float("nan")
    if not np.ptp(sample):  # the interval of SciPy is NaN where all values are equal
        return 0.0
    found: Any = stats.ttest_1samp(sample, 0)
    low, high = found.confidence_interval(1 - LEVEL)
    return float(high - low) / 2


def adjust(p_values: list[float]) -> list[float]:
    """Returns the p values after Holm's correction for all of them."""
    if not p_values:
        return []
    return [float(p_value) for p_value in np.asarray(multipletests(p_values, method="holm")[1])]


def equivalence(arm: np.ndarray, base: np.ndarray) -> float:
    """Returns the p value of the claim that two arms differ by at least `MARGIN`.

    Args:
      arm: the errors of an arm in percent, (seeds,).
      base: those of the arm that it is compared with, of the same seeds.
    """
    difference = arm - base
    if not np.ptp(difference):  # the test divides by the spread
        return 0.0 if abs(difference[0]) < MARGIN else 1.0
    return float(ttost_paired(arm, base, -MARGIN, MARGIN)[0])


def power(difference: np.ndarray, effect: float = MARGIN) -> float:
    """Returns how likely as many seeds as these are to find a true difference.

    Args:
      difference: the paired differences, (seeds,). Their spread is taken for that of all seeds.
      effect: the true difference, in the same unit.
    """
    return _power(difference, effect, len(difference))


def seeds_needed(difference: np.ndarray, effect: float = MARGIN) -> int:
    """Returns the number of seeds that finds a true difference with power 0.8.

    Args:
      difference, effect: as for `power`.
    """
    counts = range(2, 10**7)
    # The solver of statsmodels finds no root for a few seeds, so the power of counts is searched.
    place = bisect.bisect_left(
        counts,
        _WANTED_POWER,
        hi=len(counts) - 1,
        key=lambda count: _power(difference, effect, count),
    )
    return counts[place]


def _power(difference: np.ndarray, effect: float, seeds: int) -> float:
    spread = float(np.std(difference, ddof=1))
    found = float(TTestPower().power(abs(effect) / spread, seeds, LEVEL)) if spread else 1.0
    # SciPy's noncentral t is NaN far out in its tail, where the power is 1 to all digits.
    return 1.0 if math.isnan(found) else found


def judge(difference: float, p_value: float, p_equivalence: float) -> Verdict:
    """Returns the verdict about an arm.

    Args:
      difference: the mean difference of the test error, in points.
      p_value: the p value of the test of no difference, after its correction.
      p_equivalence: the p value of `equivalence`.
    """
    if p_value < LEVEL:
        return "helps" if difference < 0 else "hurts"
    return "no difference" if p_equivalence < LEVEL else "cannot tell"


class Overall(NamedTuple):
    """A random-effects mean over tasks.

    Attributes:
      mean: the mean, in the unit of the effects.
      low, high: its 95 % interval, by Hartung, Knapp, Sidik and Jonkman.
      new_low, new_high: the 95 % interval of the effect in a new task.
      tau: the standard deviation of the true effects between tasks (Paule and Mandel).
      p_value: of the t-test of a mean of 0.
      p_equivalence: of the claim that the mean lies at least `MARGIN` from 0.
    """

    mean: float
    low: float
    high: float
    new_low: float
    new_high: float
    tau: float
    p_value: float
    p_equivalence: float


def combine(differences: list[np.ndarray]) -> Overall:
    """Combines the differences of tasks, each (seeds,), into a mean of random effects.

    Raises:
      ValueError: there are fewer than three tasks, from which no prediction follows.
    """
    count = len(differences)
    if count < 3:
        raise ValueError(f"a prediction for a new task needs at least 3 tasks, not {count}")
    means = np.asarray([difference.mean() for difference in differences])
    variances = np.asarray([stats.sem(difference) ** 2 for difference in differences])
    # A task whose seeds all agree would have an infinite weight.
    variances = np.maximum(variances, 1e-6)
    found: Any = combine_effects(means, variances, method_re="iterated")
    between = max(0.0, float(found.tau2))
    # The mean, interval and test of Hartung, Knapp, Sidik and Jonkman are those of weighted least
    # squares with these weights.
    weights: Any = 1 / (variances + between)
    fit: Any = sm.WLS(means, np.ones(count), weights=weights).fit()
    mean, error = float(fit.params[0]), float(fit.bse[0])
    low, high = map(float, fit.conf_int(LEVEL)[0])
    # Neither library has these two: Higgins, Thompson and Spiegelhalter's prediction interval, and
    # the larger of two one-sided tests.
    new_low, new_high = stats.t.interval(
        1 - LEVEL, count - 2, loc=mean, scale=math.hypot(math.sqrt(between), error)
    )
    p_equivalence = stats.t.sf((MARGIN - abs(mean)) / error, count - 1)
    return Overall(
        mean=mean,
        low=low,
        high=high,
        new_low=float(new_low),
        new_high=float(new_high),
        tau=math.sqrt(between),
        p_value=float(fit.pvalues[0]),
        p_equivalence=float(p_equivalence),
    )


def sign_test(means: np.ndarray) -> tuple[int, int, float]:
    """Tests whether as many tasks have a positive difference as have a negative one.

    Args:
      means: the mean difference of each task, (tasks,). Those of exactly 0 are left out.

    Returns:
      The number of negative ones, the number of those that are not 0, and the p value, which is 1
      if there are none.
    """
    negative, count = int((means < 0).sum()), int((means != 0).sum())
    return negative, count, float(stats.binomtest(negative, count).pvalue) if count else 1.0


class Ratio(NamedTuple):
    """The geometric mean of paired ratios, with its 95 % interval."""

    mean: float
    low: float
    high: float


def mean_ratio(ratios: np.ndarray) -> Ratio:
    """Returns the geometric mean of positive ratios (seeds,), with the t interval of its logarithm."""
    logs = np.log(ratios)
    mean, half = float(logs.mean()), half_width(logs)
    return Ratio(*(float(np.exp(value)) for value in (mean, mean - half, mean + half)))


def rank_correlation(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Returns Spearman's correlation over tasks, with its 95 % bootstrap interval.

    Args:
      x: a number of each task, (tasks,), such as the share that GC removes.
      y: another number of each task.
    """

    def spearman(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
        # The correlation of the ranks, in one call for all resamples. It is not defined where one of
        # the numbers is the same everywhere, as in some resamples.
        ranks = [stats.rankdata(values, axis=axis) for values in (x, y)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.ConstantInputWarning)
            found: Any = stats.pearsonr(*ranks, axis=axis)
        return np.nan_to_num(found.statistic)

    found = stats.bootstrap(
        (x, y),
        spearman,
        paired=True,
        n_resamples=100_000,
        batch=10_000,
        method="percentile",
        confidence_level=1 - LEVEL,
        rng=np.random.default_rng(0),
    )
    low, high = found.confidence_interval
    return float(spearman(x, y)), float(low), float(high)
