"""One training step and one evaluation step, as pure functions built from a loss."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import nnx

Metrics = dict[str, jax.Array]


class State(NamedTuple):
    """All that a training step changes, and so all that a checkpoint of the net must hold.

    Attributes:
      params: the trained parameters.
      rest: the net's other variables: running statistics, keys of dropout.
      opt_state: the optimizer's state, the count of its steps included.
      key: where the next steps' random keys come from.
    """

    params: Any
    rest: Any
    opt_state: optax.OptState
    key: jax.Array


def path_name(path: tuple[Any, ...]) -> str:
    """Writes the path of a variable as "fc/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")


class Loss(Protocol):
    """What a step descends: of a classifier, of a detector, of any net."""

    def __call__(
        self, model: Any, batch: Mapping[str, jax.Array], key: jax.Array, /
    ) -> tuple[jax.Array, Metrics]:
        """Gives the scalar to descend and other scalars to report.

        Args:
          model: the net in training mode. Variables that it updates are kept.
          batch: a batch of data.
          key: this step's own.
        """
        ...


class Evaluate(Protocol):
    """What an evaluation step makes of a batch: sums for a classifier, boxes for a detector."""

    def __call__(self, model: Any, batch: Mapping[str, jax.Array], /) -> Any:
        """Gives any tree of arrays for a net in evaluation mode and a batch."""
        ...


def init_state(model: nnx.Module, tx: optax.GradientTransformation, key: jax.Array) -> State:
    """Takes a model apart into the state in front of the first step."""
    _, params, rest = nnx.split(model, nnx.Param, ...)
    return State(params, rest, tx.init(params), key)


def make_train_step(
    model: nnx.Module,
    loss: Loss,
    tx: optax.GradientTransformation,
    *,
    measure: Callable[[Any], Metrics] | None = None,
    shardings: Any = None,
) -> Callable[[State, Mapping[str, jax.Array]], tuple[State, Metrics]]:
    """Makes the compiled step (state, batch) -> (state, metrics); it consumes its state.

    The step holds no array: one serves every seed and every copy of the model.

    Args:
      model: the net; its structure alone is used.
      loss: what to descend. Its metrics are reported with the loss itself as "loss".
      tx: the optimizer.
      measure: scalars to report of the gradients, before the optimizer sees them.
      shardings: of the state, as `mesh.state_shardings` gives them; None leaves them to XLA.
    """
    model.train()
    graph = nnx.graphdef(model)

    def step(state, batch):
        key, now = jax.random.split(state.key)

        def objective(params):
            net = nnx.merge(graph, params, state.rest, copy=True)
            value, metrics = loss(net, batch, now)
            return value, (metrics, nnx.state(net, nnx.Not(nnx.Param)))

        (value, (metrics, rest)), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": value, **metrics, **(measure(grads) if measure else {})}
        return State(params, rest, opt_state, key), metrics

    if shardings is None:
        return jax.jit(step, donate_argnums=0)
    # Metrics whole on every device: each process reads them.
    whole = jax.NamedSharding(jax.tree.leaves(shardings)[0].mesh, jax.P())
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, whole))


def make_eval_step(
    model: nnx.Module, evaluate: Evaluate, *, mesh: jax.sharding.Mesh | None = None
) -> Callable[[State, Mapping[str, jax.Array]], Any]:
    """Makes the compiled function (state, batch) -> what `evaluate` gives.

    Args:
      model: the net; its structure alone is used.
      evaluate: what to compute; by running statistics and without dropout.
      mesh: makes the result whole on each device of this mesh, so that every process reads it.
    """
    model.eval()
    graph = nnx.graphdef(model)
    model.train()

    def step(state, batch):
        return evaluate(nnx.merge(graph, state.params, state.rest, copy=True), batch)

    return jax.jit(step, out_shardings=mesh and jax.NamedSharding(mesh, jax.P()))


@jax.jit
def all_finite(state: Any) -> jax.Array:
    """Says whether every number of a state is finite."""
    numbers = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(x).all() for x in numbers]).all()
