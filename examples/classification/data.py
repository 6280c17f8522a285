"""The images of a classification run, and the batches that it is evaluated on."""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from examples import datasets
from examples.classification.config import Config
from examples.datasets import pipeline, transforms

# Evaluation images that take fewer bytes than this are made once and kept in memory.
_KEEP_BYTES = 2**28


class Data(NamedTuple):
    """The images that a run trains on and is evaluated on, with a transform for each."""

    train: datasets.Dataset
    test: datasets.Dataset
    train_transform: transforms.Transform
    test_transform: transforms.Transform


def load_data(config: Config, data_dir: Path | None, *, partial: bool = False) -> Data:
    """Finds the images of a run; the errors are those of `datasets.load`."""
    load = functools.partial(
        datasets.load,
        config.dataset,
        data_dir=data_dir,
        validation=config.validation,
        classes=config.classes,
        partial=partial,
    )
    test = load("validation" if config.validation else "test")
    train = load("train", limit=config.train_images, seed=config.seed)
    first = []
    if config.pad:
        first.append(functools.partial(transforms.pad, padding=config.pad))
    if config.pool > 1:
        first.append(functools.partial(transforms.mean_pool, factor=config.pool))
    recipe = (transforms.compose(*first, last) for last in transforms.recipe(config.dataset))
    return Data(train, test, *recipe)


def evaluation_batches(data: Data, batch_size: int, *, workers: int = 0) -> Iterable[Any]:
    """Makes the batches that a run is evaluated on, each time that it is.

    Returns:
      A list of the batches if they are small enough to keep, or else an iterable that makes them.
    """
    batches = pipeline.eval_batches(
        data.test,
        data.test_transform,
        batch_size=batch_size,
        workers=workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    image = data.test_transform(data.test.source[0]["image"], None)
    return list(batches) if image.nbytes * len(data.test) < _KEEP_BYTES else batches
