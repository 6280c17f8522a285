"""Optax's optimizers with GC where the paper puts it.

Each optimizer is one chain. Its stages are listed in the order in which they act.
"""

from typing import Any, Literal

import optax
from jax.typing import ArrayLike

from optax_gc._centralize import centralize
from optax_gc._stages import add_decay, centralize_before, make_momentum, place_gc

_CENTRALIZE = centralize()


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    accumulator_dtype: Any | None = None,
    *,
    weight_decay: optax.ScalarOrSchedule | None = None,
    gc: optax.GradientTransformation = _CENTRALIZE,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD and SGDM with gradient centralization (Algorithm 1) and coupled weight decay.

    .. math::
        \hat g_t = \Phi(g_t + \lambda w_t), \quad
        m_t = \mu m_{t-1} + \hat g_t, \quad
        w_{t+1} = w_t - \eta_t m_t

    Nesterov's momentum has :math:`\hat g_t + \mu m_t` instead of :math:`m_t`. The momentum is
    a sum, as in :func:`optax.sgd` and the authors' code; Algorithm 1 prints a moving average.
    Every parameter is decayed, including biases and the scales of norms, as in that code.

    Section 4.1 holds: eᵀw of every centralized weight vector keeps its initial value,
    whatever the momentum, the decay and the schedules are. So Corollary 4.1 holds, and the
    decay never shrinks the mean of a weight vector. There is no ``gc_on`` here, because
    centralizing before or after the momentum is the same update.

    Args:
      learning_rate: η, a number, or a schedule that returns it for the number of a step.
      momentum: μ, or None for no momentum and no state for it.
      nesterov: whether to use Nesterov's momentum.
      accumulator_dtype: dtype of the momentum; None for the dtype of the parameters.
      weight_decay: λ, a number or a schedule, or None for no decay. With a decay,
        ``update`` needs ``params``.
      gc: Φ, such as ``centralize(mask=conv_kernels)``, or ``optax.identity()`` for no
        centralization.

    Returns:
      The optimizer. Without decay and with ``gc=optax.identity()`` it is :func:`optax.sgd`,
      and in any case its state without decay is that of :func:`optax.sgd`.

    Raises:
      TypeError: ``gc`` is not a gradient transformation.
      ValueError: ``update`` is called without ``params`` although there is a decay.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_gc
      >>> params = {"kernel": jnp.array([[1.0], [2.0], [3.0]])}
      >>> grads = {"kernel": jnp.array([[1.0], [2.0], [6.0]])}
      >>> tx = optax_gc.sgd(1.0, momentum=0.9, weight_decay=1.0)
      >>> updates, _ = tx.update(grads, tx.init(params), params)
      >>> print(updates["kernel"].T)
      [[ 3.  1. -4.]]

    References:
      Yong et al., `Gradient Centralization <https://arxiv.org/abs/2004.01461>`_, 2020
    """
    return optax.chain(
        *add_decay(weight_decay),
        *centralize_before(make_momentum(momentum, nesterov, accumulator_dtype), gc),
        optax.scale_by_learning_rate(learning_rate),
    )


def sgdw(
    learning_rate: optax.ScalarOrSchedule,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    accumulator_dtype: Any | None = None,
    *,
    weight_decay: optax.ScalarOrSchedule | None = None,
    gc: optax.GradientTransformation = _CENTRALIZE,
) -> optax.GradientTransformationExtraArgs:
    r"""SGDM with gradient centralization and decoupled weight decay.

    .. math::
        m_t = \mu m_{t-1} + \Phi(g_t), \quad
        w_{t+1} = w_t - \eta_t (m_t + \lambda w_t)

    Nesterov's momentum has :math:`\Phi(g_t) + \mu m_t` instead of :math:`m_t`. As in the
    authors' code, the decay is multiplied by the learning rate, and it is neither centralized
    nor part of the momentum.

    With a decay, eᵀw of a centralized weight vector is not constant. Only the decay changes
    it: :math:`e^T w_t = e^T w_0 \prod_{s<t} (1 - \eta_s \lambda)`.

    Args:
      learning_rate: η, a number, or a schedule that returns it for the number of a step.
      momentum: μ, or None for no momentum and no state for it.
      nesterov: whether to use Nesterov's momentum.
      accumulator_dtype: dtype of the momentum; None for the dtype of the parameters.
      weight_decay: λ, a number or a schedule, or None for no decay. With a decay,
        ``update`` needs ``params``.
      gc: Φ, such as ``centralize(mask=conv_kernels)``, or ``optax.identity()`` for no
        centralization.

    Returns:
      The optimizer.

    Raises:
      TypeError: ``gc`` is not a gradient transformation.
      ValueError: ``update`` is called without ``params`` although there is a decay.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_gc
      >>> params = {"kernel": jnp.array([[1.0], [2.0], [3.0]])}
      >>> grads = {"kernel": jnp.array([[1.0], [2.0], [6.0]])}
      >>> tx = optax_gc.sgdw(0.1, momentum=0.9, weight_decay=0.5)
      >>> updates, _ = tx.update(grads, tx.init(params), params)
      >>> print(f"{updates['kernel'].sum():.3f}")  # -0.1 * 0.5 * (1 + 2 + 3)
      -0.300

    References:
      Yong et al., `Gradient Centralization <https://arxiv.org/abs/2004.01461>`_, 2020;
      Loshchilov and Hutter, `Decoupled Weight Decay <https://arxiv.org/abs/1711.05101>`_, 2019
    """
    return optax.chain(
        *centralize_before(make_momentum(momentum, nesterov, accumulator_dtype), gc),
        *add_decay(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )


def adam(
    learning_rate: optax.ScalarOrSchedule,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: Any | None = None,
    *,
    nesterov: bool = False,
    weight_decay: optax.ScalarOrSchedule | None = None,
    gc: optax.GradientTransformation = _CENTRALIZE,
    gc_on: Literal["gradient", "update"] = "gradient",
) -> optax.GradientTransformationExtraArgs:
    r"""Adam with gradient centralization (Algorithm 2) and coupled weight decay.

    .. math::
        \hat g_t = \Phi(g_t + \lambda w_t), \quad
        w_{t+1} = w_t - \eta_t \, \mathrm{Adam}(\hat g_t)

    where Adam is :func:`optax.scale_by_adam`: :math:`\hat m_t / (\sqrt{\hat v_t} + \epsilon)`
    (the last line of Algorithm 2 prints :math:`\hat v_t` without the root). With
    ``gc_on="update"`` the step is :math:`\eta_t \Phi(\mathrm{Adam}(g_t + \lambda w_t))`, which
    the authors recommend for adaptive methods. Every parameter is decayed, including biases
    and the scales of norms.

    Section 4.1 is about SGD and SGDM. With ``gc_on="gradient"``, eᵀw does not stay constant,
    even without decay, because each weight is scaled by its own :math:`\hat v_t`. With
    ``gc_on="update"`` it stays constant for any decay, and Corollary 4.1 holds.

    Args:
      learning_rate: η, a number, or a schedule that returns it for the number of a step.
      b1: decay rate of the first moment.
      b2: decay rate of the second moment.
      eps: ε, added outside the root.
      eps_root: added inside the root.
      mu_dtype: dtype of the first moment; None for the dtype of the parameters.
      nesterov: whether to use Nesterov's momentum, as :func:`optax.nadam` does.
      weight_decay: λ, a number or a schedule, or None for no decay. With a decay,
        ``update`` needs ``params``.
      gc: Φ, such as ``centralize(mask=conv_kernels)``, or ``optax.identity()`` for no
        centralization.
      gc_on: what Φ acts on, ``"gradient"`` or ``"update"``.

    Returns:
      The optimizer. Without decay and with ``gc=optax.identity()`` it is :func:`optax.adam`,
      and in any case its state without decay is that of :func:`optax.adam`.

    Raises:
      TypeError: ``gc`` is not a gradient transformation.
      ValueError: ``gc_on`` has another value, or ``update`` is called without ``params``
        although there is a decay.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_gc
      >>> params = {"kernel": jnp.zeros((3, 1))}
      >>> grads = {"kernel": jnp.array([[1.0], [2.0], [6.0]])}
      >>> for gc_on in "gradient", "update":
      ...     tx = optax_gc.adam(0.3, gc_on=gc_on)
      ...     updates, _ = tx.update(grads, tx.init(params))
      ...     print(gc_on, abs(updates["kernel"].sum()).round(3))
      gradient 0.3
      update 0.0

    References:
      Yong et al., `Gradient Centralization <https://arxiv.org/abs/2004.01461>`_, 2020
    """
    gc_on_gradient, gc_on_update = place_gc(gc, gc_on)
    scaling = optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    return optax.chain(
        *add_decay(weight_decay),
        *centralize_before(scaling, gc_on_gradient),
        *centralize_before(optax.scale_by_learning_rate(learning_rate), gc_on_update),
    )


def adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: Any | None = None,
    weight_decay: optax.ScalarOrSchedule = 1e-4,
    mask: Any | None = None,
    *,
    nesterov: bool = False,
    gc: optax.GradientTransformation = _CENTRALIZE,
    gc_on: Literal["gradient", "update"] = "gradient",
) -> optax.GradientTransformationExtraArgs:
    r"""AdamW with gradient centralization.

    .. math:: w_{t+1} = w_t - \eta_t \left( \mathrm{Adam}(\Phi(g_t)) + \lambda w_t \right)

    where Adam is :func:`optax.scale_by_adam`. With ``gc_on="update"``, which the authors
    recommend for adaptive methods, the step is
    :math:`\eta_t \Phi(\mathrm{Adam}(g_t) + \lambda w_t)`, so Φ acts on the decay too. The decay
    is multiplied by η, as in :func:`optax.adamw`. The authors' code multiplies it by
    :math:`\eta_t / (1 - b_1^t)` instead, which is ten times as much at the first step and the
    same in the long run (one of its two versions also multiplies it by
    :math:`\sqrt{1 - b_2^t}` and adds ε before the bias correction).

    With ``gc_on="gradient"``, eᵀw does not stay constant. With ``gc_on="update"`` it stays
    constant for any decay, and Corollary 4.1 holds.

    Args:
      learning_rate: η, a number, or a schedule that returns it for the number of a step.
      b1: decay rate of the first moment.
      b2: decay rate of the second moment.
      eps: ε, added outside the root.
      eps_root: added inside the root.
      mu_dtype: dtype of the first moment; None for the dtype of the parameters.
      weight_decay: λ, a number or a schedule. Unless it is the number 0, ``update`` needs
        ``params``.
      mask: which parameters are decayed, as in :func:`optax.adamw`: a tree of bool, a prefix
        of one, or a function from the parameters to it. ``gc`` has a mask of its own.
      nesterov: whether to use Nesterov's momentum, as :func:`optax.nadamw` does.
      gc: Φ, such as ``centralize(mask=conv_kernels)``, or ``optax.identity()`` for no
        centralization.
      gc_on: what Φ acts on, ``"gradient"`` or ``"update"``.

    Returns:
      The optimizer. With ``gc=optax.identity()`` it is :func:`optax.adamw`, and in any case
      its state is that of :func:`optax.adamw`.

    Raises:
      TypeError: ``gc`` is not a gradient transformation.
      ValueError: ``gc_on`` has another value, or ``update`` is called without ``params``
        although there is a decay.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_gc
      >>> params = {"kernel": jnp.array([[1.0], [2.0], [3.0]]), "bias": jnp.ones(1)}
      >>> grads = {"kernel": jnp.array([[1.0], [2.0], [6.0]]), "bias": jnp.ones(1)}
      >>> tx = optax_gc.adamw(0.3, mask=optax_gc.dense_kernels, gc_on="update")
      >>> updates, _ = tx.update(grads, tx.init(params), params)
      >>> print(abs(updates["kernel"].sum()).round(3))
      0.0

    References:
      Yong et al., `Gradient Centralization <https://arxiv.org/abs/2004.01461>`_, 2020;
      Loshchilov and Hutter, `Decoupled Weight Decay <https://arxiv.org/abs/1711.05101>`_, 2019
    """
    gc_on_gradient, gc_on_update = place_gc(gc, gc_on)
    scaling = optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    (decay,) = add_decay(weight_decay) or (optax.identity(),)
    return optax.chain(
        *centralize_before(scaling, gc_on_gradient),
        decay if mask is None else optax.masked(decay, mask),
        *centralize_before(optax.scale_by_learning_rate(learning_rate), gc_on_update),
    )


def adagrad(
    learning_rate: optax.ScalarOrSchedule,
    initial_accumulator_value: ArrayLike = 0.0,
    eps: ArrayLike = 1e-7,
    *,
    weight_decay: optax.ScalarOrSchedule | None = None,
    gc: optax.GradientTransformation = _CENTRALIZE,
    gc_on: Literal["gradient", "update"] = "gradient",
) -> optax.GradientTransformationExtraArgs:
    r"""Adagrad with gradient centralization and coupled weight decay.

    .. math::
        \hat g_t = \Phi(g_t + \lambda w_t), \quad
        v_t = v_{t-1} + \hat g_t^2, \quad
        w_{t+1} = w_t - \eta_t \, \hat g_t / \sqrt{v_t + \epsilon}

    With ``gc_on="update"``, Φ acts on the quotient instead of the gradient. The accumulator
    starts at 0, as in the paper; :func:`optax.adagrad` starts it at 0.1. As in Optax, ε is
    inside the root, where its default acts like 3e-4 outside of it. ``eps=1e-20`` comes
    close to PyTorch's :math:`\sqrt{v_t} + 10^{-10}`. A weight whose gradients have all been 0
    does not move, even with ``eps=0``. Every parameter is decayed, including biases and the scales
    of norms.

    As for Adam, eᵀw does not stay constant with ``gc_on="gradient"``, even without decay.
    With ``gc_on="update"`` it stays constant for any decay, and Corollary 4.1 holds.

    Args:
      learning_rate: η, a number, or a schedule that returns it for the number of a step.
      initial_accumulator_value: v₀, not negative.
      eps: ε, added inside the root.
      weight_decay: λ, a number or a schedule, or None for no decay. With a decay,
        ``update`` needs ``params``.
      gc: Φ, such as ``centralize(mask=conv_kernels)``, or ``optax.identity()`` for no
        centralization.
      gc_on: what Φ acts on, ``"gradient"`` or ``"update"``.

    Returns:
      The optimizer. Without decay, and with ``gc=optax.identity()`` and
      ``initial_accumulator_value=0.1``, it is :func:`optax.adagrad`.

    Raises:
      TypeError: ``gc`` is not a gradient transformation.
      ValueError: ``gc_on`` has another value, or ``update`` is called without ``params``
        although there is a decay.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_gc
      >>> params = {"kernel": jnp.zeros((3, 1))}
      >>> grads = {"kernel": jnp.array([[1.0], [2.0], [6.0]])}
      >>> tx = optax_gc.adagrad(0.01)
      >>> updates, _ = tx.update(grads, tx.init(params))
      >>> print(updates["kernel"].round(3).T)
      [[ 0.01  0.01 -0.01]]

    References:
      Yong et al., `Gradient Centralization <https://arxiv.org/abs/2004.01461>`_, 2020
    """
    gc_on_gradient, gc_on_update = place_gc(gc, gc_on)
    return optax.chain(
        *add_decay(weight_decay),
        *centralize_before(optax.scale_by_rss(initial_accumulator_value, eps), gc_on_gradient),
        *centralize_before(optax.scale_by_learning_rate(learning_rate), gc_on_update),
    )
