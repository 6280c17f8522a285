"""A vision transformer, ViT-B/16 by default, in Flax NNX."""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike


class Block(nnx.Module):
    """Attention and a perceptron, each behind a layer normalization and beside a shortcut."""

    def __init__(
        self, width: int, heads: int, hidden: int, dtype: DTypeLike | None, rngs: nnx.Rngs
    ):
        self.norm1 = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            heads, width, dtype=dtype, decode=False, deterministic=True, rngs=rngs
        )
        self.norm2 = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.up = nnx.Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(hidden, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = x + self.attention(self.norm1(x))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class ViT(nnx.Module):
    """Takes images (N, size, size, 3) and returns logits (N, classes), as the paper's authors do.

    Args:
      size: the height and width of the images, a multiple of `patch`.
      patch: the height and width of a patch.
      depth: the number of blocks.
      width: the numbers that stand for a patch.
      heads: the heads of attention, which share the width.
      hidden: the width of the perceptrons.
      classes: the number of logits.
      dtype: the type that is computed in. Parameters are float32.
      rngs: the random keys.
    """

    def __init__(
        self,
        *,
        size: int = 224,
        patch: int = 16,
        depth: int = 12,
        width: int = 768,
        heads: int = 12,
        hidden: int = 3072,
        classes: int = 1000,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        self.patches = nnx.Conv(
            3, width, (patch, patch), strides=patch, padding="VALID", dtype=dtype, rngs=rngs
        )
        length = 1 + (size // patch) ** 2
        initialize = nnx.initializers.truncated_normal(0.02)
        self.class_token = nnx.Param(initialize(rngs.params(), (1, 1, width)))
        self.position_embedding = nnx.Param(initialize(rngs.params(), (1, length, width)))
        self.blocks = nnx.List([Block(width, heads, hidden, dtype, rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(width, classes, dtype=dtype, rngs=rngs)

    def __call__(self, images: Array) -> Array:
        x = self.patches(images)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        token = jnp.broadcast_to(self.class_token[...], (x.shape[0], 1, x.shape[-1]))
        x = jnp.concatenate([token.astype(x.dtype), x], axis=1)
        x = x + self.position_embedding[...].astype(x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])
