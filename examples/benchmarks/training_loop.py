"""Compares the trainer's images a second with those of a plain loop written by hand.

    python -m examples.benchmarks.training_loop

Both have the same ResNet, optimizer, images and batch size. The plain loop keeps its images in one
array, shuffles them with NumPy, and only makes steps. It has no augmentation, log, checkpoint or
progress bar. The two take turns, so that both meet the same load of the machine.
"""

import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    from examples.classification.data import Data


@dataclasses.dataclass(frozen=True)
class Settings:
    """Times the trainer and a plain loop in turns."""

    model: str = "resnet20"
    images: int = 2560
    """The number of images of MNIST-5k, at most 3000. One turn is a pass over them."""
    batch_size: int = 128
    turns: int = 6


def plain_loop(settings: Settings, data: "Data"):
    """Returns a function that makes one pass over the images and returns the images a second."""
    # These take seconds, which the help of the program can do without. The same is true in `main`.
    import jax
    import numpy as np
    import optax
    from flax import nnx

    import optax_gc
    from examples import models

    net = models.create(
        settings.model, num_classes=10, stem="cifar", in_channels=1, rngs=nnx.Rngs(0)
    )
    graph, params, stats = nnx.split(net, nnx.Param, ...)
    tx = optax_gc.sgd(0.01, momentum=0.9, weight_decay=5e-4)

    @jax.jit(donate_argnums=(0, 1, 2))
    def step(params, stats, opt_state, images, labels):
        def loss(params):
            model = nnx.merge(graph, params, stats, copy=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(model(images), labels)
            return losses.mean(), nnx.state(model, nnx.Not(nnx.Param))

        (value, stats_), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), stats_, opt_state, value

    source = data.train.source
    images = np.stack([data.train_transform(source[i]["image"], None) for i in range(len(source))])
    labels = np.asarray(source.labels, np.int32)
    state = params, stats, tx.init(params)
    rng = np.random.default_rng(0)

    def one_pass():
        nonlocal state
        size = settings.batch_size
        order = rng.permutation(len(images))[: len(images) // size * size].reshape(-1, size)
        begin = 0.0
        for number, batch in enumerate(order):
            if number == 1:  # because the trainer does not time its first step either
                jax.block_until_ready(state)
                begin = time.perf_counter()
            *state, _ = step(*state, images[batch], labels[batch])
        jax.block_until_ready(state)
        return (len(order) - 1) * size / (time.perf_counter() - begin)

    return one_pass


def main(settings: Settings) -> None:
    import numpy as np
    from rich.console import Console

    from examples.classification.presets import PRESETS
    from examples.classification.task import Trainer
    from examples.training.loop import train
    from examples.training.sharding import make_mesh

    config = dataclasses.replace(
        PRESETS["mnist5k"][1],
        model=settings.model,
        norm="bn",
        width=None,
        pool=1,
        epochs=1,
        batch_size=settings.batch_size,
        train_images=settings.images,
        learning_rate=0.01,
        schedule="constant",
    )
    task = Trainer(make_mesh(1)).prepare(config)
    # The plain loop evaluates nothing, so the trainer does not either.
    job = task.job._replace(evaluate=lambda state: {})
    one_pass = plain_loop(settings, task.data)
    seen = {"trainer": [], "plain": [], "waiting_for_data": []}
    for turn in range(settings.turns + 1):
        with tempfile.TemporaryDirectory() as folder:
            rates = train(job, Path(folder), console=Console(quiet=True)).rates
        plain = one_pass()
        if turn:  # because the first turn compiles
            seen["trainer"].append(rates["images_per_second"])
            seen["waiting_for_data"].append(rates["waiting_for_data"])
            seen["plain"].append(plain)
    ratios = np.array(seen["trainer"]) / np.array(seen["plain"])
    medians = {name: round(float(np.median(values)), 3) for name, values in seen.items()}
    quartiles = [round(float(ratio), 4) for ratio in np.percentile(ratios, (25, 50, 75))]
    print(json.dumps({**medians, "ratio_quartiles": quartiles, "turns": settings.turns}))


if __name__ == "__main__":
    main(tyro.cli(Settings, prog="python -m examples.benchmarks.training_loop"))
