"""What is measured along a run for Figures 3 and 4 and for Proposition 4.2."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx

from examples.classifier import Data, Task, make_loss
from examples.datasets import pipeline
from examples.experiments.curvature import make_lipschitz
from examples.runs import Config
from examples.train_classifier import DivergedError
from examples.training import mesh as meshes
from examples.training.step import State
from optax_gc import centralize, conv_kernels
from optax_gc.diagnostics import neuron_means

# The two layers of Figure 4.
_LAYERS = ("conv1/kernel", "fc/kernel")
# Images whose loss Proposition 4.2 is measured on, how often along a run, and the iterations that a
# spectral norm may take.
_IMAGES = 100
_CHECKPOINTS = 6
_ITERATIONS = 50


def _states(config: Config, task: Task, data: Data) -> Iterator[tuple[State, Any]]:
    """Gives the state in front of each step and behind the last, with the metrics of the step before."""
    state, metrics = task.init(config), None
    stream = pipeline.train_batches(
        data.train,
        data.train_transform,
        batch_size=config.batch_size,
        seed=config.seed,
        epochs=config.epochs,
    )
    for batch in stream:
        yield state, metrics
        state, metrics = task.train_step(state, meshes.put_batch(batch, task.mesh))
        if not np.isfinite(metrics["loss"]):
            raise DivergedError(f"the loss is {metrics['loss']}")
    yield state, metrics


def start(config: Config, task: Task, data: Data) -> dict[str, Any]:
    """Gives log10 |mean| of every convolution's weight vectors at the start.

    Returns:
      "before": a list a layer, from the images to the head; "layers": their names.
    """
    del data
    before = _conv_means(task.init(config))
    return {"layers": list(before), "before": [*before.values()]}


def weights(config: Config, task: Task, data: Data) -> dict[str, Any]:
    """Gives what `start` gives, and the same behind the last step as "after"."""
    begin = start(config, task, data)
    *_, (last, _) = _states(config, task, data)
    return {**begin, "after": [*_conv_means(last).values()]}


def _conv_means(state: State) -> dict[str, list[float]]:
    means = neuron_means(state.params, mask=conv_kernels)
    # A mean of exactly 0 has no logarithm; float32 has no normal number below this.
    tiny = np.finfo(np.float32).tiny
    return {
        name: [round(float(x), 2) for x in np.log10(np.maximum(np.abs(mean), tiny))]
        for name, mean in means.items()  # in a ResNet's tree, from shallow to deep
    }


def gradients(config: Config, task: Task, data: Data) -> dict[str, Any]:
    """Gives the L2 norm and the largest value of two layers' gradients at each step, and the loss.

    Both before GC and after it, whether the run takes its steps with GC or not.
    """
    series: dict[str, list[float]] = {}
    for _, metrics in itertools.islice(_states(config, task, data), 1, None):
        metrics = jax.device_get(metrics)
        for layer, name in itertools.product(
            _LAYERS, ("norm_before", "norm_after", "max_before", "max_after")
        ):
            series.setdefault(f"{layer}/{name}", []).append(metrics[f"gc/{layer}/{name}"])
        series.setdefault("loss", []).append(metrics["loss"])
    return {name: [float(f"{value:.4g}") for value in values] for name, values in series.items()}


def curvature(config: Config, task: Task, data: Data) -> dict[str, Any]:
    """Gives both sides of Proposition 4.2 at some steps, for the loss of the first images.

    Returns:
      "step", and a list for each field of `curvature.Lipschitz`.
    """
    images = min(_IMAGES, len(data.train))
    batch = next(iter(pipeline.eval_batches(data.train, data.test_transform, batch_size=images)))
    loss_of_net = make_loss(config.label_smoothing)

    # In training mode: batch normalization takes the statistics of these images.
    def loss(params, rest):
        net = nnx.merge(task.graph, params, rest, copy=True)
        return loss_of_net(net, batch, jax.random.key(0))[0]

    lipschitz = make_lipschitz(loss, centralize(), iterations=_ITERATIONS)
    steps = task.steps_per_epoch * config.epochs
    wanted = np.unique(np.linspace(0, steps, _CHECKPOINTS).round()).astype(int).tolist()
    found: dict[str, list[Any]] = {"step": wanted}
    for number, (state, _) in enumerate(_states(config, task, data)):
        if number in wanted:
            sides = lipschitz(state.params, state.rest, key=jax.random.key(number))
            for name, value in sides._asdict().items():
                found.setdefault(name, []).append(value)
    return found


OBSERVERS: dict[str, Callable[[Config, Task, Data], dict[str, Any]]] = {
    "start": start,
    "weights": weights,
    "gradients": gradients,
    "curvature": curvature,
}
