"""Trains a classifier from scratch or from pretrained weights, by one of the paper's runs or a small one.

    python -m examples.train_classifier --help
    python -m examples.train_classifier digits --gc off
    python -m examples.train_classifier table1-resnet18 --data-dir ~/data --gc conv

Stopped in whatever way and started again with the same command, a run goes on from its last
checkpoint and ends with the numbers that it would have had.
"""

import contextlib
import dataclasses
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import tyro
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console

from examples import datasets, models
from examples.datasets import pipeline, transforms
from examples.models import pretrained
from examples.runs import RUNS, Config
from examples.training import mesh as meshes
from examples.training import metrics, optimizers, step
from examples.training.checkpoints import CheckpointError, Checkpoints
from examples.training.interrupt import interruptible
from examples.training.provenance import provenance
from optax_gc import diagnostics

# Evaluation batches of less than this are made once and kept.
_KEEP_BYTES = 2**28


@dataclasses.dataclass(frozen=True)
class Options:
    """How and where a run is made; its numbers do not depend on it, up to rounding."""

    data_dir: Path | None = None
    """Where the data set lies. Digits and MNIST-5k need none, nor Debian's Fashion-MNIST."""
    out: Path | None = None
    """The run's folder; by default runs/RUN-GC-SEED."""
    workers: int = 0
    """Processes that read and augment images; 0 for a thread."""
    checkpoint_every: int | None = None
    """Steps between checkpoints, beside one at the end of each epoch."""
    log_every: int = 50
    """Steps between logged lines."""
    diagnose: bool = False
    """Log each kernel's gradient norm before and after GC, and the share that GC removes."""
    data_parallel: int | None = None
    """Devices that share a batch; by default all that --fsdp leaves."""
    fsdp: int = 1
    """Devices that share each kernel and its optimizer state."""
    distributed: bool = False
    """One of several processes; clusters that JAX knows need none of the next three flags."""
    coordinator: str | None = None
    """host:port of the first process."""
    processes: int | None = None
    process: int | None = None


class Data(NamedTuple):
    """What a run trains and is evaluated on, with a transform for each."""

    train: datasets.Dataset
    test: datasets.Dataset
    train_transform: transforms.Transform
    test_transform: transforms.Transform


class Task(NamedTuple):
    """What is compiled for a config; it serves all of the config's seeds."""

    config: Config
    mesh: Mesh
    steps_per_epoch: int
    learning_rate: optax.Schedule
    init: Callable[[int], step.State]
    train_step: Callable
    eval_step: Callable


class StoppedError(Exception):
    """A run that cannot or must not go on; the message says where it stands."""


def load_data(config: Config, data_dir: Path | None) -> Data:
    """Finds a config's images; errors are those of `datasets.load`."""
    load = functools.partial(
        datasets.load,
        config.dataset,
        data_dir=data_dir,
        validation=config.validation,
        classes=config.classes,
    )
    test = load("validation" if config.validation else "test")
    train = load("train", limit=config.train_images, seed=config.seed)
    recipe = transforms.recipe(config.dataset)
    if config.pool > 1:
        pool = functools.partial(transforms.mean_pool, factor=config.pool)
        recipe = tuple(transforms.compose(pool, transform) for transform in recipe)
    return Data(train, test, *recipe)


def make_loss(label_smoothing: float) -> step.Loss:
    """Makes the mean cross entropy of a batch, with the accuracy in %."""

    def loss(model, batch, key):
        del key
        logits = model(batch["image"]).astype(jnp.float32)
        labels = jax.nn.one_hot(batch["label"], logits.shape[-1])
        losses = optax.softmax_cross_entropy(logits, optax.smooth_labels(labels, label_smoothing))
        return losses.mean(), {"accuracy": 100 * (logits.argmax(-1) == batch["label"]).mean()}

    return loss


def count_correct(model: Any, batch: Any) -> dict[str, jax.Array]:
    """Sums cross entropy, accuracy in % and images over the images that the mask holds."""
    logits = model(batch["image"]).astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    correct = 100.0 * (logits.argmax(-1) == batch["label"])
    mask = batch["mask"]
    return {"loss": mask @ losses, "accuracy": mask @ correct, "images": mask.sum()}


def measure_gc(grads: Any) -> step.Metrics:
    """Measures what GC removes, or would, from each kernel's gradient and from all together."""
    stats = diagnostics.gradient_stats(grads)
    before, after = (
        sum(getattr(kernel, f"norm_{when}") ** 2 for kernel in stats.values())
        for when in ("before", "after")
    )
    measured = {
        f"gc/{path}/{name}": value
        for path, kernel in stats.items()
        for name, value in kernel._asdict().items()
    }
    return {**measured, "gc/share_removed": 1 - after / before}


