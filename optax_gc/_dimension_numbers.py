"""The axes of kernels in the form in which other optimizers take them."""

from collections.abc import Callable
from typing import Any

import optax

from optax_gc._axes import Axes, kernel_axes
from optax_gc._layers import LayerAxes
from optax_gc._resolve import fan_in, is_absent, resolve
from optax_gc._roles import AxisRoles, roles_by_inputs


def muon_dimension_numbers(
    axes: Axes = kernel_axes, *, per_head: bool = False
) -> Callable[[Any], Any]:
    """Returns the kernels' axes in the form in which Muon takes them.

    Muon replaces the update of a matrix (inputs, outputs) by the nearest semi-orthogonal matrix,
    whose columns or rows are orthonormal. A kernel with more axes is such a matrix if its axes are
    grouped, and a stack of layers or experts is one matrix for each of them::

        axes = optax_gc.nnx_kernel_axes(model)
        tx = optax.chain(
            optax_gc.centralize(axes),
            optax.contrib.muon(
                1e-3, muon_weight_dimension_numbers=optax_gc.muon_dimension_numbers(axes)
            ),
        )

    If GC comes before Muon, the update of every centralized weight vector has a mean of 0, and
    eᵀw stays constant, because the iterations of Muon are products of the gradient from the
    left with matrices on the right.

    Args:
      axes: as for :func:`optax_gc.centralize`. What ``nnx_kernel_axes``, ``linen_kernel_axes``,
        ``equinox_kernel_axes`` and ``haiku_kernel_axes`` return also identifies stacks, and the
        kernels of classes that ``layers`` leaves out. With other axes, every axis that is not an
        input is taken to be an output.
      per_head: whether each head of an attention's query, key and value is a matrix of its own.
        This needs what ``nnx_kernel_axes`` or ``linen_kernel_axes`` return, because kernels of
        Equinox and Haiku have no axis of heads.

    Returns:
      A function from the parameters to a tree with an ``optax.contrib.MuonDimensionNumbers`` for
      each kernel, and None for the leaves that Muon trains by Adam, also those with a fan-in of
      1. Axes that are not listed there are batch axes.

    Raises:
      TypeError: as :func:`optax_gc.centralize`.
      ValueError: as :func:`optax_gc.centralize`; or it cannot be determined which axes of a
        kernel are stacks; or ``per_head`` is True although ``axes`` identify no heads.

    References:
      Jordan, `Muon <https://kellerjordan.github.io/posts/muon/>`_, 2024

    Examples:
      >>> from flax import nnx
      >>> import optax_gc
      >>> layer = nnx.MultiHeadAttention(4, 32, 64, rngs=nnx.Rngs(0))
      >>> axes = optax_gc.nnx_kernel_axes(layer)
      >>> for per_head in False, True:
      ...     numbers = optax_gc.muon_dimension_numbers(axes, per_head=per_head)
      ...     print(numbers(nnx.to_pure_dict(nnx.state(layer)))["query"]["kernel"])
      MuonDimensionNumbers(reduction_axis=(0,), output_axis=(1, 2))
      MuonDimensionNumbers(reduction_axis=(0,), output_axis=(2,))
    """
    if per_head and not (isinstance(axes, LayerAxes) and axes.has_heads()):
        raise ValueError(
            "per_head=True needs axes that identify the heads: pass what nnx_kernel_axes or "
            "linen_kernel_axes returns for a model with attention, or leave per_head out"
        )

    def numbers(roles):
        batch = roles.heads if per_head else ()
        outputs = tuple(axis for axis in roles.outputs if axis not in batch)
        return optax.contrib.MuonDimensionNumbers(roles.inputs, outputs)

    return lambda params: _map_roles(numbers, params, axes)


def galore_dimension_numbers(axes: Axes = kernel_axes) -> Callable[[Any], Any]:
    """Returns the kernels' axes in the form in which GaLore takes them.

    GaLore keeps Adam's moments of a projection of each kernel's matrix (inputs, outputs).

    Args:
      axes: as for :func:`muon_dimension_numbers`.

    Returns:
      A function from the parameters to a tree with an ``optax.contrib.GaLoreDimensionNumbers``
      for each kernel, for ``optax.contrib.galore(weight_dimension_numbers=…)``. It is None for
      the leaves that are not kernels, and for stacks of kernels, which GaLore does not take.

    Raises:
      TypeError: as :func:`optax_gc.centralize`.
      ValueError: as :func:`muon_dimension_numbers`.

    References:
      Zhao et al., `GaLore <https://arxiv.org/abs/2403.03507>`_, 2024

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_gc
      >>> optax_gc.galore_dimension_numbers()({"conv": jnp.ones((3, 3, 2, 4))})
      {'conv': GaLoreDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=(3,))}
    """

    def numbers(roles):
        if roles.stacks:
            return None
        return optax.contrib.GaLoreDimensionNumbers(roles.inputs, roles.outputs)

    return lambda params: _map_roles(numbers, params, axes)


def _map_roles(function: Callable[[AxisRoles], Any], params: Any, axes: Axes) -> Any:
    leaves, treedef = resolve(params, axes)

    def convert(leaf):
        if isinstance(axes, LayerAxes) and not is_absent(leaf.value):
            roles = axes.find_roles(leaf.path, leaf.value)
        else:
            roles = leaf.axes and roles_by_inputs(leaf.axes, leaf.value.ndim)
        # A matrix with one input is a vector, which has nothing to orthogonalize or to project.
        return function(roles) if roles and fan_in(leaf.value, roles.inputs) > 1 else None

    return treedef.unflatten([convert(leaf) for leaf in leaves])
