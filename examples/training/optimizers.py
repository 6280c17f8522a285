"""Optimizers, schedules and centralization, made from a run's settings."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, get_args

import jax
import optax
from flax import nnx

import optax_gc
from examples.training.settings import GC, Optimizer, Schedule, Settings
from optax_gc import centralize, nnx_kernel_axes

# The layers that GC on "conv" covers. A dense layer is everything else that has a kernel.
_CONVOLUTIONS = (nnx.Conv, nnx.ConvTranspose)


class OptimizerSpec(NamedTuple):
    """Everything that a compiled update depends on, besides the shapes of the parameters.

    The learning rates and the weight decay are missing here because they are numbers in the
    optimizer's state: one compiled update serves every value of them.
    """

    optimizer: Optimizer
    momentum: float
    clip_norm: float | None
    gc: GC
    schedule: Schedule
    steps: int
    milestones: tuple[int, ...]
    warmup: int
    warmup_from: float | None
    head: str | None


def optimizer_spec(
    settings: Settings, *, steps_per_epoch: int, head: str | None = None
) -> OptimizerSpec:
    """Returns what the compiled update of these settings depends on.

    Args:
      settings: the settings of a run.
      steps_per_epoch: the number of steps in an epoch.
      head: the name of a layer that has a learning rate of its own.
    """
    return OptimizerSpec(
        optimizer=settings.optimizer,
        momentum=settings.momentum,
        clip_norm=settings.clip_norm,
        gc=settings.gc,
        schedule=settings.schedule,
        steps=settings.epochs * steps_per_epoch,
        milestones=tuple(epoch * steps_per_epoch for epoch in settings.milestones),
        warmup=settings.warmup_steps or settings.warmup_epochs * steps_per_epoch,
        warmup_from=settings.warmup_from,
        head=head,
    )


def make_tx(
    spec: OptimizerSpec,
    model: nnx.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    head_learning_rate: float | None = None,
) -> optax.GradientTransformation:
    """Makes the optimizer of a run: clipping, then centralization, then the optimizer by name.

    Args:
      spec: what `optimizer_spec` returned.
      model: the net, whose layers are inspected for the input axes of their kernels.
      learning_rate: the peak learning rate.
      weight_decay: the weight decay of every parameter.
      head_learning_rate: the peak learning rate of the layer `spec.head`.
    """
    gc = make_gc(spec.gc, model)

    # They are numbers in the state, so that one compiled step serves all rates and decays.
    @optax.inject_hyperparams
    def make(learning_rate, head_learning_rate, weight_decay):
        def at_rate(peak):
            return make_optimizer(
                spec.optimizer,
                schedule_of(spec, peak),
                momentum=spec.momentum,
                weight_decay=weight_decay,
                gc=gc,
            )

        if spec.head is None:
            tx = at_rate(learning_rate)
        else:
            tx = with_head_rate(at_rate, learning_rate, head_learning_rate, spec.head)
        if spec.clip_norm is None:
            return tx
        return optax.chain(optax.clip_by_global_norm(spec.clip_norm), tx)

    return make(learning_rate, head_learning_rate, weight_decay)


def schedule_of(spec: OptimizerSpec, peak: float) -> optax.Schedule:
    """Returns the learning rate by step, counted from 0, for a peak rate."""
    return make_schedule(
        spec.schedule,
        peak,
        steps=spec.steps,
        milestones=spec.milestones,
        warmup=spec.warmup,
        warmup_from=spec.warmup_from,
    )


def make_gc(gc: GC, model: nnx.Module) -> optax.GradientTransformation:
    """Makes the centralization of a net's gradients, over the input axes that its layers report.

    ``optax.centralize`` averages over other axes. It is a control, and not meant for training.
    """
    if gc == "off":
        return optax.identity()
    if gc == "optax.centralize":
        return optax.centralize()
    layers = _CONVOLUTIONS if gc == "conv" else None
    return centralize(nnx_kernel_axes(model, layers=layers))


def make_schedule(
    kind: Schedule,
    peak: float,
    *,
    steps: int,
    milestones: Sequence[int] = (),
    warmup: int = 0,
    warmup_from: float | None = None,
) -> optax.Schedule:
    """Makes a learning rate by step, counted from 0.

    Args:
      kind: "step" multiplies the rate by 0.1 at each milestone; "cosine" lowers it to 0 at the
        end; "constant" keeps it.
      peak: the rate after the warm-up.
      steps: the number of steps of the whole run, including the warm-up.
      milestones: the first steps at the lower rates, counted from the start of the run.
      warmup: the number of steps at the start over which the rate rises linearly.
      warmup_from: the fraction of the peak at step 0. The peak itself is then reached at step
        `warmup`. With None, step k has the fraction (k + 1) / warmup.

    Raises:
      ValueError: an unknown kind, a warm-up as long as the run, or a milestone during the warm-up.
    """
    if not 0 <= warmup < steps:
        raise ValueError(f"a warm-up of {warmup} steps does not fit into a run of {steps} steps")
    if kind == "constant":
        main = optax.constant_schedule(peak)
    elif kind == "cosine":
        main = optax.cosine_decay_schedule(peak, steps - warmup)
    elif kind == "step":
        if min(milestones, default=steps) <= warmup:
            raise ValueError(
                f"the milestones {tuple(milestones)} begin during the warm-up of {warmup} steps"
            )
        drops = {milestone - warmup: 0.1 for milestone in milestones}
        main = optax.piecewise_constant_schedule(peak, drops)
    else:
        raise ValueError(f"no schedule is called {kind!r}; there are {get_args(Schedule)}")
    if not warmup:
        return main
    if warmup_from is None:
        rise = optax.linear_schedule(peak / warmup, peak, max(1, warmup - 1))
    else:
        rise = optax.linear_schedule(peak * warmup_from, peak, warmup)
    return optax.join_schedules([rise, main], [warmup])


def make_optimizer(
    name: Optimizer,
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    gc: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Makes one of the five optimizers of the paper.

    Args:
      name: "sgd" and "sgdw" have momentum; the other three ignore it.
      learning_rate: a number or a schedule.
      momentum: the momentum; 0 for none.
      weight_decay: the decay of every parameter. It is coupled (L2) in sgd, adam and adagrad.
      gc: the centralization, as `make_gc` returns it.

    Raises:
      ValueError: an unknown name.
    """
    settings: dict[str, Any] = {"weight_decay": weight_decay, "gc": gc}
    if name in ("sgd", "sgdw"):
        return getattr(optax_gc, name)(learning_rate, momentum or None, **settings)
    if name in ("adam", "adamw"):
        return getattr(optax_gc, name)(learning_rate, **settings)
    if name == "adagrad":
        # The paper used PyTorch's Adagrad, which adds 1e-10 outside of the root.
        return optax_gc.adagrad(learning_rate, eps=1e-20, **settings)
    raise ValueError(f"no optimizer is called {name!r}; there are {get_args(Optimizer)}")


def with_head_rate(
    make: Callable[[float], optax.GradientTransformation],
    learning_rate: float,
    head_learning_rate: float,
    head: str,
) -> optax.GradientTransformation:
    """Makes an optimizer that trains the layer `head` at a learning rate of its own, for fine-tuning.

    Args:
      make: from a learning rate to the optimizer.
      learning_rate: the rate of all other parameters.
      head_learning_rate: the rate of the parameters whose path begins with `head`.
      head: the name of a layer at the top level of the net.
    """

    def labels(params):
        def label(path, _):
            first = path[0]
            return "head" if getattr(first, "key", getattr(first, "name", None)) == head else "body"

        return jax.tree_util.tree_map_with_path(label, params)

    return optax.partition({"body": make(learning_rate), "head": make(head_learning_rate)}, labels)
