"""Applies each arm of PLAN.md to the gradient, or to the optimizer's update."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

import optax_gc
from optax_gc import diagnostics

Arm = Literal["none", "gc", "random_direction", "scaled_length", "optax_centralize", "gc_update"]
ARMS: tuple[Arm, ...] = get_args(Arm)
CONTROLS: tuple[Arm, ...] = ("random_direction", "scaled_length", "optax_centralize")


def with_arm(
    arm: Arm,
    optimizer: optax.GradientTransformation,
    axes: Any,
    params: Any,
    key: jax.Array,
) -> optax.GradientTransformation:
    """Returns an optimizer with what an arm does before it, or after it.

    Args:
      arm: the arm. GC acts on the update in `gc_update`, and all other arms act on the gradient.
      optimizer: the optimizer.
      axes, params, key: as for `arm_transform`.
    """
    if arm == "gc_update":
        return optax.chain(optimizer, optax_gc.centralize(axes))
    return optax.chain(arm_transform(arm, axes, params, key), optimizer)


def arm_transform(arm: Arm, axes: Any, params: Any, key: jax.Array) -> optax.GradientTransformation:
    """Returns what an arm does to a gradient or to an update.

    Args:
      arm: the arm.
      axes: the input axes of each kernel, as for `optax_gc.centralize`.
      params: the parameters, or their shapes.
      key: the seed of the random directions.
    """
    if arm == "none":
        return optax.identity()
    if arm in ("gc", "gc_update"):
        return optax_gc.centralize(axes)
    if arm == "optax_centralize":
        return optax.centralize()
    if arm == "scaled_length":
        return optax.stateless(
            lambda updates, _: _map_kernels(_scale_to_centralized, updates, axes)
        )
    directions = random_directions(params, axes, key)

    def remove(gradient: jax.Array, over: tuple[int, ...], direction: jax.Array) -> jax.Array:
        return gradient - direction * jnp.sum(direction * gradient, over, keepdims=True)

    return optax.stateless(lambda updates, _: _map_kernels(remove, updates, axes, directions))


def random_directions(params: Any, axes: Any, key: jax.Array) -> list[jax.Array | None]:
    """Draws a unit vector for each kernel, in the shape of its inputs; None for other leaves.

    All neurons of a kernel have the same direction, as they have in GC.
    """
    directions: list[jax.Array | None] = []
    for index, (leaf, over) in enumerate(zip(*_leaves(params, axes), strict=True)):
        if over is None:
            directions.append(None)
            continue
        shape = [size if axis in over else 1 for axis, size in enumerate(leaf.shape)]
        drawn = jax.random.normal(jax.random.fold_in(key, index), shape)
        directions.append(drawn / jnp.linalg.norm(drawn.ravel()))
    return directions


def share_removed(updates: Any, axes: Any) -> jax.Array:
    """Returns the share of the squared norm of all gradients that GC removes, a scalar.

    It is 0 for a gradient of 0.
    """
    centralized, _ = optax_gc.centralize(axes).update(updates, optax.EmptyState())
    return diagnostics.share_removed(optax.tree.norm(updates), optax.tree.norm(centralized))


def _scale_to_centralized(gradient: jax.Array, over: tuple[int, ...]) -> jax.Array:
    """Scales each neuron's gradient to the length that it has without its mean."""
    centred = gradient - jnp.mean(gradient, over, keepdims=True)
    before = jnp.sum(gradient**2, over, keepdims=True)
    after = jnp.sum(centred**2, over, keepdims=True)
    return gradient * jnp.sqrt(jnp.where(before > 0, after / jnp.where(before > 0, before, 1), 1))


def _map_kernels(function: Any, updates: Any, axes: Any, *more: list) -> Any:
    """Applies a function of gradient and axes, and of an entry of each list, to each kernel."""
    leaves, over = _leaves(updates, axes)
    rows = zip(leaves, over, *more, strict=True)
    changed = [
        leaf if where is None else function(leaf, where, *rest) for leaf, where, *rest in rows
    ]
    return jax.tree.unflatten(jax.tree.structure(updates), changed)


def _leaves(tree: Any, axes: Any) -> tuple[list[Any], list[tuple[int, ...] | None]]:
    """Returns the leaves of a tree, and the input axes of each or None.

    Negative axes are not expected, since those that `optax_gc.nnx_kernel_axes` finds are not.
    """
    over = axes(tree) if callable(axes) else axes
    return jax.tree.leaves(tree), jax.tree.leaves(
        over, is_leaf=lambda x: x is None or isinstance(x, tuple)
    )
