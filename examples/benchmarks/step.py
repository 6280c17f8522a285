"""A whole training step: the forward pass, backward pass and update of a net on 32x32 images."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from examples import models
from examples.benchmarks import measure

NET = "resnet20"


class State(NamedTuple):
    """The state that a step changes: parameters, statistics of batch normalization, and optimizer state."""

    params: Any
    rest: Any
    optimizer: Any


def compile_steps(
    arms: dict[str, optax.GradientTransformation], base: optax.GradientTransformation, batch: int
) -> dict[str, measure.Program]:
    """Compiles the step of each arm for shapes."""
    model = nnx.eval_shape(_make_model)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    images = jax.ShapeDtypeStruct((batch, 32, 32, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)

    def loss(params, rest, images, labels):
        model = nnx.merge(graph, params, rest, copy=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(model(images), labels)
        return losses.mean(), nnx.state(model, nnx.Not(nnx.Param))

    programs = {}
    for name, gc in arms.items():
        tx = optax.chain(gc, base)

        def step(state, images, labels, tx=tx):
            grads, rest = jax.grad(loss, has_aux=True)(state.params, state.rest, images, labels)
            updates, optimizer = tx.update(grads, state.optimizer, state.params)
            return State(optax.apply_updates(state.params, updates), rest, optimizer)

        state = State(params, rest, jax.eval_shape(tx.init, params))
        programs[name] = measure.compile_program(step, state, images, labels)
    return programs


def time_steps(
    programs: dict[str, measure.Program],
    base: optax.GradientTransformation,
    batch: int,
    rounds: int,
) -> dict[str, np.ndarray]:
    """Returns the seconds of a step by arm and round. "control" is a second arm without GC."""
    _, params, rest = nnx.split(_make_model(), nnx.Param, ...)
    state = State(params, rest, optax.chain(optax.identity(), base).init(params))
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal((batch, 32, 32, 3), np.float32))
    labels = jnp.asarray(rng.integers(10, size=batch, dtype=np.int32))

    def sample(program):
        def run():
            nonlocal state
            state = jax.block_until_ready(program.compiled(state, images, labels))

        return run

    samples = {name: sample(program) for name, program in programs.items()}
    for run in samples.values():
        run()
    return measure.interleave(samples | {"control": samples["none"]}, rounds)


def _make_model() -> nnx.Module:
    return models.create(NET, num_classes=10, stem="cifar", rngs=nnx.Rngs(0))
