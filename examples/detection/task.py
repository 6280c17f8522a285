"""From the settings of a detection run to the job that the training loop makes."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from examples import detection
from examples.classification.weights import read_weights
from examples.detection import data as pipeline
from examples.detection.config import Config
from examples.detection.evaluation import Scorer, Scores
from examples.detection.pretrained import load_backbone
from examples.detection.rcnn import RCNN
from examples.detection.splits import Data, load_data
from examples.models.pretrained import WeightsError, read_file
from examples.training import optimizers, sharding, steps
from examples.training.checkpoints import CheckpointError
from examples.training.compiled import Steps, compile_net
from examples.training.evaluation import evaluate_batches
from examples.training.loop import Job
from examples.training.memory import require_memory
from examples.training.optimizers import OptimizerSpec, optimizer_spec

# How the progress bar writes the metrics, and the titles of their curves.
_PROGRESS = {"loss": "loss {:.3f}", "loss_mask": "masks {:.3f}"}
TITLES = {"loss": "loss", "box_AP": "box AP", "mask_AP": "mask AP"}
# The settings that only the data depend on, with any values.
_DATA: Mapping[str, Any] = {
    "dataset": "coco",
    "train_split": "train",
    "eval_split": "train",
    "train_images": None,
    "eval_images": None,
    "empty_images": False,
    "pixels": "rgb",
    "short_side": 1,
    "long_side": 1,
    "max_objects": 1,
    "mask_cells": 1,
}
_RULES = {"mmdetection": detection.MMDETECTION_1, "torchvision": detection.TORCHVISION}


class Task(NamedTuple):
    """A detection run that is ready to be made.

    Attributes:
      scores: returns the scores of the last evaluation, or None before the first.
    """

    config: Config
    data: Data
    steps: Steps
    job: Job
    scores: Callable[[], Scores | None]

    @property
    def guess(self) -> dict[str, float]:
        """The metrics of a detector that finds nothing. A run that diverged counts as that."""
        return {f"test_{kind}_AP": 0.0 for kind in ("box", "mask")[: 1 + self.config.masks]}


class Trainer:
    """Prepares detection runs. It keeps the data and the compiled steps, which later runs can share."""

    config_type = Config

    def __init__(
        self,
        mesh: Mesh,
        *,
        data_dir: Path | None = None,
        workers: int = 0,
    ):
        self._mesh, self._data_dir, self._workers = mesh, data_dir, workers
        self._steps: dict[Any, Steps] = {}
        self._data: dict[Any, Data] = {}

    def prepare(self, config: Config, *, diagnose: bool = False) -> Task:
        """Loads the data of a run, builds its net and steps, and tries whether they fit together.

        Args:
          config: the settings of the run.
          diagnose: report what centralization takes from the gradients of each step.

        Raises:
          UserError: the data, the weights and the settings do not fit together.
        """
        what = (config.masks, *(getattr(config, name) for name in _DATA))
        if what not in self._data:
            self._data[what] = load_data(config, self._data_dir)
        data = self._data[what]
        plan = pipeline.Plan(
            data.train,
            data.train_rows,
            data.preparation,
            config.batch_size,
            config.seed,
            mirror=config.mirror,
        )
        check_settings(config, plan.steps_per_epoch, self._mesh)
        shapes = batch_shapes(config, data)
        classes = len(data.train.category_ids) + 1
        load = None
        if config.pretrained is not None:
            # Before anything is compiled, because wrong weights are found in a moment.
            load = read_backbone(config)
            load(nnx.eval_shape(lambda: create_model(config, classes, 0)))
        spec = optimizer_spec(config, steps_per_epoch=plan.steps_per_epoch)
        # The steps get this key only, so runs with equal keys can share their compiled steps.
        key = (net_settings(config), spec, classes, diagnose)
        if key not in self._steps:
            self._steps[key] = compile_steps(*key, self._mesh)
        compiled = self._steps[key]
        trace_steps(compiled, *shapes, self._mesh)
        return make_task(config, data, compiled, plan, self._mesh, load, self._workers)


def net_settings(config: Config) -> Config:
    """Returns the settings without those that are numbers in the state, or are of the data only."""
    numbers: dict[str, Any] = {
        "seed": 0,
        "learning_rate": 1.0,
        "weight_decay": 0.0,
        "pretrained": None,
        "evaluate_every": 1,
    }
    return dataclasses.replace(config, **numbers, **_DATA)


def check_settings(config: Config, steps_per_epoch: int, mesh: Mesh) -> None:
    """Checks what the data and the devices decide.

    Raises:
      SettingError: the batch does not divide among the devices, the warm-up is too long, or
        frozen layers have no pretrained weights.
    """
    config.check_steps(steps_per_epoch, mesh.size)
    frozen = config.norm == "frozen_bn" or config.frozen_stages is not None
    config.require(
        not frozen or config.pretrained is not None,
        "pretrained",
        "layers that are frozen need weights: pass a file, or --norm gn --frozen-stages None",
    )


def scale_learning_rate(config: Config, base: Config) -> str | None:
    """Returns an advice if the batch is not that of a preset but the learning rate is."""
    same_rate = config.learning_rate == base.learning_rate
    if config.batch_size == base.batch_size or not same_rate:
        return None
    rate = base.learning_rate * config.batch_size / base.batch_size
    return (
        f"--learning-rate {config.learning_rate} is for batches of {base.batch_size}. By the linear "
        f"rule, batches of {config.batch_size} take --learning-rate {rate:g}"
    )


def compile_steps(
    config: Config, spec: OptimizerSpec, num_classes: int, diagnose: bool, mesh: Mesh
) -> Steps:
    """Builds the net, the optimizer and the steps. The first step compiles them.

    Args:
      config: the settings. Only those of the net are used.
      spec: what the compiled update depends on.
      num_classes: the number of classes, with the background.
      diagnose: report what centralization takes from the gradients.
      mesh: the devices.
    """

    def make_model(seed: int, load: Callable[[RCNN], None] | None = None) -> RCNN:
        model = create_model(config, num_classes, seed)
        if load is not None:
            load(model)
        if config.frozen_stages is not None:
            detection.freeze(model.backbone, config.frozen_stages)
        return model

    return compile_net(
        make_model,
        spec,
        mesh,
        loss=lambda model, batch, key: model.losses(batch, key),
        evaluate=find_objects,
        diagnose=diagnose,
    )


def create_model(config: Config, num_classes: int, seed: int) -> RCNN:
    """Makes the detector of a run, before weights are loaded and layers are frozen."""
    rules = dataclasses.replace(
        _RULES[config.rules],
        anchor_samples=config.anchor_samples,
        roi_samples=config.roi_samples,
        aligned=config.aligned,
    )
    proposals = (config.proposals, config.proposals // 2)
    return detection.create(
        config.backbone,
        num_classes=num_classes,
        norm=config.norm,
        weight_standardization=config.weight_standardization,
        box_head=config.box_head,
        masks=config.masks,
        fpn_channels=config.fpn_channels,
        fc_units=config.fc_units,
        anchor_scale=config.anchor_scale,
        pre_nms=proposals,
        post_nms=proposals,
        detections=config.detections,
        width=config.width,
        settings=rules,
        dtype=jnp.bfloat16 if config.dtype == "bfloat16" else None,
        rngs=nnx.Rngs(seed),
    )


def batch_shapes(config: Config, data: Data) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the shapes and dtypes in the training and in the evaluation batches of one bucket.

    Raises:
      SettingError: the batches do not fit into the memory.
    """
    preparation, size = data.preparation, config.batch_size
    places, cells = preparation.max_objects, preparation.mask_cells
    bucket = preparation.buckets[preparation.bucket(data.train.sizes[data.train_rows[0]])]
    image = {"image": ((size, *bucket, 3), np.float32), "size": ((size, 2), np.int32)}
    batch = image | {
        "boxes": ((size, places, 4), np.float32),
        "labels": ((size, places), np.int32),
        "valid": ((size, places), np.bool_),
    }
    if config.masks:
        batch |= {
            "masks": ((size, places, cells, cells), np.float16),
            "mask_frames": ((size, places, 4), np.float32),
        }
    # Some batches are made ahead.
    total = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in batch.values())
    require_memory(6 * total, "--batch-size, --short-side and --max-objects: the batches")
    return batch, image | {"row": ((size,), np.int32), "counts": ((size,), np.bool_)}


