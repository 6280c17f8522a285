"""What Gradient Centralization does to a small network on real images, in a minute or two.

A ResNet-8 learns 300 of MNIST's digits by SGD with momentum, three times from the same start with
the same batches: without GC, with it, and with optax.centralize, which takes its means over other
axes. A table compares the three over several seeds; a picture shows them epoch by epoch.

    python -m examples.quickstart --help
"""

import dataclasses
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from scipy import stats

from examples import models
from examples.datasets import small
from optax_gc import centralize, diagnostics

# What stands between weight decay and SGD in each arm.
ARMS = {
    "without GC": optax.identity(),
    "with GC": centralize(),
    "optax.centralize": optax.centralize(),
}
BATCH = 50
POOL = 3000  # training images are drawn from these; the other 2000 are the test set


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a small ResNet on MNIST digits without GC, with GC and with GC over the wrong axes.

    All arms share their weights at the start, their images and their batches. Prints a table of
    test accuracy, training loss and what GC does to gradients and weights; saves a picture.
    """

    seeds: int = 10
    """Repetitions. Each seed draws its own weights, training images and batches."""
    epochs: int = 25
    """Passes over the training images, in batches of 50."""
    learning_rate: float = 0.1
    """SGD's rate at the start, falling to 0 along a cosine. Not tuned for any arm."""
    norm: Literal["gn", "bn"] = "gn"
    """Group or batch normalization."""
    train_images: int = 300
    """Images to train on, 50 to 3000. Another 2000 are the test set."""
    out: Path = Path("quickstart.png")
    """The picture's file: .png, .pdf or .svg."""

    def __post_init__(self):
        if self.seeds < 2:
            raise ValueError(f"--seeds {self.seeds}: an interval needs at least 2 seeds")
        if self.epochs < 1:
            raise ValueError(f"--epochs {self.epochs}: at least 1 is needed")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"--learning-rate {self.learning_rate}: a positive number is needed")
        if not BATCH <= self.train_images <= POOL:
            raise ValueError(f"--train-images {self.train_images}: give {BATCH} to {POOL}")
        if self.out.suffix not in (".png", ".pdf", ".svg"):
            raise ValueError(f"--out {self.out}: the name must end in .png, .pdf or .svg")
        if self.out.is_dir() or not os.access(self.out.absolute().parent, os.W_OK):
            raise ValueError(f"--out {self.out}: no file can be written there")


class Arm(NamedTuple):
    """One arm's optimizer and its compiled functions, which all seeds share."""

    init: Callable
    step: Callable
    observe: Callable


# Of each arm, by name: arrays of (seeds, epochs), NaN where nothing was measured.
Measured = dict[str, defaultdict[str, np.ndarray]]


class State(NamedTuple):
    """What a step changes: parameters, statistics of batch normalization, momentum."""

    params: Any
    rest: Any
    optimizer: Any


def load_digits() -> list[tuple[np.ndarray, np.ndarray]]:
    """MNIST-5k pooled to 14 by 14: the images and labels to draw from, and those of the test."""
    sets = [small.mnist5k(split, None)[0] for split in ("train", "test")]
    pooled = [each.images.reshape(-1, 14, 2, 14, 2, 1).mean((2, 4)) for each in sets]
    mean, std = pooled[0].mean(), pooled[0].std()
    return [
        (((images - mean) / std).astype(np.float32), each.labels)
        for images, each in zip(pooled, sets, strict=True)
    ]


def make_model(norm: Literal["gn", "bn"], seed: int) -> nnx.Module:
    return models.create(
        "resnet8",
        num_classes=10,
        stem="cifar",
        norm=norm,
        width=8,
        in_channels=1,
        rngs=nnx.Rngs(seed),
    )


