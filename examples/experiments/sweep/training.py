"""Trains all seeds of a point: one task, one arm and one learning rate."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import optax_gc
from examples.experiments.store import Record
from examples.experiments.sweep.arms import Arm, share_removed, with_arm
from examples.experiments.sweep.data import Splits
from examples.experiments.sweep.nets import CONVOLUTIONAL
from examples.experiments.sweep.tasks import Task

# Validation loss is measured this often along a run.
MEASURES = 10
# Training loss and accuracy at the end are those of at most this many training examples.
_TRAIN_EXAMPLES = 1000


class _Carry(NamedTuple):
    """The state that a step changes: parameters, statistics of normalization, and the optimizer's state."""

    params: Any
    statistics: Any
    optimizer: Any


class _Run(NamedTuple):
    """The inputs of a program, which differ between its runs.

    Attributes:
      key: the seed of the initial weights and of the random directions.
      rate: the learning rate.
      inputs: the training inputs.
      labels: the training labels.
      order: int32 (MEASURES, steps / MEASURES, batch), the examples of each step.
      held_out: for validation, training and test, the inputs and labels to evaluate at the end.
    """

    key: Any
    rate: Any
    inputs: Any
    labels: Any
    order: Any
    held_out: Any


class Point(NamedTuple):
    """A task, an arm and a learning rate, whose seeds are trained together."""

    task: Task
    arm: Arm
    rate: float


def train_point(point: Point, splits: Sequence[Splits], seeds: Sequence[int]) -> list[Record]:
    """Trains all seeds of a point.

    The seeds of an MLP are trained in one program, vectorized by `jax.vmap`. The other nets are
    trained one seed after the other, since on a CPU that takes no longer.

    Args:
      point: what is trained.
      splits: the examples of each seed.
      seeds: the seeds.

    Returns:
      For each seed, its accuracies in percent, its losses in nats, the validation accuracy of
      guessing (`guess_accuracy`), the validation losses along the run (`curve`), the share of
      gradient energy that GC removes at the start (`share_removed`), whether the run collapsed, and
      its seconds.
    """
    begin = time.perf_counter()
    runs = [_prepare(point, split, seed) for split, seed in zip(splits, seeds, strict=True)]
    shape, classes = splits[0].train.inputs.shape[1:], splits[0].classes
    program = _program(point.task, point.arm, shape, classes)
    if point.task.family == "mlp":
        together = jax.tree.map(lambda *leaves: np.stack(leaves), *runs)
        results = jax.device_get(program(together))
        rows = [jax.tree.map(lambda leaf, i=i: leaf[i], results) for i in range(len(runs))]
    else:
        rows = [jax.device_get(program(run)) for run in runs]
    seconds = (time.perf_counter() - begin) / len(runs)
    return [
        {**_record(row, split), "seconds": round(seconds, 2)}
        for row, split in zip(rows, splits, strict=True)
    ]


