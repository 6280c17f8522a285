"""The statistics of paired seeds agree with SciPy's own tests."""

import numpy as np
import pytest
from scipy import stats

from examples.experiments.statistics import half_width, paired_difference


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


@pytest.mark.parametrize(("shift", "sign"), [(0.5, 1), (-0.5, -1), (0.0, 0)])
def test_the_interval_excludes_0_where_the_test_rejects_at_5_percent(shift, sign):
    noise = np.array([0.1, -0.1, 0.2, -0.2, 0.05, -0.05])
    seen = paired_difference(80 + noise + shift, np.full(6, 80.0))
    assert seen.sign == sign
    assert (seen.p_value < 0.05) == bool(sign)


def test_one_seed_shows_no_difference():
    seen = paired_difference(np.array([81.0]), np.array([80.0]))
    assert seen.mean == 1.0
    assert np.isnan(seen.half_width)
    assert np.isnan(seen.p_value)
    assert seen.sign == 0


def test_arms_that_are_the_same_do_not_differ():
    seen = paired_difference(np.full(5, 80.0), np.full(5, 80.0))
    assert (seen.mean, seen.half_width, seen.p_value, seen.sign) == (0.0, 0.0, 1.0, 0)


def test_an_interval_contains_the_mean_19_times_out_of_20():
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 1, (2000, 5))
    held = np.mean([abs(sample.mean()) <= half_width(sample) for sample in samples])
    assert held == pytest.approx(0.95, abs=0.015)
