"""The compiled steps of a net, and what makes the state that they change."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from flax import nnx
from jax.sharding import Mesh

from examples.training import optimizers, sharding, steps
from examples.training.gc_metrics import measure_gc
from examples.training.memory import require_memory
from examples.training.optimizers import OptimizerSpec
from optax_gc import nnx_kernel_axes


class Steps(NamedTuple):
    """The compiled steps of a net, and the net and optimizer that they are made for.

    Attributes:
      make_model: from a seed to the net.
      make_tx: from rates and decay, by keyword, to the optimizer, whose state holds them.
      graph: the structure of the net in training mode, for `nnx.merge`.
      train_step, eval_step: as `training.steps` makes them.
      state: the shapes of the state, with its shardings.
      shardings: the shardings of the state.
    """

    make_model: Callable[..., Any]
    make_tx: Callable[..., optax.GradientTransformation]
    graph: Any
    train_step: Any
    eval_step: Any
    state: Any
    shardings: Any


def compile_net(
    make_model: Callable[..., nnx.Module],
    spec: OptimizerSpec,
    mesh: Mesh,
    *,
    loss: steps.Loss,
    evaluate: steps.Evaluate,
    diagnose: bool,
    flag: str = "",
) -> Steps:
    """Builds the optimizer and the steps of a net. The first step compiles them.

    Args:
      make_model: from a seed to the net.
      spec: what the compiled update depends on.
      mesh: the devices.
      loss: what is minimized.
      evaluate: what an evaluation step computes.
      diagnose: report what centralization takes from the gradients.
      flag: the flag that makes the net large, with its value and a colon, for the message.

    Raises:
      SettingError: the state does not fit into the memory.
    """
    model = nnx.eval_shape(lambda: make_model(0))
    make_tx = functools.partial(optimizers.make_tx, spec, model)
    head_rate = None if spec.head is None else 1.0
    tx = make_tx(learning_rate=1.0, head_learning_rate=head_rate, weight_decay=0.0)
    abstract = jax.eval_shape(lambda: steps.init_state(make_model(0), tx, jax.random.key(0)))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract))
    require_memory(size, f"{flag}the weights and the state of the optimizer")
    shardings = sharding.state_shardings(abstract, mesh)
    measure = functools.partial(measure_gc, axes=nnx_kernel_axes(model)) if diagnose else None
    return Steps(
        make_model=make_model,
        make_tx=make_tx,
        graph=nnx.graphdef(model),
        train_step=steps.make_train_step(model, loss, tx, measure=measure, shardings=shardings),
        eval_step=steps.make_eval_step(model, evaluate, mesh=mesh),
        state=jax.tree.map(
            lambda leaf, own: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=own),
            abstract,
            shardings,
        ),
        shardings=shardings,
    )
