"""The other seeds choose a seed's rate, and the statistical tests are those of the plan."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from examples.experiments.sweep.choice import best_rate, choose_rates
from examples.experiments.sweep.inference import (
    adjust,
    combine,
    equivalence,
    judge,
    mean_ratio,
    rank_correlation,
    seeds_needed,
    sign_test,
)


def test_cross_fitting_by_hand():
    # Row 1 is best on average (80 against 79), but only by the luck of seed 2.
    validation = np.array([[79.0, 79.0, 79.0], [70.0, 70.0, 100.0]])
    assert best_rate(validation) == 1
    # Without seed 0: means 79 and 85. Without seed 1: the same. Without seed 2: 79 and 70.
    assert choose_rates(validation).tolist() == [1, 1, 0]


def test_of_equally_good_rates_the_lowest_is_taken():
    # The sums of these rows are equal only up to rounding.
    validation = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.2, 0.2, 0.2]]) * 100
    assert best_rate(validation) == 0
    assert choose_rates(np.full((4, 5), 90.0)).tolist() == [0] * 5


@given(st.integers(0, 3), st.floats(0, 100), st.randoms(use_true_random=False))
def test_a_seed_does_not_take_part_in_its_own_choice(seed, value, random):
    validation = np.array([[random.uniform(0, 100) for _ in range(4)] for _ in range(5)])
    before = choose_rates(validation)[seed]
    validation[random.randrange(5), seed] = value
    assert choose_rates(validation)[seed] == before


def test_one_seed_cannot_be_cross_fitted():
    with pytest.raises(ValueError, match="at least 2 seeds, not 1"):
        choose_rates(np.ones((3, 1)))


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
