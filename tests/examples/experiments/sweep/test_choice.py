"""The other seeds choose a seed's rate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.experiments.sweep.choice import best_rate, choose_rates


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
