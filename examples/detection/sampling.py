"""Sampling: the few anchors or regions of an image that a loss counts."""

import jax
import jax.numpy as jnp


def sample_balanced(
    key: jax.Array,
    positive: jax.Array,
    negative: jax.Array,
    *,
    batch_size_per_image: int,
    positive_fraction: float,
) -> tuple[jax.Array, jax.Array]:
    """Draws positives and negatives without replacement.

    The counts are those of torchvision's ``BalancedPositiveNegativeSampler``: as many positives
    as there are, at most ``int(batch_size_per_image * positive_fraction)``; negatives fill the
    batch as far as there are any.

    Args:
      key: a random key. Its sample does not depend on other images.
      positive: (N,) bool, what may be drawn as a positive.
      negative: (N,) bool, what may be drawn as a negative.
      batch_size_per_image: the number of both together.
      positive_fraction: the largest share of positives.

    Returns:
      Two masks (N,): the positives and the negatives that were drawn.
    """
    positive_key, negative_key = jax.random.split(key)
    max_positives = int(batch_size_per_image * positive_fraction)
    num_positives = jnp.minimum(positive.sum(), max_positives)
    num_negatives = jnp.minimum(negative.sum(), batch_size_per_image - num_positives)
    return (
        _sample(positive_key, positive, num_positives, max_positives),
        _sample(negative_key, negative, num_negatives, batch_size_per_image),
    )


def _sample(key: jax.Array, candidates: jax.Array, number: jax.Array, most: int) -> jax.Array:
    """Draws a traced number of candidates, which are enough. `most` bounds the number."""
    # 30 random bits, read as positive floats. On CPU, top_k of 268,569 floats is about 500 times
    # faster than that of integers, which sorts. `uniform` has only 23 random bits: of so many
    # numbers some are equal, and top_k would prefer the first of them.
    bits = (jax.random.bits(key, candidates.shape, jnp.uint32) >> 2) + jnp.uint32(1 << 23)
    priority = jnp.where(candidates, jax.lax.bitcast_convert_type(bits, jnp.float32), -1)
    _, chosen = jax.lax.top_k(priority, min(most, candidates.size))
    drawn = jnp.arange(chosen.size) < number
    return jnp.zeros(candidates.shape, bool).at[chosen].set(drawn)
