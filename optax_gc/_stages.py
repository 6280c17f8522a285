"""The stages of which the optimizers are built."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike


def make_momentum(
    momentum: ArrayLike | None, nesterov: bool, accumulator_dtype: Any
) -> optax.GradientTransformation:
    """Returns the momentum of SGD, or the identity, as `optax.sgd` does."""
    if momentum is None:
        return optax.identity()
    return optax.trace(momentum, nesterov, accumulator_dtype)


def add_decay(weight_decay: Any) -> tuple[optax.GradientTransformation, ...]:
    """Returns the stage that adds the weight decay; no stage if there is no decay."""
    # A decay that is known to be 0 needs no parameters. A traced number can take other values later.
    if weight_decay is None or (isinstance(weight_decay, (int, float)) and weight_decay == 0):
        return ()
    decay = optax.add_decayed_weights(weight_decay)
    return (_keep_dtypes(decay) if callable(weight_decay) else decay,)


def _keep_dtypes(decay: optax.GradientTransformation) -> optax.GradientTransformation:
    """Keeps the gradients' dtypes, which the float32 values of a schedule would widen."""

    def update(updates, state, params=None):
        decayed, state = decay.update(updates, state, params)
        decayed = jax.tree.map(
            lambda new, g, w: None if g is None else new.astype(jnp.result_type(g, w)),
            decayed,
            updates,
            params,
            is_leaf=lambda leaf: leaf is None,
        )
        return decayed, state

    return optax.GradientTransformation(decay.init, update)


def place_gc(gc: Any, gc_on: str) -> tuple[Any, Any]:
    """Returns what acts on the gradient and what acts on the update, one of which is the identity."""
    if gc_on not in ("gradient", "update"):
        raise ValueError(f'gc_on must be "gradient" or "update", not {gc_on!r}')
    return (gc, optax.identity()) if gc_on == "gradient" else (optax.identity(), gc)


def centralize_before(
    stage: optax.GradientTransformation, gc: Any
) -> tuple[optax.GradientTransformation, ...]:
    """Returns the stages that apply `gc` and then `stage`.

    A gc without state is joined to the stage, so that the optimizer's state is Optax's:
    ``opt_state[0].mu`` is Adam's moment, and a run of ``optax.adam`` can continue with GC.
    """
    if not isinstance(gc, optax.GradientTransformation):
        raise TypeError(
            "gc must be an optax.GradientTransformation, such as optax_gc.centralize(), or "
            f"optax.identity() for no centralization; got {gc!r}"
        )
    # A transformation made by optax.stateless, such as centralize, has the init of optax.identity.
    if gc.init is not optax.identity().init:
        return gc, stage
    first, second = optax.with_extra_args_support(gc), optax.with_extra_args_support(stage)

    def update(updates, state, params=None, **extra_args):
        updates, _ = first.update(updates, optax.EmptyState(), params, **extra_args)
        return second.update(updates, state, params, **extra_args)

    return (optax.GradientTransformationExtraArgs(stage.init, update),)