def count_steps(task: Task, examples: int) -> int:
    """Returns the number of steps of a run. An epoch's last examples that fill no batch are left out."""
    if task.steps is not None:
        return task.steps
    assert task.epochs is not None, "a task has epochs or steps"
    return task.epochs * (examples // task.batch_size)


def _prepare(point: Point, splits: Splits, seed: int) -> _Run:
    train = splits.train
    return _Run(
        np.asarray(jax.random.PRNGKey(seed)),
        np.float32(point.rate),
        *train,
        draw_order(point.task, len(train.labels), seed),
        (
            splits.validation,
            (train.inputs[:_TRAIN_EXAMPLES], train.labels[:_TRAIN_EXAMPLES]),
            splits.test,
        ),
    )


def draw_order(task: Task, examples: int, seed: int) -> np.ndarray:
    """Draws the examples of each step: every epoch is a new permutation.

    Returns:
      int32 (MEASURES, steps / MEASURES, batch).
    """
    batches, steps = examples // task.batch_size, count_steps(task, examples)
    # The second number keeps these draws apart from those of the splits.
    random = np.random.default_rng((seed, 1))
    epochs = [
        random.permutation(examples)[: batches * task.batch_size]
        for _ in range(-(-steps // batches))
    ]
    order = np.concatenate(epochs)[: steps * task.batch_size]
    return order.reshape(MEASURES, -1, task.batch_size).astype(np.int32)


def _record(row: dict[str, Any], splits: Splits) -> Record:
    """Rounds the numbers of a run. A collapsed run counts as guessing."""
    collapsed = not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(row))
    parts = {"validation": splits.validation, "train": splits.train, "test": splits.test}
    ends = {}
    for name, part in parts.items():
        accuracy, loss = splits.guess(part) if collapsed else map(float, row[name])
        ends |= {f"{name}_accuracy": accuracy, f"{name}_loss": loss}
    curve = np.where(np.isfinite(row["curve"]), row["curve"], np.log(splits.classes))
    return {
        **{name: float(f"{value:.6g}") for name, value in ends.items()},
        "guess_accuracy": float(f"{splits.guess(splits.validation)[0]:.6g}"),
        "curve": [float(f"{value:.5g}") for value in curve],
        "share_removed": float(f"{row['share_removed']:.4g}"),
        "collapsed": collapsed,
    }


@functools.lru_cache(maxsize=8)
def _program(task: Task, arm: Arm, shape: tuple[int, ...], classes: int) -> Callable[[_Run], Any]:
    """Returns the compiled training of a task and an arm, of one run, or of many for an MLP."""
    model = nnx.eval_shape(lambda: task.net(classes, shape, nnx.Rngs(0)))
    axes = optax_gc.nnx_kernel_axes(model)
    graph, shapes, _ = nnx.split(model, nnx.Param, ...)

    def optimizer(key: jax.Array, rate: jax.Array, steps: int) -> optax.GradientTransformation:
        schedule = optax.cosine_decay_schedule(rate, steps)
        return with_arm(arm, _OPTIMIZERS[task.optimizer](schedule), axes, shapes, key)

    def init(run: _Run) -> tuple[_Carry, jax.Array]:
        _, params, statistics = nnx.split(
            task.net(classes, shape, nnx.Rngs(params=jax.random.fold_in(run.key, 0))),
            nnx.Param,
            ...,
        )
        first = run.order[0, 0]
        gradient = jax.grad(_loss, has_aux=True)(
            params, graph, statistics, run.inputs[first], run.labels[first]
        )[0]
        state = optimizer(run.key, run.rate, 1).init(params)
        return _Carry(params, statistics, state), share_removed(gradient, axes)

    def step(carry: _Carry, batch: jax.Array, run: _Run) -> _Carry:
        gradient, statistics = jax.grad(_loss, has_aux=True)(
            carry.params, graph, carry.statistics, run.inputs[batch], run.labels[batch]
        )
        steps = run.order.shape[0] * run.order.shape[1]
        tx = optimizer(jax.random.fold_in(run.key, 1), run.rate, steps)
        updates, state = tx.update(gradient, carry.optimizer, carry.params)
        return _Carry(optax.apply_updates(carry.params, updates), statistics, state)

    def evaluate(carry: _Carry, part: tuple[jax.Array, jax.Array]) -> jax.Array:
        model = nnx.merge(graph, carry.params, carry.statistics, copy=True)
        model.eval()
        logits, labels = model(part[0]), part[1]
        loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return jnp.stack([100 * jnp.mean(logits.argmax(-1) == labels), loss])

    # XLA runs a convolution in a scan on a CPU about 18 times slower than one in a compiled step.
    if task.family in CONVOLUTIONAL:
        init, evaluate = jax.jit(init), jax.jit(evaluate)
        step = jax.jit(step, donate_argnums=0)
        scan = _scan_in_python
    else:
        scan = jax.lax.scan

    def train(run: _Run) -> dict[str, Any]:
        def steps(carry, batch):
            return step(carry, batch, run), None

        def measured(carry, batches):
            carry, _ = scan(steps, carry, batches)
            return carry, evaluate(carry, run.held_out[0])

        carry, share = init(run)
        carry, curve = scan(measured, carry, run.order)
        ends = {
            name: evaluate(carry, part)
            for name, part in zip(("validation", "train", "test"), run.held_out, strict=True)
        }
        return {"curve": curve[:, 1], "share_removed": share, **ends}

    if task.family in CONVOLUTIONAL:
        return lambda run: train(jax.device_put(run))
    return jax.jit(jax.vmap(train) if task.family == "mlp" else train)


def _scan_in_python(function: Callable, carry: Any, items: Any) -> tuple[Any, Any]:
    """Does what `jax.lax.scan` does, in a Python loop."""
    results = []
    for item in items:
        carry, result = function(carry, item)
        results.append(result)
    return carry, None if results[0] is None else jnp.stack(results)


def _loss(params, graph, statistics, inputs, labels):
    """Returns the mean loss of a batch, and the new statistics of normalization."""
    model = nnx.merge(graph, params, statistics, copy=True)
    loss = optax.losses.softmax_cross_entropy_with_integer_labels(model(inputs), labels).mean()
    return loss, nnx.split(model, nnx.Param, ...)[2]


def _muon(schedule: Callable) -> optax.GradientTransformation:
    """Muon for the kernels of the blocks, and Adam at a tenth of the rate for everything else."""

    def kernels(params):
        leaves, structure = jax.tree_util.tree_flatten_with_path(params)
        numbers = [
            optax.contrib.MuonDimensionNumbers()
            if "blocks" in jax.tree_util.keystr(path) and leaf.ndim == 2
            else None
            for path, leaf in leaves
        ]
        return jax.tree.unflatten(structure, numbers)

    return optax.contrib.muon(
        schedule,
        adam_learning_rate=lambda step: schedule(step) / 10,
        muon_weight_dimension_numbers=kernels,
    )


_OPTIMIZERS: dict[str, Callable[[Callable], optax.GradientTransformation]] = {
    "sgdm": lambda schedule: optax.sgd(schedule, momentum=0.9),
    "adam": optax.adam,
    "adamw": lambda schedule: optax.adamw(schedule, weight_decay=0.01),
    "lion": lambda schedule: optax.lion(schedule, weight_decay=0.0),
    "muon": _muon,
}
