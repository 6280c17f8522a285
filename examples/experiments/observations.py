"""Measurements along a run, for Figures 3 and 4 and for Proposition 4.2."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx

from examples.classification.task import Task, make_loss
from examples.datasets import pipeline
from examples.experiments.curvature import make_lipschitz
from examples.training.errors import DivergedError
from examples.training.sharding import put_batch
from examples.training.steps import State
from optax_gc import centralize, conv_kernels
from optax_gc.diagnostics import neuron_means

# The two layers of Figure 4.
_LAYERS = ("conv1/kernel", "fc/kernel")
# For Proposition 4.2: the number of images whose loss is measured, the number of measurements along
# a run, and the iterations that a spectral norm may take.
_IMAGES = 100
_CHECKPOINTS = 6
_ITERATIONS = 50


def _states(task: Task) -> Iterator[tuple[State, Any]]:
    """Yields the state before each step and after the last, with the previous step's metrics."""
    job = task.job
    state, metrics = job.init(), None
    with contextlib.closing(iter(job.batches)) as batches:
        for batch in itertools.islice(batches, job.steps):
            yield state, metrics
            state, metrics = job.train_step(state, put_batch(batch, job.mesh))
            if not np.isfinite(metrics["loss"]):
                raise DivergedError(f"the loss is {metrics['loss']}")
    yield state, metrics


def start(task: Task) -> dict[str, Any]:
    """Measures log10 |mean| of the weight vectors of every convolution at the start (Figure 3).

    Returns:
      "before", a list for each layer, from the images to the head, and "layers", their names.
    """
    before = _conv_means(task.job.init())
    return {"layers": list(before), "before": [*before.values()]}


def weights(task: Task) -> dict[str, Any]:
    """Measures what `start` measures, and the same after the last step, as "after"."""
    begin = start(task)
    *_, (last, _) = _states(task)
    return {**begin, "after": [*_conv_means(last).values()]}


def _conv_means(state: State) -> dict[str, list[float]]:
    means = neuron_means(state.params, mask=conv_kernels)
    # A mean of exactly 0 has no logarithm. This is the smallest normal number of float32.
    tiny = np.finfo(np.float32).tiny
    return {
        name: [round(float(x), 2) for x in np.log10(np.maximum(np.abs(mean), tiny))]
        for name, mean in means.items()  # because the tree of a ResNet is ordered from shallow to deep
    }


def gradients(task: Task) -> dict[str, Any]:
    """Measures two layers' gradients and the loss at each step (Figure 4).

    For each gradient these are the L2 norm and the largest absolute value, before GC and after it,
    whether the run itself uses GC or not.
    """
    series: dict[str, list[float]] = {}
    for _, metrics in itertools.islice(_states(task), 1, None):
        metrics = jax.device_get(metrics)
        for layer, name in itertools.product(
            _LAYERS, ("norm_before", "norm_after", "max_before", "max_after")
        ):
            series.setdefault(f"{layer}/{name}", []).append(metrics[f"gc/{layer}/{name}"])
        series.setdefault("loss", []).append(metrics["loss"])
    return {name: [float(f"{value:.4g}") for value in values] for name, values in series.items()}


def curvature(task: Task) -> dict[str, Any]:
    """Measures both sides of Proposition 4.2 at some steps, for the loss of the first images.

    Returns:
      "step", and a list for each field of `curvature.Lipschitz`.
    """
    config, data = task.config, task.data
    images = min(_IMAGES, len(data.train))
    batch = next(iter(pipeline.eval_batches(data.train, data.test_transform, batch_size=images)))
    loss_of_net = make_loss(config.label_smoothing)

    # In training mode, batch normalization uses the statistics of these images.
    def loss(params, rest):
        net = nnx.merge(task.steps.graph, params, rest, copy=True)
        return loss_of_net(net, batch, jax.random.key(0))[0]

    lipschitz = make_lipschitz(loss, centralize(), iterations=_ITERATIONS)
    wanted = np.unique(np.linspace(0, task.job.steps, _CHECKPOINTS).round()).astype(int).tolist()
    found: dict[str, list[Any]] = {"step": wanted}
    for number, (state, _) in enumerate(_states(task)):
        if number in wanted:
            sides = lipschitz(state.params, state.rest, key=jax.random.key(number))
            for name, value in sides._asdict().items():
                found.setdefault(name, []).append(value)
    return found


OBSERVERS: dict[str, Callable[[Task], dict[str, Any]]] = {
    "start": start,
    "weights": weights,
    "gradients": gradients,
    "curvature": curvature,
}
