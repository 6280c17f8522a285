"""From the settings of a classification run to the job that the training loop makes."""

from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from examples import models
from examples.classification.config import Config
from examples.classification.data import Data, evaluation_batches, load_data
from examples.classification.weights import HEAD, read_weights
from examples.datasets import pipeline
from examples.training import optimizers, sharding, steps
from examples.training.compiled import Steps, compile_net
from examples.training.evaluation import evaluate_batches
from examples.training.loop import Job
from examples.training.memory import require_memory
from examples.training.optimizers import OptimizerSpec, optimizer_spec

# How the progress bar writes the metrics, and the titles of their curves.
_PROGRESS = {"loss": "loss {:.4f}", "accuracy": "accuracy {:.1f} %"}
TITLES = {"loss": "loss", "accuracy": "accuracy, %"}


class StepSpec(NamedTuple):
    """Everything that the compiled steps of a run depend on, and nothing else.

    `compile_steps` gets only this, so two runs with equal specs can share their compiled steps.
    Seeds, learning rates, weight decay and pretrained weights are numbers in the state.
    """

    model: str
    stem: models.Stem
    norm: Literal["bn", "gn"]
    groups: int | None
    weight_standardization: bool
    width: int | None
    dtype: str
    num_classes: int
    in_channels: int
    label_smoothing: float
    optimizer: OptimizerSpec
    diagnose: bool
    mesh: Mesh


class Task(NamedTuple):
    """A classification run that is ready to be made."""

    config: Config
    data: Data
    steps: Steps
    job: Job

    @property
    def guess(self) -> dict[str, float]:
        """The metrics of guessing. A run that diverged counts as that."""
        accuracy = 100 / self.data.train.num_classes
        return {"test_accuracy": accuracy, "train_accuracy": accuracy}


class Trainer:
    """Prepares classification runs. It keeps what later runs can share with earlier ones.

    These are the compiled steps, and the batches that runs are evaluated on.
    """

    config_type = Config

    def __init__(
        self,
        mesh: Mesh,
        *,
        data_dir: Path | None = None,
        partial: bool = False,
        workers: int = 0,
    ):
        self._mesh, self._data_dir, self._partial, self._workers = mesh, data_dir, partial, workers
        self._steps: dict[StepSpec, Steps] = {}
        self._evaluation: dict[Hashable, Iterable[Any]] = {}

    def prepare(self, config: Config, *, diagnose: bool = False) -> Task:
        """Loads the data of a run, builds its net and steps, and tries whether they fit together.

        Args:
          config: the settings of the run.
          diagnose: report what centralization takes from the gradients of each step.

        Raises:
          UserError: the data, the weights and the settings do not fit together.
        """
        data = load_data(config, self._data_dir, partial=self._partial)
        spec = step_spec(config, data, self._mesh, diagnose=diagnose)
        if spec not in self._steps:
            self._steps[spec] = compile_steps(spec)
        check_shapes(config, data, self._steps[spec], self._mesh)
        test = data.test
        images = (test.name, test.split, len(test), config.validation, config.classes)
        what = (*images, config.pad, config.pool, config.batch_size)
        if what not in self._evaluation:
            self._evaluation[what] = evaluation_batches(
                data, config.batch_size, workers=self._workers
            )
        job = make_job(
            config, data, self._steps[spec], self._evaluation[what], self._mesh, self._workers
        )
        return Task(config, data, self._steps[spec], job)


def step_spec(config: Config, data: Data, mesh: Mesh, *, diagnose: bool = False) -> StepSpec:
    """Returns what the compiled steps of a run depend on.

    Raises:
      SettingError: a batch that does not divide among the devices, or that is larger than the data
        set, a learning rate of the last layer without pretrained weights, or a net without this
        stem.
    """
    steps_per_epoch = _steps_per_epoch(config, data)
    config.require(
        steps_per_epoch > 0, "batch_size", f"there are only {len(data.train)} training images"
    )
    config.check_steps(steps_per_epoch, mesh.size)
    config.require(
        config.head_learning_rate is None or bool(config.pretrained),
        "head_learning_rate",
        "a learning rate of the last layer is for fine-tuning: pass --pretrained FILE too",
    )
    config.require(
        config.stem in models.forms(config.model),
        "stem",
        f"{config.model} has only the form {' and '.join(models.forms(config.model))}",
    )
    head = None if config.head_learning_rate is None else HEAD
    return StepSpec(
        model=config.model,
        stem=config.stem,
        norm=config.norm,
        groups=config.groups,
        weight_standardization=config.weight_standardization,
        width=config.width,
        dtype=config.dtype,
        num_classes=data.train.num_classes,
        in_channels=data.train.image_shape[2] if data.train.image_shape else 3,
        label_smoothing=config.label_smoothing,
        optimizer=optimizer_spec(config, steps_per_epoch=steps_per_epoch, head=head),
        diagnose=diagnose,
        mesh=mesh,
    )