def make_loss(graph: nnx.GraphDef) -> Callable:
    """Cross entropy of a batch, and the statistics that batch normalization has now."""

    def loss(params, rest, images, labels):
        model = nnx.merge(graph, params, rest, copy=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(model(images), labels)
        return losses.mean(), nnx.state(model, nnx.Not(nnx.Param))

    return loss


def make_arm(gc: optax.GradientTransformation, rate: optax.Schedule, loss: Callable) -> Arm:
    # The paper's order: decay is centralized with the gradient, P(g + λw).
    tx = optax.chain(optax.add_decayed_weights(5e-4), gc, optax.sgd(rate, momentum=0.9))

    def step(state, images, labels):
        value_and_grad = jax.value_and_grad(loss, has_aux=True)
        (value, rest), grads = value_and_grad(state.params, state.rest, images, labels)
        updates, optimizer = tx.update(grads, state.optimizer, state.params)
        return State(optax.apply_updates(state.params, updates), rest, optimizer), value

    def observe(params, start, grads):
        centralized, _ = gc.update(grads, gc.init(params))
        drift = diagnostics.constraint_drift(params, start).values()
        energy = [optax.tree.norm(tree, squared=True) for tree in (grads, centralized)]
        return {
            "drift": jnp.stack([kernel.max() for kernel in drift]).max(),
            "removed": 1 - energy[1] / energy[0],
        }

    return Arm(tx.init, jax.jit(step, donate_argnums=0), jax.jit(observe))


def train(config: Config, console: Console) -> Measured:
    pool, test = load_digits()
    model = make_model(config.norm, 0)
    model.eval()
    eval_graph = nnx.graphdef(model)
    model.train()
    loss = make_loss(nnx.graphdef(model))
    gradient = jax.jit(jax.grad(loss, has_aux=True))
    steps = config.train_images // BATCH
    rate = optax.cosine_decay_schedule(config.learning_rate, config.epochs * steps)
    arms = {name: make_arm(gc, rate, loss) for name, gc in ARMS.items()}

    @jax.jit
    def accuracy(state, images, labels):
        logits = nnx.merge(eval_graph, state.params, state.rest, copy=True)(images)
        return 100 * (logits.argmax(-1) == labels).mean()

    def start(arm, seed):
        _, params, rest = nnx.split(make_model(config.norm, seed), nnx.Param, ...)
        return State(params, rest, arm.init(params))

    shape = (config.seeds, config.epochs)
    measured = {name: defaultdict(lambda: np.full(shape, np.nan)) for name in arms}
    shown = dict.fromkeys(arms, 10.0)
    evaluate_every = max(1, config.epochs // 6)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("compiling", total=config.seeds * config.epochs * len(arms))
        for arm in arms.values():  # so that no timed step compiles
            state = start(arm, 0)
            arm.step(state, *(array[:BATCH] for array in pool))
        for seed in range(config.seeds):
            rng = np.random.default_rng(seed)
            drawn = rng.permutation(POOL)[: config.train_images]
            states = {name: start(arm, seed) for name, arm in arms.items()}
            initial = jax.tree.map(jnp.copy, next(iter(states.values())).params)
            for epoch in range(config.epochs):
                order = rng.permutation(drawn)[: steps * BATCH].reshape(steps, BATCH)
                batches = [tuple(array[batch] for array in pool) for batch in order]
                # The arms take turns, so that their times are those of one moment.
                for name in np.roll(list(arms), epoch):
                    arm, losses, begin = arms[name], [], time.perf_counter()
                    for batch in batches:
                        states[name], value = arm.step(states[name], *batch)
                        losses.append(value)
                    state = jax.block_until_ready(states[name])
                    seen = {"seconds": (time.perf_counter() - begin) / steps}
                    grads, _ = gradient(state.params, state.rest, *batches[0])
                    seen |= arm.observe(state.params, initial, grads)
                    seen["loss"] = np.mean(losses)
                    if not np.isfinite(seen["loss"]):
                        raise FloatingPointError(
                            f"{name}: seed {seed}, epoch {epoch + 1}: the loss is {seen['loss']}; "
                            "try a lower --learning-rate"
                        )
                    if (config.epochs - 1 - epoch) % evaluate_every == 0:
                        shown[name] = seen["accuracy"] = accuracy(state, *test)
                    for key, value in seen.items():
                        measured[name][key][seed, epoch] = value
                    progress.advance(bar)
                now = ", ".join(f"{shown[name]:.1f} %" for name in arms)
                progress.update(bar, description=f"seed {seed + 1} of {config.seeds}: {now}")
    return measured


def paired_difference(arm, base) -> np.ndarray:
    """Points of final test accuracy over `base`, seed by seed."""
    return arm["accuracy"][:, -1] - base["accuracy"][:, -1]


def interval(sample: np.ndarray) -> float:
    """Half the 95 % interval of the mean, by Student's t."""
    return stats.t.ppf(0.975, len(sample) - 1) * sample.std(ddof=1) / np.sqrt(len(sample))


def make_table(measured: Measured) -> Table:
    base = next(iter(measured.values()))
    rows = defaultdict(list)
    for arm in measured.values():
        accuracy, difference = arm["accuracy"][:, -1], paired_difference(arm, base)
        ratio = np.percentile(arm["seconds"] / base["seconds"], (50, 25, 75))
        drift = arm["drift"][:, -1].mean()
        rows["test accuracy, %"].append(f"{accuracy.mean():.2f} ± {accuracy.std(ddof=1):.2f}")
        rows["  difference"].append(f"{difference.mean():+.2f} ± {interval(difference):.2f}")
        rows["  seeds better"].append(f"{(difference > 0).sum()} of {len(difference)}")
        rows["training loss"].append(f"{arm['loss'][:, -1].mean():.4f}")
        rows["drift |eᵀ(w - w⁰)|"].append(f"{drift:.0e}" if drift < 1e-3 else f"{drift:.3f}")
        rows["energy removed, %"].append(f"{100 * arm['removed'].mean():.1f}")
        rows["step time, ratio"].append("{:.2f} ({:.2f}, {:.2f})".format(*ratio))
    table = Table("", *measured, box=box.SIMPLE_HEAD, caption_justify="left")
    for label, cells in rows.items():
        if label in ("  difference", "  seeds better", "step time, ratio"):
            cells[0] = "-"  # the arm that the others are compared with
        table.add_row(label, *cells)
    table.caption = (
        f"{len(base['loss'])} seeds. Accuracy ± its std over seeds; difference to the first arm, paired by "
        "seed, ± its 95 % interval; step time beside the first arm's in the same epoch: median (quartiles). "
        "Drift: of the weight vector that moved most. Energy: share of the squared gradient norm."
    )
    return table


def conclude(measured: Measured) -> str:
    base, gc, _ = measured.values()
    difference = paired_difference(gc, base)
    if abs(difference.mean()) <= interval(difference):
        return "These seeds cannot tell with GC from without: the interval holds 0."
    return f"Here GC {'helped' if difference.mean() > 0 else 'hurt'}: the interval excludes 0."


def make_picture(measured: Measured, steps_an_epoch: int) -> Figure:
    """Loss, accuracy and drift by step: the mean over seeds, and one standard deviation around it."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    titles = {
        "loss": "training loss",
        "accuracy": "test accuracy, %",
        "drift": "drift, max |eᵀ(w - w⁰)|",
    }
    for axes, (key, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        for (name, arm), color in zip(
            measured.items(), ("#555555", "#0072b2", "#d55e00"), strict=True
        ):
            seen = ~np.isnan(arm[key][0])
            step = (np.flatnonzero(seen) + 1) * steps_an_epoch
            mean, std = arm[key][:, seen].mean(0), arm[key][:, seen].std(0, ddof=1)
            axes.plot(step, mean, color=color, label=name)
            # On a logarithmic axis the band ends where its lower edge would be 0 or less.
            axes.fill_between(
                step, np.maximum(mean - std, mean / 10), mean + std, color=color, alpha=0.2
            )
        axes.set(title=title, xlabel="step", yscale="linear" if key == "accuracy" else "log")
    figure.axes[0].legend()
    return figure


def main(config: Config) -> None:
    console = Console()
    begin = time.perf_counter()
    measured = train(config, console)
    console.print(make_table(measured))
    console.print(conclude(measured))
    make_picture(measured, config.train_images // BATCH).savefig(config.out, dpi=150)
    console.print(f"{time.perf_counter() - begin:.0f} s; picture: {config.out}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, prog="python -m examples.quickstart"))
    except FloatingPointError as error:
        sys.exit(f"stopped: {error}")
