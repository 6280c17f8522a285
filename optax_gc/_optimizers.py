"""Optax's optimizers with GC where the paper puts it, each one chain in the order it acts."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optax_gc._centralize import centralize

_CENTRALIZE = centralize()


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    accumulator_dtype: Any | None = None,
    *,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    gc: optax.GradientTransformation = _CENTRALIZE,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD and SGDM with gradient centralization (Algorithm 1), weight decay inside it.

    .. math::
        \hat g_t = \Phi(g_t + \lambda w_t), \quad
        m_t = \mu m_{t-1} + \hat g_t, \quad
        w_{t+1} = w_t - \eta_t m_t

    with :math:`\hat g_t + \mu m_t` in place of :math:`m_t` for Nesterov's momentum. The
    momentum is a sum, as in :func:`optax.sgd` and the authors' code; Algorithm 1 prints
    a moving average. Every parameter is decayed, biases and norms too, as in that code.

    The theory holds in full: eᵀw of every centralized weight vector keeps its initial
    value (Section 4.1), whatever the momentum, the decay and the schedules, so Corollary
    4.1 holds and the decay never shrinks a weight vector's mean. Φ before or after the
    momentum is the same update, so there is no ``gc_on`` here.

    Args:
      learning_rate: η, a number or a schedule from the step's count to one.
      momentum: μ; None for none, and no state for it.
      nesterov: whether the momentum is Nesterov's.
      accumulator_dtype: dtype of the momentum; None for that of the parameters.
      weight_decay: λ, a number or a schedule; anything but a Python 0 needs ``params``.
      gc: Φ, such as ``centralize(mask=conv_kernels)``; ``optax.identity()`` for none.

    Returns:
      The optimizer: :func:`optax.sgd` without decay and with ``gc=optax.identity()``.

    Raises:
      TypeError: ``gc`` is not a gradient transformation.
      ValueError: in ``update``, a decay without ``params``.

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
        _add_decay(weight_decay),
        _checked(gc),
        _momentum(momentum, nesterov, accumulator_dtype),
        optax.scale_by_learning_rate(learning_rate),
    )


def sgdw(
    learning_rate: optax.ScalarOrSchedule,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    accumulator_dtype: Any | None = None,
    *,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    gc: optax.GradientTransformation = _CENTRALIZE,
) -> optax.GradientTransformationExtraArgs:
    r"""SGDM with gradient centralization and decoupled weight decay.

    .. math::
        m_t = \mu m_{t-1} + \Phi(g_t), \quad
        w_{t+1} = w_t - \eta_t (m_t + \lambda w_t)

    with :math:`\Phi(g_t) + \mu m_t` in place of :math:`m_t` for Nesterov's momentum. The
    decay is multiplied by the learning rate, is not centralized and stays out of the
    momentum, as in the authors' code.

    Here eᵀw of a centralized weight vector is not constant: it follows the decay alone,
    :math:`e^T w_t = e^T w_0 \prod_{s<t} (1 - \eta_s \lambda)`. It is constant without decay.

    Args:
      learning_rate: η, a number or a schedule from the step's count to one.
      momentum: μ; None for none, and no state for it.
      nesterov: whether the momentum is Nesterov's.
      accumulator_dtype: dtype of the momentum; None for that of the parameters.
      weight_decay: λ, a number or a schedule; anything but a Python 0 needs ``params``.
      gc: Φ, such as ``centralize(mask=conv_kernels)``; ``optax.identity()`` for none.

    Returns:
      The optimizer.

    Raises:
      TypeError: ``gc`` is not a gradient transformation.
      ValueError: in ``update``, a decay without ``params``.

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
        _checked(gc),
        _momentum(momentum, nesterov, accumulator_dtype),
        _add_decay(weight_decay),
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
    weight_decay: optax.ScalarOrSchedule = 0.0,
    gc: optax.GradientTransformation = _CENTRALIZE,
    gc_on: Literal["gradient", "update"] = "gradient",
) -> optax.GradientTransformationExtraArgs:
    r"""Adam with gradient centralization (Algorithm 2) and coupled weight decay.

    .. math::
        \hat g_t = \Phi(g_t + \lambda w_t), \quad
        w_{t+1} = w_t - \eta_t \, \mathrm{Adam}(\hat g_t)

    where Adam is :func:`optax.scale_by_adam`: :math:`\hat m_t / (\sqrt{\hat v_t} + \epsilon)`
    (Algorithm 2 prints :math:`\hat v_t` for it in its last line). With ``gc_on="update"``
    it is :math:`\eta_t \Phi(\mathrm{Adam}(g_t + \lambda w_t))`, which the authors advise
    for adaptive methods. Every parameter is decayed, biases and norms too.

    Section 4.1 speaks of SGD and SGDM. Under ``gc_on="gradient"`` eᵀw does not stay
    constant, even without decay: each weight is scaled by its own :math:`\hat v_t`. Under
    ``gc_on="update"`` it does, for any decay, and Corollary 4.1 holds.

    Args:
      learning_rate: η, a number or a schedule from the step's count to one.
      b1: decay rate of the first moment.
      b2: decay rate of the second moment.
      eps: ε, added outside the root.
      eps_root: added inside the root.
      mu_dtype: dtype of the first moment; None for that of the parameters.
      nesterov: whether to use Nesterov's momentum, as :func:`optax.nadam` does.
      weight_decay: λ, a number or a schedule; anything but a Python 0 needs ``params``.
      gc: Φ, such as ``centralize(mask=conv_kernels)``; ``optax.identity()`` for none.
      gc_on: what Φ acts on, ``"gradient"`` or ``"update"``.

    Returns:
      The optimizer: :func:`optax.adam` without decay and with ``gc=optax.identity()``.

    Raises:
      TypeError: ``gc`` is not a gradient transformation.
      ValueError: ``gc_on`` is another value; in ``update``, a decay without ``params``.

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
    early_gc, late_gc = _placed(gc, gc_on)
    return optax.chain(
        _add_decay(weight_decay),
        early_gc,
        optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        late_gc,
        optax.scale_by_learning_rate(learning_rate),
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
    advise for adaptive methods, it is :math:`\eta_t \Phi(\mathrm{Adam}(g_t) + \lambda w_t)`,
    Φ over the decay too. The decay is multiplied by η, as in :func:`optax.adamw`. The
    authors' code multiplies it by :math:`\eta_t / (1 - b_1^t)` instead, ten times as much
    at the first step and the same in the end (in one of its two versions also by
    :math:`\sqrt{1 - b_2^t}`, with ε before the bias correction).

    Under ``gc_on="gradient"`` eᵀw does not stay constant and follows no law; under
    ``gc_on="update"`` it is constant, for any decay, and Corollary 4.1 holds.

    Args:
      learning_rate: η, a number or a schedule from the step's count to one.
      b1: decay rate of the first moment.
      b2: decay rate of the second moment.
      eps: ε, added outside the root.
      eps_root: added inside the root.
      mu_dtype: dtype of the first moment; None for that of the parameters.
      weight_decay: λ, a number or a schedule; anything but a Python 0 needs ``params``.
      mask: which parameters are decayed, as in :func:`optax.adamw`: a tree of bool, a prefix
        of one or a callable from the parameters to it. ``gc`` has a mask of its own.
      nesterov: whether to use Nesterov's momentum, as :func:`optax.nadamw` does.
      gc: Φ, such as ``centralize(mask=conv_kernels)``; ``optax.identity()`` for none.
      gc_on: what Φ acts on, ``"gradient"`` or ``"update"``.

    Returns:
      The optimizer: :func:`optax.adamw` with ``gc=optax.identity()``.

    Raises:
      TypeError: ``gc`` is not a gradient transformation.
      ValueError: ``gc_on`` is another value; in ``update``, a decay without ``params``.

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
    early_gc, late_gc = _placed(gc, gc_on)
    return optax.chain(
        early_gc,
        optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        _add_decay(weight_decay, mask),
        late_gc,
        optax.scale_by_learning_rate(learning_rate),
    )


def adagrad(
    learning_rate: optax.ScalarOrSchedule,
    initial_accumulator_value: ArrayLike = 0.0,
    eps: ArrayLike = 1e-7,
    *,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    gc: optax.GradientTransformation = _CENTRALIZE,
    gc_on: Literal["gradient", "update"] = "gradient",
) -> optax.GradientTransformationExtraArgs:
    r"""Adagrad with gradient centralization and coupled weight decay.

    .. math::
        \hat g_t = \Phi(g_t + \lambda w_t), \quad
        v_t = v_{t-1} + \hat g_t^2, \quad
        w_{t+1} = w_t - \eta_t \, \hat g_t / \sqrt{v_t + \epsilon}

    With ``gc_on="update"`` Φ acts on the quotient instead, not on the gradient. The
    accumulator starts at 0, as the paper's did; :func:`optax.adagrad` starts it at 0.1.
    ε is inside the root, as in Optax, where its default acts like 3e-4 outside it:
    PyTorch's :math:`\sqrt{v_t} + 10^{-10}` is met closely by ``eps=1e-20``. A weight whose
    gradients have all been 0 is not moved, also for ``eps=0``. Every parameter is decayed,
    biases and norms too.

    As for Adam, eᵀw does not stay constant under ``gc_on="gradient"``, even without
    decay; under ``gc_on="update"`` it does, for any decay, and Corollary 4.1 holds.

    Args:
      learning_rate: η, a number or a schedule from the step's count to one.
      initial_accumulator_value: v₀, not negative.
      eps: ε, added inside the root.
      weight_decay: λ, a number or a schedule; anything but a Python 0 needs ``params``.
      gc: Φ, such as ``centralize(mask=conv_kernels)``; ``optax.identity()`` for none.
      gc_on: what Φ acts on, ``"gradient"`` or ``"update"``.

    Returns:
      The optimizer: :func:`optax.adagrad` without decay, with ``gc=optax.identity()`` and
      ``initial_accumulator_value=0.1``.

    Raises:
      TypeError: ``gc`` is not a gradient transformation.
      ValueError: ``gc_on`` is another value; in ``update``, a decay without ``params``.

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
    early_gc, late_gc = _placed(gc, gc_on)
    return optax.chain(
        _add_decay(weight_decay),
        early_gc,
        optax.scale_by_rss(initial_accumulator_value, eps),
        late_gc,
        optax.scale_by_learning_rate(learning_rate),
    )


