"""The statistics are those that the plan names, and agree with SciPy's own tests."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from examples.experiments.statistics import (
    adjust,
    combine,
    equivalence,
    half_width,
    judge,
    mean_ratio,
    paired_difference,
    power,
    rank_correlation,
    seeds_needed,
    sign_test,
)


def test_the_interval_and_the_p_value_are_those_of_the_paired_t_test():
    rng = np.random.default_rng(0)
    base = rng.normal(80, 2, 10)
    arm = base + rng.normal(0.5, 0.4, 10)
    expected = stats.ttest_rel(arm, base)
    interval = expected.confidence_interval(0.95)
    seen = paired_difference(arm, base)
    assert seen.mean == pytest.approx((interval.low + interval.high) / 2)
    assert seen.half_width == pytest.approx((interval.high - interval.low) / 2)
    assert seen.p_value == pytest.approx(expected.pvalue)
    assert seen.seeds == 10


def test_one_seed_shows_no_difference():
    seen = paired_difference(np.array([81.0]), np.array([80.0]))
    assert seen.mean == 1.0
    assert np.isnan(seen.half_width)
    assert np.isnan(seen.p_value)


def test_arms_that_are_the_same_do_not_differ():
    seen = paired_difference(np.full(5, 80.0), np.full(5, 80.0))
    assert (seen.mean, seen.half_width, seen.p_value) == (0.0, 0.0, 1.0)


def test_an_interval_contains_the_mean_19_times_out_of_20():
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 1, (2000, 5))
    held = np.mean([abs(sample.mean()) <= half_width(sample) for sample in samples])
    assert held == pytest.approx(0.95, abs=0.015)


def test_holm_by_hand():
    assert adjust([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert adjust([]) == []


def test_equivalence_is_two_one_sided_tests():
    random = np.random.default_rng(0)
    base = random.normal(10, 1, 12)
    arm = base + random.normal(0.1, 0.3, 12)
    difference = arm - base
    error, degrees = stats.sem(difference), len(difference) - 1
    above = stats.t.sf((difference.mean() + 0.5) / error, degrees)
    below = stats.t.cdf((difference.mean() - 0.5) / error, degrees)
    assert equivalence(arm, base) == pytest.approx(max(above, below))
    assert equivalence(base, base) == 0.0
    assert equivalence(base + 2.0, base) == 1.0


def test_the_words_of_the_plan():
    assert judge(-0.1, 0.01, 0.0) == "helps"
    assert judge(0.1, 0.01, 0.0) == "hurts"
    assert judge(0.1, 0.2, 0.01) == "no difference"
    assert judge(-3.0, 0.05, 0.2) == "cannot tell"


def test_the_seeds_that_are_needed_have_the_power():
    for spread in (0.05, 0.4, 1.5, 20.0):
        difference = spread * stats.norm.ppf((np.arange(12) + 0.5) / 12)
        spread = difference.std(ddof=1)

        def power(seeds, spread=spread):
            shift = 0.5 / spread * np.sqrt(seeds)
            # A significant difference of the wrong sign is so rare that it is left out.
            return stats.nct.sf(stats.t.ppf(0.975, seeds - 1), seeds - 1, shift)

        seeds = seeds_needed(difference)
        assert power(seeds) >= 0.8
        assert seeds == 2 or power(seeds - 1) < 0.8
    assert seeds_needed(np.zeros(12)) == 2


def test_equal_effects_have_no_spread_between_tasks():
    difference = np.array([-1.0, 0.0, 1.0, 0.5]) - 2
    overall = combine([difference] * 5)
    assert overall.mean == pytest.approx(difference.mean())
    assert overall.tau == pytest.approx(0, abs=1e-3)


def test_effects_that_differ_make_a_wide_prediction():
    noise = np.array([-0.01, 0.0, 0.01, 0.0])
    shifts = np.array([-3.0, -1.0, 0.0, 1.0, 3.0])
    overall = combine([shift + noise for shift in shifts])
    assert overall.mean == pytest.approx(0, abs=1e-6)
    # The seeds agree, so the spread between tasks is that of their means.
    assert overall.tau == pytest.approx(shifts.std(ddof=1), rel=1e-2)
    half = stats.sem(shifts) * stats.t.ppf(0.975, 4)
    assert (overall.low, overall.high) == pytest.approx((-half, half), rel=1e-2)
    new = np.hypot(shifts.std(ddof=1), stats.sem(shifts)) * stats.t.ppf(0.975, 3)
    assert (overall.new_low, overall.new_high) == pytest.approx((-new, new), rel=1e-2)
    assert overall.p_value == pytest.approx(1, abs=1e-3)
    with pytest.raises(ValueError, match="at least 3 tasks"):
        combine([noise, noise])


def test_signs_are_counted_without_zeros():
    assert sign_test(np.array([-1.0, -2.0, -0.5, 3.0, 0.0]))[:2] == (3, 4)
    assert sign_test(-np.ones(6))[2] == pytest.approx(2 / 2**6)
    assert sign_test(np.zeros(3)) == (0, 0, 1.0)


def test_a_mean_ratio_is_geometric():
    ratio = mean_ratio(np.array([0.5, 2.0, 1.0]))
    assert ratio.mean == pytest.approx(1)
    assert ratio.low == pytest.approx(1 / ratio.high)


def test_a_rising_relation_has_a_rank_correlation_of_1():
    x = np.arange(8.0)
    assert rank_correlation(x, x**3) == pytest.approx((1, 1, 1))
    value, low, high = rank_correlation(x, np.array([3.0, 1, 4, 1, 5, 9, 2, 6]))
    assert low <= value <= high


def test_power_is_how_often_the_test_finds_a_true_difference():
    random = np.random.default_rng(0)
    noise = random.normal(0, 1, (4000, 12))
    found: Any = stats.ttest_1samp(noise + 0.8, 0, axis=1)
    share = np.mean(np.asarray(found.pvalue) < 0.05)
    spread = stats.norm.ppf((np.arange(12) + 0.5) / 12)
    spread /= spread.std(ddof=1)
    assert power(spread, 0.8) == power(spread, -0.8) == pytest.approx(share, abs=0.03)
    assert power(np.zeros(12), 0.8) == 1.0
    assert power(spread / 1000, 0.8) == 1.0


def test_a_bootstrap_keeps_the_pairs_and_counts_resamples_without_a_spread_as_0():
    x, y = np.array([0.0, 1, 2, 3, 4, 5]), np.array([1.0, 1, 1, 1, 1, 3])
    value, low, high = rank_correlation(x, y)
    expected: Any = stats.spearmanr(x, y)
    assert value == pytest.approx(expected.statistic)
    # The only task that differs is missing in a third of the resamples.
    assert low == 0
    assert value < high <= 1
