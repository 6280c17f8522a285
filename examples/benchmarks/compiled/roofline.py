"""How much of a whole training step GC takes on a card, by a roofline.

A roofline is a bound by the published rates of a card, not a measurement. The forward and backward
pass take at least FLOPs ÷ matrix rate, and at least bytes ÷ bandwidth. XLA counts the FLOPs. The bytes
are those that the program reads and writes, as the card's compiler makes it. GC takes one more read of
the gradients, bytes ÷ bandwidth, and less where a TPU has them in its fast memory already. The latency
of collectives and of kernel launches is not in it.

    python -m examples.benchmarks.compiled.roofline --help
"""

import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from rich import box
from rich.console import Console
from rich.table import Table

from examples import models
from examples.benchmarks import trees
from examples.benchmarks.compiled import hlo, layouts, llama, report, targets
from examples.benchmarks.compiled.cards import CARDS, Card, find_card
from examples.benchmarks.trees import Tree

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Config:
    """Bound the share of GC in a training step: ResNet-50 on one chip, Llama 2 7B on 256.

    The compilers take several minutes for each card. A run that is stopped goes on where it was.
    """

    cards: tuple[str, ...] = tuple(CARDS)
    """The cards: any of v5e, v5p and v6e, which are TPUs, and h100."""
    images: int = 128
    """Images of 224x224 in a step of ResNet-50 on one chip."""
    length: int = 4096
    """Tokens in the one sequence that each of 256 chips has."""
    out: Path = Path("roofline.jsonl")
    """JSON lines. What is in it already is not compiled again."""

    def __post_init__(self):
        for name in self.cards:
            find_card(name)
        for flag in ("images", "length"):
            if getattr(self, flag) < 2:
                raise ValueError(f"--{flag} {getattr(self, flag)}: at least 2 is needed")
        if self.out.is_dir() or not os.access(self.out.absolute().parent, os.W_OK):
            raise ValueError(f"--out {self.out}: no file can be written there")


class Step(NamedTuple):
    """A forward and backward pass, the chips that share it, and the bytes of a chip's gradients."""

    name: str
    chips: int
    gradient_bytes: float
    count_flops: Callable[[], float]
    count_traffic: Callable[[Card], float]


def count_flops(function: Callable, *args: Any) -> float:
    """Returns the FLOPs of a function, as XLA counts them before it optimizes."""
    cost = jax.jit(function).lower(*args).cost_analysis()
    if cost is None:
        raise RuntimeError("this version of JAX counts no FLOPs")
    return cost["flops"]


def count_traffic(function: Callable, *args: Any, **options: Any) -> int:
    """Returns the bytes that a chip reads and writes, as the compiler of the arguments' devices does."""
    compiled = jax.jit(function, **options).lower(*args).compile()
    return hlo.count_traffic(hlo.parse(str(compiled.as_text())))


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


def count_resnet_traffic(card: Card, images: int) -> float:
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
    return count_layers(
        lambda tree: count_flops(gradient, llama.unstack(tree.params), tokens),
    )


def count_llama_traffic(card: Card, length: int) -> float:
    """Bytes that each of 256 chips reads and writes, which split all kernels (fsdp) and have a sequence each."""
    gradient, chips = jax.grad(llama.compute_loss), 256
    devices = targets.describe_devices(card, chips)

    def count(tree):
        params = llama.unstack(layouts.shard(tree, *layouts.split(tree, "fsdp", chips), devices))
        shardings = jax.tree.map(lambda leaf: leaf.sharding, params)
        rows = NamedSharding(jax.tree.leaves(shardings)[0].mesh, P("fsdp"))
        tokens = jax.ShapeDtypeStruct((chips, length), jnp.int32, sharding=rows)
        return count_traffic(gradient, params, tokens, out_shardings=shardings)

    return count_layers(count)


def count_layers(count: Callable[[Tree], float]) -> float:
    """Counts Llama 2 7B with one and with two layers. The others are as many times the difference."""
    one, two = (count(llama.create("llama_7g", layers)) for layers in (1, 2))
    return one + (llama.SIZES["llama_7g"].layers - 1) * (two - one)


def bound(card: Card, flops: float, traffic: float, gradient_bytes: float) -> Record:
    """The step's least time by FLOPs and by bytes, that of one more read, and the share of the read."""
    by_flops, by_bytes = flops / card.flops_per_second, traffic / card.bytes_per_second
    extra = gradient_bytes / card.bytes_per_second
    return {
        "flops": flops,
        "bytes": traffic,
        "gradient_bytes": gradient_bytes,
        "flops_milliseconds": 1e3 * by_flops,
        "bytes_milliseconds": 1e3 * by_bytes,
        "gc_milliseconds": 1e3 * extra,
        "share": extra / max(by_flops, by_bytes),
    }


def make_table(records: list[Record]) -> Table:
    table = Table(
        *("card", "step", "chips", "TFLOPs", "GB", "by FLOPs, ms", "by bytes, ms"),
        *("GC at most, ms", "share at most"),
        title="GC beside forward and backward, by a roofline (a bound, not a measurement)",
        box=box.MARKDOWN,
    )
    for row in records:
        table.add_row(
            row["card"],
            row["step"],
            str(row["chips"]),
            f"{row['flops'] / 1e12:.3g}",
            f"{row['bytes'] / 1e9:,.1f}",
            f"{row['flops_milliseconds']:.3g}",
            f"{row['bytes_milliseconds']:.3g}",
            f"{row['gc_milliseconds']:.3g}",
            f"{100 * row['share']:.2f} %",
        )
    return table


def main(config: Config) -> None:
    chosen = [find_card(name) for name in config.cards]
    for card in chosen:
        if missing := targets.find_missing(card):
            sys.exit(missing)
    jax.config.update("jax_platforms", "cpu")
    try:
        records = report.read_records(config.out)
    except ValueError as error:
        sys.exit(str(error))
    done = {(record["card"], record["step"]) for record in records}
    config.out.write_text("".join(json.dumps(record) + "\n" for record in records))
    console = Console(width=160)
    resnet, transformer = trees.create("resnet50"), llama.create("llama_7g")
    steps = (
        Step(
            *(f"ResNet-50, {config.images} images", 1, 4 * resnet.parameters),
            lambda: count_resnet_flops(config.images),
            lambda card: count_resnet_traffic(card, config.images),
        ),
        Step(
            *(f"Llama 2 7B, {config.length} tokens a chip", 256, 4 * transformer.parameters / 256),
            lambda: count_llama_flops(config.length),
            lambda card: count_llama_traffic(card, config.length),
        ),
    )
    with config.out.open("a") as file:
        for step, card in itertools.product(steps, chosen):
            if (card.name, step.name) in done:
                continue
            console.print(f"compiling for {card.name}: {step.name}", highlight=False)
            counts = (step.count_flops(), step.count_traffic(card), step.gradient_bytes)
            record = {"kind": "roofline", "card": card.name, "step": step.name}
            record |= {"chips": step.chips} | bound(card, *counts)
            records.append(record)
            file.write(json.dumps(record) + "\n")
            file.flush()
    console.print(make_table(records))


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.benchmarks.compiled.roofline"))