def prepare(config: Config, data: Data, mesh: Mesh, *, diagnose: bool = False) -> Task:
    """Builds net, optimizer and steps for a config; compilation comes with the first step.

    Raises:
      ValueError: a batch that does not divide among the devices or is larger than the data set.
    """
    if config.batch_size % mesh.size:
        raise ValueError(
            f"--batch-size {config.batch_size} does not divide among {mesh.size} devices"
        )
    steps_per_epoch = len(data.train) // config.batch_size
    if not steps_per_epoch:
        raise ValueError(
            f"--batch-size {config.batch_size}: there are {len(data.train)} training images"
        )
    schedule = functools.partial(
        optimizers.make_schedule,
        config.schedule,
        steps=config.epochs * steps_per_epoch,
        milestones=[epoch * steps_per_epoch for epoch in config.milestones],
        warmup=config.warmup_epochs * steps_per_epoch,
    )

    def make_optimizer(rate):
        return optimizers.make_optimizer(
            config.optimizer,
            schedule(rate),
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            gc=optimizers.make_gc(config.gc),
        )

    tx = make_optimizer(config.learning_rate)
    if config.head_learning_rate is not None:
        tx = optimizers.with_head_rate(
            make_optimizer, config.learning_rate, config.head_learning_rate, "fc"
        )

    def make_model(seed):
        return models.create(
            config.model,
            num_classes=data.train.num_classes,
            stem=config.stem,
            norm=config.norm,
            weight_standardization=config.weight_standardization,
            width=config.width,
            in_channels=data.train.image_shape[2] if data.train.image_shape else 3,
            dtype=jnp.bfloat16 if config.dtype == "bfloat16" else None,
            rngs=nnx.Rngs(seed),
        )

    model = nnx.eval_shape(lambda: make_model(0))
    weights = pretrained.read_file(config.pretrained) if config.pretrained else None
    abstract = jax.eval_shape(lambda: step.init_state(make_model(0), tx, jax.random.key(0)))
    shardings = meshes.state_shardings(abstract, mesh)

    def init(seed):
        model = make_model(seed)
        if weights is not None:
            pretrained.load_torch_state(model, weights, replace_head=True)
        return jax.device_put(step.init_state(model, tx, jax.random.key(seed)), shardings)

    return Task(
        config,
        mesh,
        steps_per_epoch,
        schedule(config.learning_rate),
        init,
        step.make_train_step(
            model,
            make_loss(config.label_smoothing),
            tx,
            measure=measure_gc if diagnose else None,
            shardings=shardings,
        ),
        step.make_eval_step(model, count_correct, mesh=mesh),
    )


def open_folder(folder: Path, config: Config) -> None:
    """Makes a run's folder, or makes sure that it is this config's.

    Raises:
      StoppedError: it is another's, or cannot be written to.
    """
    now = json.loads(json.dumps(dataclasses.asdict(config)))
    path = folder / "config.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            if any(folder.iterdir()):
                raise StoppedError(f"{folder} holds files that are no run's: give another --out")
            part = folder / f"config.json.{os.getpid()}"
            part.write_text(json.dumps(now, indent=1))
            os.replace(part, path)
        old = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StoppedError(f"{folder}: no run can be kept here: {error}") from error
    changed = [
        f"{key} was {old.get(key)}, is {now.get(key)}"
        for key in sorted(old.keys() | now.keys())
        if old.get(key) != now.get(key)
    ]
    if changed:
        raise StoppedError(
            f"{folder} holds a run of another config: {'; '.join(changed)}. "
            "Give another --out, or the settings of before"
        )


def evaluate(task: Task, state: step.State, batches: Iterable[Any]) -> dict[str, float]:
    """Gives the mean loss and accuracy over all images of one pass."""
    totals, pending = {"loss": 0.0, "accuracy": 0.0, "images": 0.0}, None

    def add(sums):
        for key, value in jax.device_get(sums).items():
            totals[key] += float(value)

    for batch in batches:
        sums = task.eval_step(state, meshes.put_batch(batch, task.mesh))
        if pending is not None:
            add(pending)
        pending = sums
    add(pending)
    images = totals.pop("images")
    return {key: value / images for key, value in totals.items()}


def train(
    config: Config, task: Task, data: Data, options: Options, console: Console
) -> dict[str, Any]:
    """Makes the run in the folder `options.out`, or goes on with it.

    Args:
      config: that of `task`, or the same with another seed.
      task: what `prepare` gave.
      data: the config's own.
      options: `out` is not None.
      console: where progress is shown.

    Returns:
      The final metrics, as in the folder's result.json; metrics.jsonl has them all.

    Raises:
      StoppedError: another run's folder, a number that is not finite, or Ctrl-C.
      CheckpointError: a checkpoint cannot be written or read.
    """
    if config != dataclasses.replace(task.config, seed=config.seed):
        raise ValueError("this task was prepared for another config")
    folder = options.out
    if folder is None:
        raise ValueError("options.out names the run's folder: it cannot be None")
    open_folder(folder, config)
    reader = {
        "batch_size": config.batch_size,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }
    stream = pipeline.train_batches(
        data.train, data.train_transform, seed=config.seed, workers=options.workers, **reader
    )
    tests = pipeline.eval_batches(data.test, data.test_transform, workers=options.workers, **reader)