def _momentum(momentum, nesterov, accumulator_dtype):
    if momentum is None:
        return optax.identity()
    return optax.trace(momentum, nesterov, accumulator_dtype)


def _add_decay(weight_decay: Any, mask: Any = None) -> optax.GradientTransformation:
    # A number known to be 0 needs no parameters; a traced one may become something else.
    if isinstance(weight_decay, (int, float)) and weight_decay == 0:
        return optax.identity()
    if callable(weight_decay):
        decay = _add_scheduled_decay(weight_decay)
    else:
        decay = optax.add_decayed_weights(weight_decay)
    return decay if mask is None else optax.masked(decay, mask)


def _add_scheduled_decay(schedule: Any) -> optax.GradientTransformation:
    """optax.add_decayed_weights for schedules, which that of Optax 0.2.5 does not take."""

    def init(params):
        del params
        return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("weight decay needs the parameters: update(grads, state, params)")
        decay = schedule(state.count)
        # In the weight's dtype, as a Python number would be: a float32 schedule would widen
        # bfloat16 gradients and the momentum that they enter.
        updates = jax.tree.map(
            lambda g, w: None if g is None else g + jnp.asarray(decay, jnp.result_type(w)) * w,
            updates,
            params,
            is_leaf=lambda g: g is None,
        )
        return updates, optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def _placed(gc, gc_on):
    if gc_on not in ("gradient", "update"):
        raise ValueError(f'gc_on must be "gradient" or "update", not {gc_on!r}')
    gc = _checked(gc)
    return (gc, optax.identity()) if gc_on == "gradient" else (optax.identity(), gc)


def _checked(gc):
    if not isinstance(gc, optax.GradientTransformation):
        raise TypeError(
            "gc must be an optax.GradientTransformation, such as optax_gc.centralize(), or "
            f"optax.identity() for no centralization; got {gc!r}"
        )
    return gc
