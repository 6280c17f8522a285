"""Llama-shaped parameters as shapes, stacked by layer, and the network's forward pass.

The sizes are those of Llama 3.2 1B, Llama 2 7B, Llama 3 70B, Llama 3.1 405B and Mixtral 8x7B, as
their papers and model cards give them. Layers are stacked on the first axis of each leaf, as
``jax.lax.scan`` takes them. Attention kernels keep heads as an axis, as in Flax.
"""

import difflib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from examples.benchmarks.trees import Tree
from optax_gc import centralize


class Size(NamedTuple):
    """The numbers that fix a model's shapes. Without experts the layers are plain."""

    layers: int
    width: int
    hidden: int
    heads: int
    key_heads: int
    head: int
    vocabulary: int
    tied: bool = False
    experts: int = 0


SIZES = {
    "llama_1g": Size(16, 2048, 8192, 32, 8, 64, 128256, tied=True),
    "llama_7g": Size(32, 4096, 11008, 32, 32, 128, 32000),
    "llama_70g": Size(80, 8192, 28672, 64, 8, 128, 128256),
    "llama_405g": Size(126, 16384, 53248, 128, 8, 128, 128256),
    "mixtral_47g": Size(32, 4096, 14336, 32, 8, 128, 32000, experts=8),
}


def create(name: str, layers: int | None = None) -> Tree:
    """Makes one of `SIZES`, with fewer layers if `layers` is given.

    Raises:
      ValueError: an unknown name; the known ones are listed, the nearest first.
    """
    if name not in SIZES:
        nearest = difflib.get_close_matches(name, SIZES, n=len(SIZES), cutoff=0.0)
        raise ValueError(f"no tree is called {name!r}; there are {', '.join(nearest)}")
    size = SIZES[name]
    if layers is not None:
        size = size._replace(layers=layers)
    params, axes = create_trees(size)
    return Tree(name, params, axes, centralize(axes))


def create_trees(size: Size) -> tuple[Any, Any]:
    """Returns parameters as shapes, and the input axes of each. Axes of layers and experts are none."""
    stack = (size.layers, size.experts) if size.experts else (size.layers,)

    def kernel(*shape, inputs=1, stack=(size.layers,)):
        first = len(stack)
        return {"kernel": (_shape(*stack, *shape), tuple(range(first, first + inputs)))}

    def scale(*stack):
        return {"scale": (_shape(*stack, size.width), None)}

    layer = {
        "attention_norm": scale(size.layers),
        "query": kernel(size.width, size.heads, size.head),
        "key": kernel(size.width, size.key_heads, size.head),
        "value": kernel(size.width, size.key_heads, size.head),
        "out": kernel(size.heads, size.head, size.width, inputs=2),
        "mlp_norm": scale(size.layers),
        "gate": kernel(size.width, size.hidden, stack=stack),
        "up": kernel(size.width, size.hidden, stack=stack),
        "down": kernel(size.hidden, size.width, stack=stack),
    }
    if size.experts:
        layer["router"] = kernel(size.width, size.experts)
    both = {
        "embed": {"embedding": (_shape(size.vocabulary, size.width), None)},
        "layers": layer,
        "norm": scale(),
    }
    if not size.tied:
        both["head"] = kernel(size.width, size.vocabulary, stack=())
    params = jax.tree.map(lambda pair: pair[0], both, is_leaf=_is_pair)
    return params, jax.tree.map(lambda pair: pair[1], both, is_leaf=_is_pair)


def unstack(params: Any) -> Any:
    """Returns the parameters as shapes with a list of layers in place of stacked ones."""
    stacked = params["layers"]

    def drop_stack(leaf):
        sharding = leaf.sharding
        if sharding is not None:
            sharding = NamedSharding(sharding.mesh, P(*sharding.spec[1:]))
        return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype, sharding=sharding)

    number = jax.tree.leaves(stacked)[0].shape[0]
    return params | {"layers": [jax.tree.map(drop_stack, stacked)] * number}


def compute_loss(params: Any, tokens: jax.Array) -> jax.Array:
    """The mean cross-entropy of the next token, computed in bfloat16, with layers recomputed backward.

    Args:
      params: parameters of a tree without experts. Layers that are stacked run in a scan. Layers in a
        list are written out one after another, so that what counts a loop's body once counts each.
      tokens: int32, (sequences, length).
    """
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    x = params["embed"]["embedding"][tokens]

    @jax.checkpoint
    def run_layer(x, layer):
        x = x + _attend(layer, _normalize(x, layer["attention_norm"]))
        y = _normalize(x, layer["mlp_norm"])
        gate, up, down = (layer[name]["kernel"] for name in ("gate", "up", "down"))
        return x + (jax.nn.silu(y @ gate) * (y @ up)) @ down, None

    if isinstance(params["layers"], list):
        for layer in params["layers"]:
            x, _ = run_layer(x, layer)
    else:
        x, _ = jax.lax.scan(run_layer, x, params["layers"])
    x = _normalize(x, params["norm"])
    head = params["head"]["kernel"] if "head" in params else params["embed"]["embedding"].T
    scores = jax.nn.log_softmax((x @ head)[:, :-1].astype(jnp.float32))
    return -jnp.take_along_axis(scores, tokens[:, 1:, None], -1).mean()


def _attend(layer, x):
    query, key, value = (
        jnp.einsum("bti,ihd->bthd", x, layer[name]["kernel"]) for name in ("query", "key", "value")
    )
    query, key = _rotate(query), _rotate(key)
    attended = jax.nn.dot_product_attention(query, key, value, is_causal=True)
    return jnp.einsum("bthd,hdo->bto", attended, layer["out"]["kernel"])


def _rotate(x):
    """Rotary position embedding: halves of a head are turned by an angle that grows with position."""
    half = x.shape[-1] // 2
    rates = 1e4 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = jnp.outer(jnp.arange(x.shape[1], dtype=jnp.float32), rates)[None, :, None, :]
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def _normalize(x, norm):
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + 1e-5)
    return wide.astype(x.dtype) * norm["scale"][None, None]


def _shape(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _is_pair(node) -> bool:
    return isinstance(node, tuple)
