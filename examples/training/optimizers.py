"""Optimizers and schedules by name, with the paper's settings for what a name leaves open."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import optax

import optax_gc
from optax_gc import centralize, conv_kernels

Optimizer = Literal["sgd", "sgdw", "adam", "adamw", "adagrad"]
Schedule = Literal["constant", "step", "cosine"]
GC = Literal["off", "conv", "conv+fc", "optax.centralize"]


def make_gc(gc: GC) -> optax.GradientTransformation:
    """Gives the centralization of a net whose kernels are dense ones and 2-D convolutions.

    ``optax.centralize`` averages over other axes: a control, not a setting to train with.
    """
    return {
        "off": optax.identity(),
        "conv": centralize(mask=conv_kernels),
        "conv+fc": centralize(),
        "optax.centralize": optax.centralize(),
    }[gc]


def make_schedule(
    kind: Schedule,
    peak: float,
    *,
    steps: int,
    milestones: Sequence[int] = (),
    warmup: int = 0,
) -> optax.Schedule:
    """Makes a learning rate by step, counted from 0.

    Args:
      kind: "step" multiplies the rate by 0.1 at each milestone; "cosine" takes it to 0 at the
        end; "constant" leaves it.
      peak: the rate after the warm-up.
      steps: of the whole run, the warm-up's included.
      milestones: the first steps at the lower rates, counted from the start of the run.
      warmup: steps in front, over which the rate rises linearly: step k has (k + 1) / warmup of it.

    Raises:
      ValueError: no such kind, a warm-up as long as the run, or a milestone inside of it.
    """
    if not 0 <= warmup < steps:
        raise ValueError(f"a warm-up of {warmup} steps leaves nothing of a run of {steps}")
    if kind == "constant":
        main = optax.constant_schedule(peak)
    elif kind == "cosine":
        main = optax.cosine_decay_schedule(peak, steps - warmup)
    elif kind == "step":
        if min(milestones, default=steps) <= warmup:
            raise ValueError(f"the milestones {tuple(milestones)} begin in the warm-up ({warmup})")
        drops = {milestone - warmup: 0.1 for milestone in milestones}
        main = optax.piecewise_constant_schedule(peak, drops)
    else:
        raise ValueError(f"no schedule is called {kind!r}; there are {get_args(Schedule)}")
    if not warmup:
        return main
    rise = optax.linear_schedule(peak / warmup, peak, max(1, warmup - 1))
    return optax.join_schedules([rise, main], [warmup])


def make_optimizer(
    name: Optimizer,
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    gc: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Makes one of the paper's five optimizers.

    Args:
      name: "sgd" and "sgdw" have momentum; the other three ignore it.
      learning_rate: a number or a schedule.
      momentum: 0 for none.
      weight_decay: of every parameter; coupled, as L2, in sgd, adam and adagrad.
      gc: what `make_gc` gives.

    Raises:
      ValueError: no such name.
    """
    settings: dict[str, Any] = {"weight_decay": weight_decay, "gc": gc}
    if name in ("sgd", "sgdw"):
        return getattr(optax_gc, name)(learning_rate, momentum or None, **settings)
    if name in ("adam", "adamw"):
        return getattr(optax_gc, name)(learning_rate, **settings)
    if name == "adagrad":
        # PyTorch's, which the paper ran, adds 1e-10 outside of the root.
        return optax_gc.adagrad(learning_rate, eps=1e-20, **settings)
    raise ValueError(f"no optimizer is called {name!r}; there are {get_args(Optimizer)}")


def with_head_rate(
    make: Callable[[float], optax.GradientTransformation],
    learning_rate: float,
    head_learning_rate: float,
    head: str,
) -> optax.GradientTransformation:
    """Trains the layer named `head` at a rate of its own, as fine-tuning does.

    Args:
      make: gives the optimizer for a learning rate.
      learning_rate: of all other parameters.
      head_learning_rate: of the parameters whose path begins with `head`.
      head: the name of a layer of the net itself.
    """

    def labels(params):
        def label(path, _):
            first = path[0]
            return "head" if getattr(first, "key", getattr(first, "name", None)) == head else "body"

        return jax.tree_util.tree_map_with_path(label, params)

    return optax.partition({"body": make(learning_rate), "head": make(head_learning_rate)}, labels)
