"""Forward and backward passes: their FLOPs, and the bytes that a card reads and writes for them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from examples import models
from examples.benchmarks import trees
from examples.benchmarks.compiled import hlo, layouts, llama, targets
from examples.benchmarks.compiled.cards import Card
from examples.benchmarks.trees import Tree

COMPILER_BYTES = 3.2e9
"""What the largest step that was compiled took of this machine's memory, 2.9 GB, and a margin."""


class Traffic(NamedTuple):
    """The bytes that a chip reads and writes: by the program's text, and by the compiler if it counts them."""

    by_text: float
    by_compiler: float | None


class Step(NamedTuple):
    """A forward and backward pass, the chips that share it, and the bytes of a chip's gradients."""

    name: str
    chips: int
    gradient_bytes: float
    count_flops: Callable[[], float]
    count_traffic: Callable[[Card], Traffic]


def count_flops(function: Callable, *args: Any) -> float:
    """Returns the FLOPs of a function, as XLA counts them before it optimizes."""
    cost = jax.jit(function).lower(*args).cost_analysis()
    if cost is None:
        raise RuntimeError("this version of JAX counts no FLOPs")
    return cost["flops"]


def count_traffic(function: Callable, *args: Any, **options: Any) -> Traffic:
    """Counts the bytes that a chip reads and writes, as the compiler of the arguments' devices does."""
    compiled = jax.jit(function, **options).lower(*args).compile()
    cost = compiled.cost_analysis() or {}
    by_text = hlo.count_traffic(hlo.parse(str(compiled.as_text())))
    return Traffic(by_text, cost.get("bytes accessed"))


def create_resnet(images: int) -> tuple[Callable, tuple[Any, ...]]:
    """Returns the gradient of ResNet-50 in bfloat16 as a function, and its arguments as shapes."""
    model = nnx.eval_shape(
        lambda: models.create("resnet50", num_classes=1000, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    )
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, rest, images, labels):
        model = nnx.merge(graph, params, rest, copy=True)
        scores = model(images).astype(jnp.float32)
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
        return losses.mean(), nnx.state(model, nnx.Not(nnx.Param))

    inputs = (
        jax.ShapeDtypeStruct((images, 224, 224, 3), jnp.bfloat16),
        jax.ShapeDtypeStruct((images,), jnp.int32),
    )
    return jax.grad(loss, has_aux=True), (params, rest, *inputs)


def count_resnet_flops(images: int) -> float:
    """FLOPs of forward and backward of ResNet-50."""
    gradient, args = create_resnet(images)
    return count_flops(gradient, *args)


def count_resnet_traffic(card: Card, images: int) -> Traffic:
    """Bytes that forward and backward of ResNet-50 read and write on one chip."""
    gradient, args = create_resnet(images)
    whole = NamedSharding(Mesh(np.array(targets.describe_devices(card, 1)), ("data",)), P())
    on_card = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), args
    )
    return count_traffic(gradient, *on_card)


def count_llama_flops(length: int) -> float:
    """FLOPs of forward and backward of Llama 2 7B on one sequence. Layers run forward twice."""
    gradient = jax.grad(llama.compute_loss)
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    return extrapolate(
        *(count_flops(gradient, llama.unstack(tree.params), tokens) for tree in create_shallow())
    )


def count_llama_traffic(card: Card, length: int) -> Traffic:
    """Bytes that each of 256 chips reads and writes, which split all kernels (fsdp) and have a sequence each."""
    gradient, chips = jax.grad(llama.compute_loss), 256
    devices = targets.describe_devices(card, chips)

    def count(tree):
        params = llama.unstack(layouts.shard(tree, *layouts.split(tree, "fsdp", chips), devices))
        shardings = jax.tree.map(lambda leaf: leaf.sharding, params)
        rows = NamedSharding(jax.tree.leaves(shardings)[0].mesh, P("fsdp"))
        tokens = jax.ShapeDtypeStruct((chips, length), jnp.int32, sharding=rows)
        return count_traffic(gradient, params, tokens, out_shardings=shardings)

    one, two = map(count, create_shallow())
    own = None
    if one.by_compiler is not None and two.by_compiler is not None:
        own = extrapolate(one.by_compiler, two.by_compiler)
    return Traffic(extrapolate(one.by_text, two.by_text), own)


def create_shallow() -> tuple[Tree, Tree]:
    """Returns Llama 2 7B with one layer and with two."""
    return llama.create("llama_7g", 1), llama.create("llama_7g", 2)


def extrapolate(one: float, two: float) -> float:
    """Returns the count of Llama 2 7B from those with one layer and with two: the others are alike."""
    return one + (llama.SIZES["llama_7g"].layers - 1) * (two - one)


def create_steps(images: int, length: int) -> tuple[Step, ...]:
    """Returns the steps: ResNet-50 on so many images, and Llama 2 7B on sequences of a length."""
    resnet, transformer = trees.create("resnet50"), llama.create("llama_7g")
    return (
        Step(
            *(f"ResNet-50, {images} images", 1, 4 * resnet.parameters),
            lambda: count_resnet_flops(images),
            lambda card: count_resnet_traffic(card, images),
        ),
        Step(
            *(f"Llama 2 7B, {length} tokens a chip", 256, 4 * transformer.parameters / 256),
            lambda: count_llama_flops(length),
            lambda card: count_llama_traffic(card, length),
        ),
    )
