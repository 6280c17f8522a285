"""What GC costs beside a whole training step on a card, by a roofline.

A roofline is a bound, not a measurement. Forward and backward are compiled for the card, and the
compiler counts their FLOPs and the bytes that they move. The step takes at least as long as the
larger of FLOPs ÷ matrix rate and bytes ÷ bandwidth. GC takes at most as long as one more read of the
gradients at full bandwidth. A real step takes longer than its bound, so that GC's real share is
smaller, unless the latency of collectives and of kernel launches counts: neither is in a roofline.

    python -m examples.benchmarks.compiled.roofline --help
"""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tyro
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from rich import box
from rich.console import Console
from rich.table import Table

from examples import models
from examples.benchmarks.compiled import layouts, llama, targets

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Config:
    """Bound the share of GC in a training step: ResNet-50 on a chip, Llama 2 7B on 256.

    Takes about ten minutes on two cores.
    """

    cards: tuple[str, ...] = ("v5e", "v5p", "v6e")
    """Of v5e, v5p, v6e. The compiler for h100 counts no FLOPs without a card."""
    images: int = 128
    """Images of 224x224 in a step of ResNet-50, in bfloat16."""
    length: int = 4096
    """Tokens in the one sequence that each of 256 chips has, in bfloat16."""
    out: Path = Path("roofline.jsonl")
    """JSON lines; replaced if there."""

    def __post_init__(self):
        for name in self.cards:
            if targets.find_card(name).platform != "tpu":
                raise ValueError(
                    f"--cards {name}: its compiler counts no FLOPs; take v5e, v5p or v6e"
                )
        for flag in ("images", "length"):
            if getattr(self, flag) < 2:
                raise ValueError(f"--{flag} {getattr(self, flag)}: at least 2 is needed")


def count(function: Callable, *args: Any, **options: Any) -> tuple[float, float]:
    """Returns the FLOPs and the bytes moved of a compiled function on one chip."""
    cost = jax.jit(function, **options).lower(*args).compile().cost_analysis()
    if cost is None:
        raise RuntimeError("this compiler counts neither FLOPs nor bytes")
    return cost["flops"], cost["bytes accessed"]


def count_resnet(card: targets.Card, images: int) -> tuple[float, float, int]:
    """FLOPs and bytes of forward and backward of ResNet-50 on one chip, and bytes of its gradients."""
    model = nnx.eval_shape(
        lambda: models.create("resnet50", num_classes=1000, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    )
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, rest, images, labels):
        model = nnx.merge(graph, params, rest, copy=True)
        scores = model(images).astype(jnp.float32)
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
        return losses.mean(), nnx.state(model, nnx.Not(nnx.Param))

    devices = targets.describe_devices(card, 1)
    whole = NamedSharding(jax.sharding.Mesh(devices, ("data",)), P())
    inputs = (
        jax.ShapeDtypeStruct((images, 224, 224, 3), jnp.bfloat16),
        jax.ShapeDtypeStruct((images,), jnp.int32),
    )
    args = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
        (params, rest, *inputs),
    )
    flops, moved = count(jax.grad(loss, has_aux=True), *args)
    return flops, moved, 4 * sum(leaf.size for leaf in jax.tree.leaves(params))


def count_llama(card: targets.Card, length: int) -> tuple[float, float, int]:
    """The same for Llama 2 7B, fully sharded over 256 chips, with one sequence on each.

    Compilers count a loop's body once. So one and two layers are compiled, written out, and the other
    layers are as many times the difference.
    """
    chips, name = 256, "llama_7g"
    devices = targets.describe_devices(card, chips)
    found = []
    for layers in (1, 2):
        tree = llama.create(name, layers)
        grid, specs = layouts.split(tree, "fsdp", chips)
        params = layouts.shard(tree, grid, specs, devices)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, params)
        by_sequence = NamedSharding(jax.tree.leaves(shardings)[0].mesh, P("fsdp"))
        tokens = jax.ShapeDtypeStruct((chips, length), jnp.int32, sharding=by_sequence)
        gradient = jax.grad(lambda params, tokens: llama.compute_loss(params, tokens, unroll=True))
        found.append(count(gradient, params, tokens, out_shardings=shardings))
    (flops, moved), (two_flops, two_moved) = found
    more = llama.SIZES[name].layers - 1
    tree = llama.create(name)
    grid, specs = layouts.split(tree, "fsdp", chips)
    gradients = layouts.count_bytes_per_chip(tree, grid, specs)
    return flops + more * (two_flops - flops), moved + more * (two_moved - moved), gradients


def bound(card: targets.Card, flops: float, moved: float, gradients: int) -> Record:
    """The step's least seconds, and those of one more read of the gradients, by the card's rates."""
    step = max(flops / card.flops_per_second, moved / card.bytes_per_second)
    extra = gradients / card.bytes_per_second
    return {
        "flops": flops,
        "bytes": moved,
        "gradient_bytes": gradients,
        "compute_milliseconds": 1e3 * flops / card.flops_per_second,
        "memory_milliseconds": 1e3 * moved / card.bytes_per_second,
        "gc_milliseconds": 1e3 * extra,
        "share": extra / step,
    }


def make_table(records: list[Record]) -> Table:
    table = Table(
        *("card", "step", "chips", "FLOPs ÷ rate, ms", "bytes ÷ bandwidth, ms"),
        *("one read of the gradients, ms", "share of the step"),
        title="GC beside a training step, by a roofline (a bound, not a measurement)",
        box=box.MARKDOWN,
    )
    for row in records:
        table.add_row(
            row["card"],
            row["step"],
            str(row["chips"]),
            f"{row['compute_milliseconds']:.3g}",
            f"{row['memory_milliseconds']:.3g}",
            f"{row['gc_milliseconds']:.3g}",
            f"{100 * row['share']:.3f} %",
        )
    return table


def main(config: Config) -> None:
    console = Console(width=160)
    for name in config.cards:
        if missing := targets.find_missing(targets.CARDS[name]):
            sys.exit(missing)
    records = []
    with config.out.open("w") as file:
        for name in config.cards:
            card = targets.find_card(name)
            resnet = (f"ResNet-50, {config.images} images", 1, count_resnet, config.images)
            network = (
                f"Llama 2 7B, {config.length} tokens a chip",
                256,
                count_llama,
                config.length,
            )
            for step, chips, function, size in (resnet, network):
                console.print(f"compiling {step} for {name}", highlight=False)
                record = {"kind": "roofline", "card": name, "step": step, "chips": chips}
                record |= bound(card, *function(card, size))
                records.append(record)
                file.write(json.dumps(record) + "\n")
                file.flush()
    console.print(make_table(records))


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, prog="python -m examples.benchmarks.compiled.roofline"))
    except ValueError as error:
        sys.exit(str(error))
