"""The two splits of a detection run: the images that it trains on and those that it is evaluated on."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from examples.datasets.coco import Coco, load_coco
from examples.datasets.types import DatasetError
from examples.detection.config import Config
from examples.detection.data import Preparation, check_objects, choose_images
from examples.detection.scenes import write_scenes

# Where scenes are made without a --data-dir.
SCENES = Path("runs", "scenes")


class Data(NamedTuple):
    """The images that a run trains on and is evaluated on, by their places in two splits."""

    train: Coco
    train_rows: np.ndarray
    test: Coco
    test_rows: np.ndarray
    preparation: Preparation


def make_preparation(config: Config) -> Preparation:
    """Returns how the images of a run become arrays."""
    return Preparation(
        config.short_side,
        config.long_side,
        config.pixels,
        config.masks,
        config.mask_cells,
        config.max_objects,
    )


def load_data(config: Config, data_dir: Path | None) -> Data:
    """Finds the images of a run. Scenes are made if their folder does not exist.

    Raises:
      UserError: the data is missing or broken, or the splits have different classes.
    """
    if config.dataset == "scenes":
        data_dir = data_dir or SCENES
        try:
            if jax.process_index() == 0 and not data_dir.exists():
                write_scenes(data_dir)
        finally:
            # The other processes wait for the first one here, even if it fails.
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("scenes are made")
    train = load_coco(data_dir, config.train_split, masks=config.masks)
    test = load_coco(data_dir, config.eval_split, masks=config.masks)
    if (train.category_ids, train.class_names) != (test.category_ids, test.class_names):
        other = set(zip(train.category_ids, train.class_names, strict=True)) ^ set(
            zip(test.category_ids, test.class_names, strict=True)
        )
        first = ", ".join(f"{number} {name!r}" for number, name in sorted(other)[:4])
        raise DatasetError(
            f"{test.path} has other categories than {train.path}: {len(other)} are only in one of "
            f"the two, such as {first}"
        )
    preparation = make_preparation(config)
    train_rows = choose_images(train, empty=config.empty_images)[: config.train_images]
    check_objects(train, train_rows, preparation)
    test_rows = np.arange(len(test))[: config.eval_images]
    if not np.diff(test.first)[test_rows].any():
        raise DatasetError(
            f"{test.path}: none of the images that are evaluated has an object, so there is no score"
        )
    return Data(train, train_rows, test, test_rows, preparation)
