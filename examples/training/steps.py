"""One training step and one evaluation step, as pure functions made from a loss."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import nnx

Metrics = dict[str, jax.Array]


class State(NamedTuple):
    """Everything that a training step changes, and so everything that a checkpoint must hold.

    Attributes:
      params: the trained parameters.
      rest: the other variables of the net: frozen parameters, running statistics, keys of dropout.
      opt_state: the state of the optimizer, which includes the number of its steps.
      key: the source of the random keys of the next steps.
    """

    params: Any
    rest: Any
    opt_state: optax.OptState
    key: jax.Array


def path_name(path: tuple[Any, ...]) -> str:
    """Returns the path of a variable in the form "fc/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")


class Loss(Protocol):
    """The loss of a net on a batch, for any kind of net."""

    def __call__(
        self, model: Any, batch: Mapping[str, jax.Array], key: jax.Array, /
    ) -> tuple[jax.Array, Metrics]:
        """Returns the scalar to minimize, and other scalars to report.

        Args:
          model: the net in training mode. Changes that it makes to its variables are kept.
          batch: a batch of data.
          key: a random key for this step only.
        """
        ...


class Evaluate(Protocol):
    """The computation of an evaluation step: sums for a classifier, boxes for a detector."""

    def __call__(self, model: Any, batch: Mapping[str, jax.Array], /) -> Any:
        """Returns any tree of arrays, from a net in evaluation mode and a batch."""
        ...


def init_state(
    model: nnx.Module,
    tx: optax.GradientTransformation,
    key: jax.Array,
    *,
    wrt: nnx.filterlib.Filter = nnx.Param,
) -> State:
    """Returns the state before the first step.

    Args:
      model: the net.
      tx: the optimizer.
      key: the source of all random keys of the run.
      wrt: the variables that are trained. All others are kept in `State.rest`: they have no
        gradient, no weight decay and no momentum.
    """
    _, params, rest = nnx.split(model, wrt, ...)
    return State(params, rest, tx.init(params), key)


def make_train_step(
    model: nnx.Module,
    loss: Loss,
    tx: optax.GradientTransformation,
    *,
    wrt: nnx.filterlib.Filter = nnx.Param,
    measure: Callable[[Any], Metrics] | None = None,
    shardings: Any = None,
) -> Callable[[State, Mapping[str, jax.Array]], tuple[State, Metrics]]:
    """Makes the compiled step (state, batch) -> (state, metrics). It donates its state.

    The step holds no array, so one step serves every seed and every copy of the model.

    Args:
      model: the net. Only its structure is used.
      loss: the loss to minimize. Its metrics are reported, and the loss itself as "loss".
      tx: the optimizer.
      wrt: the variables that are trained, as for `init_state`.
      measure: from the gradients, before the optimizer sees them, to scalars to report.
      shardings: the shardings of the state, as `sharding.state_shardings` returns them; None
        leaves them to XLA.
    """
    graph = _graph(model, training=True)

    def step(state, batch):
        key, now = jax.random.split(state.key)

        def objective(params):
            net = nnx.merge(graph, params, state.rest, copy=True)
            value, metrics = loss(net, batch, now)
            return value, (metrics, nnx.state(net, nnx.Not(wrt)))

        (value, (metrics, rest)), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": value, **metrics, **(measure(grads) if measure else {})}
        return State(params, rest, opt_state, key), metrics

    if shardings is None:
        return jax.jit(step, donate_argnums=0)
    # The metrics are whole on every device, because each process reads them.
    whole = jax.NamedSharding(jax.tree.leaves(shardings)[0].mesh, jax.P())
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, whole))


def make_eval_step(
    model: nnx.Module, evaluate: Evaluate, *, mesh: jax.sharding.Mesh | None = None
) -> Callable[[State, Mapping[str, jax.Array]], Any]:
    """Makes the compiled function (state, batch) -> output of `evaluate`.

    Args:
      model: the net. Only its structure is used.
      evaluate: what to compute, with running statistics and without dropout.
      mesh: makes the output whole on each device of this mesh, so that every process can read it.
    """
    graph = _graph(model, training=False)

    def step(state, batch):
        return evaluate(nnx.merge(graph, state.params, state.rest, copy=True), batch)

    return jax.jit(step, out_shardings=mesh and jax.NamedSharding(mesh, jax.P()))


def _graph(model: nnx.Module, *, training: bool) -> Any:
    """Returns the structure of the net in a mode, and leaves the net itself in the mode it has."""
    copy = nnx.clone(model)
    copy.train() if training else copy.eval()
    return nnx.graphdef(copy)


@jax.jit
def all_finite(state: Any) -> jax.Array:
    """Returns whether every number of a state is finite."""
    numbers = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(x).all() for x in numbers]).all()
