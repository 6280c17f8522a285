"""A whole training step: the forward pass, backward pass and update of a net."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from examples import models
from examples.benchmarks import measure, vit
from optax_gc import centralize, nnx_kernel_axes


class Net(NamedTuple):
    """A net that takes square images of a size and returns logits."""

    make: Callable[[nnx.Rngs], nnx.Module]
    size: int
    classes: int


# ResNet-20 is small enough for a CPU. The others compute in bfloat16, as on an accelerator.
NETS = {
    "resnet20": Net(
        lambda rngs: models.create("resnet20", num_classes=10, stem="cifar", rngs=rngs), 32, 10
    ),
    "resnet50": Net(
        lambda rngs: models.create("resnet50", num_classes=1000, dtype=jnp.bfloat16, rngs=rngs),
        *(224, 1000),
    ),
    "vit_b16": Net(lambda rngs: vit.ViT(dtype=jnp.bfloat16, rngs=rngs), 224, 1000),
}


class State(NamedTuple):
    """The state that a step changes: parameters, statistics of batch normalization, and optimizer state."""

    params: Any
    rest: Any
    optimizer: Any


def compile_steps(
    net: Net, base: optax.GradientTransformation, batch: int
) -> dict[str, measure.Program]:
    """Compiles the step without GC ("none") and with it ("ours") for shapes."""
    model = nnx.eval_shape(lambda: net.make(nnx.Rngs(0)))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    images = jax.ShapeDtypeStruct((batch, net.size, net.size, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)

    def loss(params, rest, images, labels):
        model = nnx.merge(graph, params, rest, copy=True)
        logits = model(images).astype(jnp.float32)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), nnx.state(model, nnx.Not(nnx.Param))

    programs = {}
    for name, gc in {
        "none": optax.identity(),
        "ours": centralize(nnx_kernel_axes(model)),
    }.items():
        tx = optax.chain(gc, base)

        def step(state, images, labels, tx=tx):
            grads, rest = jax.grad(loss, has_aux=True)(state.params, state.rest, images, labels)
            updates, optimizer = tx.update(grads, state.optimizer, state.params)
            return State(optax.apply_updates(state.params, updates), rest, optimizer)

        state = State(params, rest, jax.eval_shape(tx.init, params))
        programs[name] = measure.compile_program(step, state, images, labels)
    return programs


def create_state(net: Net, base: optax.GradientTransformation) -> State:
    """Initializes a net and its optimizer, whose state is the same with and without GC."""
    create = jax.jit(lambda: nnx.split(net.make(nnx.Rngs(0)), nnx.Param, ...)[1:])
    params, rest = create()
    return State(params, rest, optax.chain(optax.identity(), base).init(params))


def create_batch(net: Net, batch: int) -> tuple[jax.Array, jax.Array]:
    """Draws images and labels. Time does not depend on what they show."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal((batch, net.size, net.size, 3), np.float32))
    return images, jnp.asarray(rng.integers(net.classes, size=batch, dtype=np.int32))


def time_steps(
    programs: dict[str, measure.Program],
    state: State,
    net: Net,
    batch: int,
    rounds: int,
) -> dict[str, np.ndarray]:
    """Returns the seconds of a step by arm and round. "control" is a second arm without GC.

    The arms take turns at training one net, whose first state is given.
    """
    images, labels = create_batch(net, batch)

    def sample(program):
        def run():
            nonlocal state
            state = jax.block_until_ready(program.compiled(state, images, labels))

        return run

    samples = {name: sample(program) for name, program in programs.items()}
    for run in samples.values():
        run()
    return measure.interleave(samples | {"control": samples["none"]}, rounds)
