"""The balanced sampler draws exact numbers, only of allowed places, and prefers none."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.detection.sampling import sample_balanced

LENGTH = 40
# Compiled once for all examples: 12 places, at most 3 of them positive.
sample = jax.jit(
    functools.partial(sample_balanced, batch_size_per_image=12, positive_fraction=0.25)
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([1, 0, -1]), min_size=LENGTH, max_size=LENGTH),
    st.integers(0, 2**31 - 1),
)
def test_counts_are_exact_for_any_labels(labels, seed):
    labels = np.array(labels)
    positives, negatives = sample(jax.random.key(seed), labels == 1, labels == 0)
    assert not (positives & (labels != 1)).any()
    assert not (negatives & (labels != 0)).any()
    expected = min(3, (labels == 1).sum())
    assert positives.sum() == expected
    assert negatives.sum() == min(12 - expected, (labels == 0).sum())


def test_all_is_drawn_where_the_batch_is_large():
    labels = np.arange(10) % 3 - 1
    positives, negatives = sample_balanced(
        jax.random.key(0), labels == 1, labels == 0, batch_size_per_image=512, positive_fraction=0.5
    )
    np.testing.assert_array_equal(positives, labels == 1)
    np.testing.assert_array_equal(negatives, labels == 0)


def test_same_key_draws_the_same_and_another_key_does_not():
    labels = np.arange(LENGTH) % 2
    first, second, third = (
        np.asarray(sample(jax.random.key(seed), labels == 1, labels == 0)[1]) for seed in (7, 7, 8)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != third).any()


def test_every_candidate_is_drawn_equally_often():
    labels = np.arange(LENGTH) % 2
    keys = jax.random.split(jax.random.key(0), 4000)
    draw = jax.vmap(sample, in_axes=(0, None, None))
    positives, negatives = draw(keys, jnp.array(labels == 1), jnp.array(labels == 0))
    # 3 of 20 positives and 9 of 20 negatives. The bound is five standard deviations.
    for drawn, share in ((positives[:, 1::2], 3 / 20), (negatives[:, ::2], 9 / 20)):
        deviation = np.sqrt(share * (1 - share) / 4000)
        np.testing.assert_allclose(drawn.mean(0), share, atol=5 * deviation)


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_fractions_of_nothing_and_of_all(fraction):
    labels = np.arange(LENGTH) % 2
    positives, negatives = sample_balanced(
        jax.random.key(1),
        labels == 1,
        labels == 0,
        batch_size_per_image=6,
        positive_fraction=fraction,
    )
    assert positives.sum() == 6 * fraction
    assert negatives.sum() == 6 - 6 * fraction
