"""Gradient centralization, equation 1 of the paper, as an Optax transformation."""

import jax
import jax.numpy as jnp
import optax

from optax_gc._axes import Axes, Mask, kernel_axes
from optax_gc._resolve import resolve


def centralize(axes: Axes = kernel_axes, *, mask: Mask = None) -> optax.GradientTransformation:
    r"""Subtracts from each weight vector's gradient its mean over the inputs.

    For the gradient g of one output neuron's weight vector, which has M inputs (equation 1):

    .. math:: \Phi(g) = g - \frac{1}{M} \sum_{j=1}^{M} g_j

    which is the projection P = I - eeᵀ with e = 1/√M (equation 2). Each index along the axes
    that are not averaged, such as outputs and stacked layers, is a weight vector of its own.
    A weight vector with one input is left alone, because without its mean it would never
    train.

    Chain it before the optimizer and after gradient clipping::

        optax.chain(optax.clip_by_global_norm(1.0), centralize(), optax.sgd(0.1, momentum=0.9))

    The mean is computed and subtracted in float32 or wider, and the result is rounded once,
    to the leaf's dtype. Leaves that are neither floating point nor complex, None and
    ``optax.MaskedNode`` pass through. There is no state. Under ``jit`` any sharding works and
    is kept. Under ``shard_map`` the averaged axes must not be split over devices, because
    each device would take the mean of its own part; use ``jit`` there.

    Args:
      axes: the input axes of each leaf: a tree, or a function from the updates to a tree.
        A leaf of that tree is a tuple or list of ints, which count from the end if they are
        negative, or None for a leaf of the updates that is left alone. A prefix of the
        updates with the same container types and all their keys is enough. A tuple of ints
        is always one leaf and never a container.
      mask: a tree of bool, a prefix of one, or a function from the updates to it. A leaf
        whose mask is False is left alone, as in :func:`optax.add_decayed_weights`.

    Returns:
      An ``optax.GradientTransformation`` without state. ``optax.inject_hyperparams`` takes
      functions for schedules; pass it ``static_args=("axes", "mask")``.

    Raises:
      TypeError: ``axes`` is None. In ``update``: an axis is not an int, or a mask is not a
        bool; the message names the leaf.
      ValueError: in ``update``: an axis is out of range or given twice, or a tree is not a
        prefix of the updates; the message names the leaf.

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
    """Subtracts the mean over `axes`; if they are None, the gradient stays as it is."""
    if axes is None:
        return gradient
    wide = widen(gradient)
    centered = wide - jnp.mean(wide, axis=axes, keepdims=True)
    return centered.astype(gradient.dtype) if _is_narrow(gradient) else centered


def widen(array: jax.Array) -> jax.Array:
    """Returns the array in float32 or wider, in which sums are computed."""
    # To name a dtype that JAX does not enable, such as the float64 of NumPy, would be a warning.
    return jnp.asarray(array, jnp.float32 if _is_narrow(array) else None)


def _is_narrow(array) -> bool:
    return jnp.finfo(array.dtype).bits < 32