def compile_steps(spec: StepSpec) -> Steps:
    """Builds the net, the optimizer and the steps of a spec. The first step compiles them."""

    def make_model(seed):
        return models.create(
            spec.model,
            num_classes=spec.num_classes,
            stem=spec.stem,
            norm=spec.norm,
            groups=spec.groups,
            weight_standardization=spec.weight_standardization,
            width=spec.width,
            in_channels=spec.in_channels,
            dtype=jnp.bfloat16 if spec.dtype == "bfloat16" else None,
            rngs=nnx.Rngs(seed),
        )

    return compile_net(
        make_model,
        spec.optimizer,
        spec.mesh,
        loss=make_loss(spec.label_smoothing),
        evaluate=sum_metrics,
        diagnose=spec.diagnose,
        flag=f"--width {spec.width}: " if spec.width else "",
    )


def check_shapes(config: Config, data: Data, compiled: Steps, mesh: Mesh) -> None:
    """Traces both steps for the images that the transforms make, without running them.

    What is traced here is kept, so the first step of the run is not traced again.

    Raises:
      UserError: the transforms or the net cannot take these images, or a batch is too large.
    """
    image = data.train_transform(data.train.source[0]["image"], np.random.default_rng(0))
    tested = data.test_transform(data.test.source[0]["image"], None)
    size = config.batch_size
    # Some batches are made ahead.
    require_memory(
        6 * size * max(image.nbytes, tested.nbytes), "--batch-size and --pad: the images"
    )
    batch = {"image": ((size, *image.shape), image.dtype), "label": ((size,), np.int32)}
    jax.eval_shape(compiled.train_step, compiled.state, sharding.abstract_batch(batch, mesh))
    batch |= {"image": ((size, *tested.shape), tested.dtype), "mask": ((size,), np.float32)}
    jax.eval_shape(compiled.eval_step, compiled.state, sharding.abstract_batch(batch, mesh))


def make_job(
    config: Config,
    data: Data,
    compiled: Steps,
    evaluation: Iterable[Any],
    mesh: Mesh,
    workers: int = 0,
) -> Job:
    """Joins data and compiled steps to the job of a run.

    Args:
      config: the settings of the run.
      data: the images of the run.
      compiled: the steps of the run's `step_spec`.
      evaluation: the batches that the run is evaluated on.
      mesh: the devices.
      workers: the number of processes that make training batches.

    Raises:
      UserError: the pretrained weights are those of another net.
    """
    load = read_weights(Path(config.pretrained)) if config.pretrained else None
    if load:
        load(compiled.make_model(0))  # so that wrong weights are found now, and not after the start
    tx = compiled.make_tx(
        learning_rate=config.learning_rate,
        head_learning_rate=config.head_learning_rate,
        weight_decay=config.weight_decay,
    )

    def init():
        model = compiled.make_model(config.seed)
        if load:
            load(model)
        state = steps.init_state(model, tx, jax.random.key(config.seed))
        return sharding.put_state(state, compiled.shardings)

    steps_per_epoch = _steps_per_epoch(config, data)
    spec = optimizer_spec(config, steps_per_epoch=steps_per_epoch)
    return Job(
        epochs=config.epochs,
        steps_per_epoch=steps_per_epoch,
        evaluate_every=config.evaluate_every,
        examples_per_step=config.batch_size,
        learning_rate=optimizers.schedule_of(spec, config.learning_rate),
        mesh=mesh,
        init=init,
        train_step=compiled.train_step,
        evaluate=lambda state: evaluate(compiled.eval_step, state, evaluation, mesh),
        batches=pipeline.train_batches(
            data.train,
            data.train_transform,
            batch_size=config.batch_size,
            seed=config.seed,
            workers=workers,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        ),
        progress=_PROGRESS,
        data={"training": data.train.source.digest(), "evaluation": data.test.source.digest()},
    )


def _steps_per_epoch(config: Config, data: Data) -> int:
    return len(data.train) // config.batch_size


def make_loss(label_smoothing: float) -> steps.Loss:
    """Makes the mean cross entropy of a batch, with the accuracy in %."""

    def loss(model, batch, key):
        del key
        logits = model(batch["image"]).astype(jnp.float32)
        labels = jax.nn.one_hot(batch["label"], logits.shape[-1])
        losses = optax.softmax_cross_entropy(logits, optax.smooth_labels(labels, label_smoothing))
        return losses.mean(), {"accuracy": 100 * (logits.argmax(-1) == batch["label"]).mean()}

    return loss


def sum_metrics(model: Any, batch: Any) -> dict[str, jax.Array]:
    """Sums the cross entropy, the accuracy in % and the count of the images that the mask keeps."""
    logits = model(batch["image"]).astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    correct = 100.0 * (logits.argmax(-1) == batch["label"])
    mask = batch["mask"]
    return {"loss": mask @ losses, "accuracy": mask @ correct, "images": mask.sum()}


def evaluate(
    eval_step: Callable[[steps.State, Any], Any],
    state: steps.State,
    batches: Iterable[Any],
    mesh: Mesh,
) -> dict[str, float]:
    """Returns the mean loss and accuracy over all images of one pass over the batches."""
    totals = {"loss": 0.0, "accuracy": 0.0, "images": 0.0}
    for sums in evaluate_batches(eval_step, state, batches, mesh):
        for name, value in sums.items():
            totals[name] += float(value)
    images = totals.pop("images")
    return {name: value / images for name, value in totals.items()}