def trace_steps(
    compiled: Steps, batch: Mapping[str, Any], tested: Mapping[str, Any], mesh: Mesh
) -> None:
    """Traces both steps, without running them.

    What is traced here is kept, so the first step on the same bucket is not traced again.

    Raises:
      UserError: a batch is too large.
    """
    compiled.train_step.eval_shape(compiled.state, sharding.abstract_batch(batch, mesh))
    compiled.eval_step.eval_shape(compiled.state, sharding.abstract_batch(tested, mesh))


def find_objects(model: RCNN, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Finds the objects of a batch, and returns them with what says which images these are."""
    found = model.detect(batch["image"], batch["size"])
    return {
        **found._asdict(),
        "size": batch["size"],
        "row": batch["row"],
        "counts": batch["counts"],
    }


def read_backbone(config: Config) -> Callable[[RCNN], None]:
    """Reads the weights that a run starts from, and returns what puts them into a backbone.

    They are a .safetensors or .pth file in PyTorch's layout, or the folder of a classifier's run.

    Raises:
      UserError: they cannot be read. The returned function raises it if they are those of another
        net.
    """
    path = Path(config.pretrained or "")
    load_net = read_weights(path) if path.is_dir() else None
    state = {} if load_net else read_file(path)

    def load(model: RCNN) -> None:
        try:
            if load_net:
                load_net(model.backbone)
            else:
                load_backbone(model, state)
        except (CheckpointError, WeightsError) as error:
            raise WeightsError(
                f"--pretrained {path}: {error}. The run needs weights of a classifier that is a "
                f"{config.backbone} of width {config.width} with the normalization {config.norm}"
            ) from error

    return load


def make_task(
    config: Config,
    data: Data,
    compiled: Steps,
    plan: pipeline.Plan,
    mesh: Mesh,
    load: Callable[[RCNN], None] | None,
    workers: int = 0,
) -> Task:
    """Joins data and compiled steps to a run.

    Args:
      config: the settings of the run.
      data: its images.
      compiled: its steps.
      plan: which images are in which batch.
      mesh: the devices.
      load: puts the weights that the run starts from into its net.
      workers: the number of processes that make batches; with 0, a thread does it.
    """
    tx = compiled.make_tx(learning_rate=config.learning_rate, weight_decay=config.weight_decay)

    def init():
        model = compiled.make_model(config.seed, load)
        state = steps.init_state(model, tx, jax.random.key(config.seed))
        return sharding.put_state(state, compiled.shardings)

    share: dict[str, Any] = {
        "workers": workers,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }
    scorer = Scorer(data.test, data.test_rows, masks=config.masks, aligned=config.aligned)
    last: list[Scores] = []

    tested = pipeline.evaluation_batches(
        data.test, data.test_rows, data.preparation, batch_size=config.batch_size, **share
    )

    def evaluate(state):
        # Every process has the detections of all images, so each computes the same scores.
        last[:] = [scorer.score(evaluate_batches(compiled.eval_step, state, tested, mesh))]
        return last[0].metrics

    spec = optimizer_spec(config, steps_per_epoch=plan.steps_per_epoch)
    job = Job(
        epochs=config.epochs,
        steps_per_epoch=plan.steps_per_epoch,
        evaluate_every=config.evaluate_every,
        examples_per_step=config.batch_size,
        learning_rate=optimizers.schedule_of(spec, config.learning_rate),
        mesh=mesh,
        init=init,
        train_step=compiled.train_step,
        evaluate=evaluate,
        batches=pipeline.train_batches(plan, epochs=config.epochs, **share),
        progress=_PROGRESS if config.masks else {"loss": _PROGRESS["loss"]},
        data={
            "training": data.train.digest(data.train_rows),
            "evaluation": data.test.digest(data.test_rows),
        },
    )
    return Task(config, data, compiled, job, lambda: last[0] if last else None)
