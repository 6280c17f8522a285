"""The tests that PLAN.md names, as calls of SciPy and statsmodels, and its words for a verdict."""

import bisect
import math
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

Verdict = Literal["helps", "hurts", "no difference", "cannot tell"]

# A difference of the test error within this many points, either way, is called none.
MARGIN = 0.5
LEVEL = 0.05


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


def seeds_needed(difference: np.ndarray) -> int:
    """Returns the number of seeds that finds a difference of `MARGIN` with power 0.8.

    Args:
      difference: the paired differences, (seeds,). Their spread is taken for that of all seeds.
    """
    spread = float(np.std(difference, ddof=1))
    if not spread:
        return 2
    candidates = range(2, 10**7)

    # The solver of statsmodels finds no root for a few seeds, so the power of counts is searched.
    def power(seeds: int) -> float:
        return float(TTestPower().power(MARGIN / spread, seeds, LEVEL))

    return candidates[bisect.bisect_left(candidates, 0.8, hi=len(candidates) - 1, key=power)]


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
    result: Any = combine_effects(means, variances, method_re="iterated", use_t=True)
    mean, error = float(result.mean_effect_re), float(result.sd_eff_w_re_hksj)
    tau = math.sqrt(max(0.0, float(result.tau2)))
    half = float(stats.t.ppf(1 - LEVEL / 2, count - 1)) * error
    new = float(stats.t.ppf(1 - LEVEL / 2, count - 2)) * math.hypot(tau, error)
    return Overall(
        mean=mean,
        low=mean - half,
        high=mean + half,
        new_low=mean - new,
        new_high=mean + new,
        tau=tau,
        p_value=2 * float(stats.t.sf(abs(mean) / error, count - 1)),
        p_equivalence=float(stats.t.sf((MARGIN - abs(mean)) / error, count - 1)),
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
    half = stats.t.ppf(1 - LEVEL / 2, len(logs) - 1) * stats.sem(logs)
    mean = float(logs.mean())
    return Ratio(*(float(np.exp(value)) for value in (mean, mean - half, mean + half)))


def rank_correlation(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Returns Spearman's correlation over tasks, with its 95 % bootstrap interval.

    Args:
      x: a number of each task, (tasks,), such as the share of energy that GC removes.
      y: another number of each task.
    """
    draws = np.random.default_rng(0).integers(0, len(x), (2000, len(x)))
    # A draw in which one of the numbers is the same everywhere has no correlation.
    draws = draws[(np.ptp(x[draws], 1) > 0) & (np.ptp(y[draws], 1) > 0)]
    # Spearman's correlation is Pearson's of the ranks.
    drawn: Any = stats.pearsonr(
        stats.rankdata(x[draws], axis=1), stats.rankdata(y[draws], axis=1), axis=1
    )
    value: Any = stats.spearmanr(x, y)
    low, high = np.percentile(drawn.statistic, [100 * LEVEL / 2, 100 * (1 - LEVEL / 2)])
    return float(value.statistic), float(low), float(high)
