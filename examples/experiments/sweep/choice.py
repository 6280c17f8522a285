"""Which learning rate each seed of an arm is given: the best one by the other seeds."""

import numpy as np


def choose_rates(validation: np.ndarray) -> np.ndarray:
    """Chooses a rate for each seed by cross-fitting.

    A seed's own validation accuracy has no part in its choice, so its test accuracy there is not
    that of a lucky draw.

    Args:
      validation: (rates, seeds), the validation accuracy of every seed at every rate.

    Returns:
      int (seeds,): for each seed, the row with the best mean over the other seeds. Of equally good
      rows the first is taken.

    Raises:
      ValueError: there are fewer than two seeds.
    """
    seeds = validation.shape[1]
    if seeds < 2:
        raise ValueError(f"cross-fitting needs at least 2 seeds, not {seeds}")
    others = (validation.sum(1, keepdims=True) - validation) / (seeds - 1)
    # Sums in another order differ in their last digits, which must not decide between equal rates.
    return np.argmax(others.round(9), axis=0)


def best_rate(validation: np.ndarray) -> int:
    """Returns the row of (rates, seeds) with the best mean; of equally good rows the first."""
    return int(np.argmax(validation.mean(1).round(9)))
