"""How much of a whole training step GC can take on a card, at most, by a roofline.

A roofline is a bound, not a measurement. XLA counts the FLOPs of forward and backward. A step takes at
least FLOPs ÷ matrix rate, and longer where memory is the limit. GC takes one more read of the gradients,
bytes ÷ bandwidth, and less where a TPU has them in its fast memory already. The quotient is the largest
share that GC can have. The latency of collectives and of kernel launches is not in it.

    python -m examples.benchmarks.compiled.roofline --help
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tyro
from flax import nnx
from rich import box
from rich.console import Console
from rich.table import Table

from examples import models
from examples.benchmarks.compiled import llama, targets

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Config:
    """Bound the share of GC in a training step: ResNet-50 on one chip, Llama 2 7B on 256.

    Nothing is compiled or run; it takes half a minute.
    """

    images: int = 128
    """Images of 224x224 in a step of ResNet-50 on one chip."""
    length: int = 4096
    """Tokens in the one sequence that each of 256 chips has."""
    out: Path = Path("roofline.jsonl")
    """JSON lines; replaced if there."""

    def __post_init__(self):
        for flag in ("images", "length"):
            if getattr(self, flag) < 2:
                raise ValueError(f"--{flag} {getattr(self, flag)}: at least 2 is needed")


def count_flops(function: Callable, *args: Any) -> float:
    """Returns the FLOPs of a function, as XLA counts them before it optimizes."""
    cost = jax.jit(function).lower(*args).cost_analysis()
    if cost is None:
        raise RuntimeError("this version of JAX counts no FLOPs")
    return cost["flops"]


def count_resnet(images: int) -> tuple[float, float]:
    """FLOPs of forward and backward of ResNet-50 in bfloat16, and the bytes of its gradients."""
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
    flops = count_flops(jax.grad(loss, has_aux=True), params, rest, *inputs)
    return flops, 4 * sum(leaf.size for leaf in jax.tree.leaves(params))


def count_llama(length: int) -> tuple[float, float]:
    """The same for a chip of 256 that share Llama 2 7B, with one sequence on each.

    XLA counts a loop's body once. So one and two layers are written out and counted, and the other
    layers are as many times the difference. Layers are computed again on the way back.
    """
    name, chips = "llama_7g", 256
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    gradient = jax.grad(lambda params, tokens: llama.compute_loss(params, tokens, unroll=True))
    one, two = (
        count_flops(gradient, llama.create(name, layers).params, tokens) for layers in (1, 2)
    )
    flops = one + (llama.SIZES[name].layers - 1) * (two - one)
    return flops, 4 * llama.create(name).parameters / chips


def bound(card: targets.Card, flops: float, gradient_bytes: float) -> Record:
    """The step's least time, that of one more read of the gradients, and their quotient."""
    step, extra = flops / card.flops_per_second, gradient_bytes / card.bytes_per_second
    return {
        "flops": flops,
        "gradient_bytes": gradient_bytes,
        "step_milliseconds": 1e3 * step,
        "gc_milliseconds": 1e3 * extra,
        "share": extra / step,
    }


def make_table(records: list[Record]) -> Table:
    table = Table(
        *("card", "step", "chips", "step at least, ms", "GC at most, ms", "share at most"),
        title="GC beside forward and backward, by a roofline (a bound, not a measurement)",
        box=box.MARKDOWN,
    )
    for row in records:
        table.add_row(
            row["card"],
            row["step"],
            str(row["chips"]),
            f"{row['step_milliseconds']:.3g}",
            f"{row['gc_milliseconds']:.3g}",
            f"{100 * row['share']:.2f} %",
        )
    return table


def main(config: Config) -> None:
    jax.config.update("jax_platforms", "cpu")
    steps = (
        (f"ResNet-50, {config.images} images", 1, count_resnet(config.images)),
        (f"Llama 2 7B, {config.length} tokens a chip", 256, count_llama(config.length)),
    )
    records = [
        {"kind": "roofline", "card": card.name, "step": step, "chips": chips}
        | bound(card, *counted)
        for step, chips, counted in steps
        for card in targets.CARDS.values()
    ]
    config.out.write_text("".join(json.dumps(record) + "\n" for record in records))
    Console(width=120).print(make_table(records))


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.benchmarks.compiled.roofline"))
