"""A detector that `examples.train_detector` trained, ready to be used on pictures."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from examples.classification.weights import put_variables
from examples.datasets.files import expect
from examples.detection.config import Config
from examples.detection.data import Preparation, prepare_image
from examples.detection.picture import Prepared
from examples.detection.rcnn import RCNN
from examples.detection.splits import make_preparation
from examples.detection.task import create_model
from examples.training.checkpoints import CheckpointError, read_variables
from examples.training.errors import UserError, describe
from examples.training.settings import from_json

# Its outputs are the classes, with the background.
_CLASSIFIER = "box_predictor/cls_score/bias"


class Trained(NamedTuple):
    """A detector of a run.

    Attributes:
      model: the detector, with the weights of the last checkpoint.
      names: the names of its classes, or None if the run is not finished.
      preparation: how its images were resized and normalized.
    """

    model: RCNN
    names: list[str] | None
    preparation: Preparation

    def prepare(self, picture: np.ndarray) -> Prepared:
        """Prepares a picture (h, w, 3), uint8 of red, green and blue, as for an evaluation."""
        image, size = prepare_image(picture, self.preparation)
        return Prepared(jnp.asarray(image)[None], size[None])


def read_run(folder: Path, *, score_threshold: float) -> Trained:
    """Reads the detector of a run from its folder.

    Args:
      folder: the folder of a run of `examples.train_detector`.
      score_threshold: detections have scores above this.

    Raises:
      UserError: the folder is not that of such a run, or a file in it is damaged.
    """
    try:
        config = from_json(Config, json.loads((folder / "config.json").read_text("utf-8")))
    except (AttributeError, OSError, TypeError, ValueError, UserError) as error:
        raise UserError(
            f"{folder / 'config.json'}: these are not the settings of a run of "
            f"examples.train_detector: {describe(error)}"
        ) from error
    variables = read_variables(folder)
    if _CLASSIFIER not in variables:
        raise CheckpointError(f"{folder}: the last checkpoint is not that of a detector")
    num_classes = variables[_CLASSIFIER].size
    model = nnx.eval_shape(lambda: create_model(config, num_classes, seed=0))
    put_variables(model, variables, folder)
    model.settings = dataclasses.replace(model.settings, score_threshold=score_threshold)
    names = _read_names(folder / "classes.csv", num_classes - 1)
    return Trained(model, names, make_preparation(config))


def _read_names(path: Path, number: int) -> list[str] | None:
    if not path.exists():
        return None
    with expect(path, f"a table with {number} classes"):
        names = [name for name, *_ in csv.reader(path.read_text("utf-8").splitlines())][1:]
        if len(names) != number:
            raise ValueError(f"it has {len(names)} of them")
    return names
