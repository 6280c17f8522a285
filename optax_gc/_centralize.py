"""The transform: gradient centralization, equation 1 of the paper."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optax_gc._axes import kernel_axes
from optax_gc._resolve import resolve


def centralize(axes: Any = kernel_axes, *, mask: Any = None) -> optax.GradientTransformation:
    r"""Subtracts from each weight vector's gradient its mean over the inputs.

    For the gradient g of one output neuron's weight vector, of fan-in M (equation 1):

    .. math:: \Phi(g) = g - \frac{1}{M} \sum_{j=1}^{M} g_j

    which is the projection P = I - eeᵀ, e = 1/√M (equation 2). Every index along the
    axes that are not averaged is a weight vector of its own, outputs and stacked layers
    alike. A weight vector of fan-in 1 is left alone: without its mean it would never train.

    Chain it before the optimizer, behind gradient clipping::

        optax.chain(optax.clip_by_global_norm(1.0), centralize(), optax.sgd(0.1, momentum=0.9))

    Sums and the subtraction run in float32 or wider and are rounded once, to the leaf's
    dtype. Leaves that are not floating point or complex, None and ``optax.MaskedNode`` pass
    through. There is no state. Under ``jit`` any sharding works and is kept; under
    ``shard_map`` the axes averaged must not be split over devices, since each device would
    then take the mean of its own part: use ``jit`` there.

    Args:
      axes: the input axes of each leaf: a callable from the updates to a tree, or a tree.
        A leaf of that tree is a tuple or list of ints, negative from the end, or None: left
        alone. A prefix of the updates will do, of the same container types with all keys. A
        tuple of ints is always one leaf, never a container.
      mask: a tree of bool, or a prefix of one, or a callable from the updates to it. Where
        it is False the leaf is left alone, as in :func:`optax.add_decayed_weights`.

    Returns:
      An ``optax.GradientTransformation`` without state. For ``optax.inject_hyperparams``,
      which takes callables for schedules, say ``static_args=("axes", "mask")``.

    Raises:
      TypeError: ``axes`` is None; when traced, also an axis that is no int, or a mask that is
        no bool. The leaf is named.
      ValueError: when traced, an axis out of range or given twice, or a tree that is no prefix
        of the updates. The leaf is named.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import optax_gc
      >>> params = {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}
      >>> tx = optax.chain(optax_gc.centralize(), optax.sgd(1.0))
      >>> grads = {"kernel": jnp.array([[1.0, 10.0], [2.0, 20.0], [3.0, 60.0]]), "bias": jnp.ones(2)}
      >>> updates, _ = tx.update(grads, tx.init(params))
      >>> print(updates["kernel"])
      [[  1.  20.]
       [ -0.  10.]
       [ -1. -30.]]
      >>> print(updates["bias"])
      [-1. -1.]

    References:
      Yong et al., `Gradient Centralization: A New Optimization Technique for Deep Neural
      Networks <https://arxiv.org/abs/2004.01461>`_, 2020
    """
    if axes is None:
        raise TypeError("axes=None centralizes nothing; for no centralization use optax.identity()")

    def update(updates, params):
        del params
        leaves, treedef = resolve(updates, axes, mask)
        return treedef.unflatten([project(leaf.value, leaf.axes) for leaf in leaves])

    return optax.stateless(update)


def project(gradient: jax.Array, axes: tuple[int, ...] | None) -> jax.Array:
    """Subtracts the mean over `axes`, which may be None: none at all."""
    if axes is None:
        return gradient
    wide = widen(gradient)
    return (wide - jnp.mean(wide, axis=axes, keepdims=True)).astype(gradient.dtype)


def widen(array: jax.Array) -> jax.Array:
    """At least float32, in which sums are taken."""
    narrow = jnp.finfo(array.dtype).bits < 32
    return jnp.asarray(array, jnp.float32 if narrow else array.dtype)
