"""From a data set of images and labels to batches: shuffled, augmented and split by process."""

import functools
from typing import Any

import grain
import numpy as np

from examples.datasets.transforms import Transform
from examples.datasets.types import Dataset, Example
from examples.training.stream import Stream, split_into_batches


def train_batches(
    dataset: Dataset,
    transform: Transform,
    *,
    batch_size: int,
    seed: int,
    epochs: int | None = None,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    drop_remainder: bool = True,
) -> grain.IterDataset:
    """Makes shuffled batches; every epoch has its own order and its own augmentation.

    Batch k depends only on the seed and on k: it is the same for any number of workers, and all
    processes together see the same images as one process would. See `stream.Stream` for how an
    iterator is saved, restored and closed.

    Args:
      dataset: the images and labels.
      transform: from an image and a random generator to float32 (H, W, C).
      batch_size: the number of images in a step, over all processes together.
      seed: the seed of order and augmentation, from 0 to 2**32 - 1.
      epochs: the number of passes over the data; None for no end.
      workers: the number of processes that decode and augment; with 0, a thread does it.
      process_index: the number of this process, which takes its share of every batch.
      process_count: the number of processes, a divisor of `batch_size`.
      drop_remainder: leave out the images at the end of an epoch that do not fill a batch.

    Returns:
      Batches {"image": float32 (N, H, W, C), "label": int32 (N,)} with
      N = batch_size / process_count.

    Raises:
      ValueError: numbers that do not fit together, or too few images for one batch.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed {seed}: it must be from 0 to 2**32 - 1")
    if epochs is not None and epochs < 1:
        raise ValueError(f"epochs {epochs}: it must be at least 1, or None for no end")
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size}: it must be at least 1")
    if drop_remainder:
        images = len(dataset) // batch_size * batch_size
    elif process_count == 1:
        images = len(dataset)
    else:
        raise ValueError("drop_remainder=False would make batches of different sizes by process")
    if not images:
        raise ValueError(f"{len(dataset)} training images do not fill a batch of {batch_size}")
    examples = (
        grain.MapDataset.source(dataset.source)
        # Grain hashes this seed. Without it, epoch 1 of seed 0 has the order of epoch 0 of seed 1.
        .seed(seed)
        .shuffle()
        .random_map(functools.partial(_train_example, transform))
        .slice(slice(images))
    )
    batches = split_into_batches(
        examples, batch_size=batch_size, process_index=process_index, process_count=process_count
    )
    return Stream(batches.repeat(epochs), workers)


def eval_batches(
    dataset: Dataset,
    transform: Transform,
    *,
    batch_size: int,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.IterDataset:
    """Makes the batches of one pass in stored order, all of the same size.

    The last batch is filled up with the first images. "mask" is 1 for each image once, and 0 for
    these repeated images. All processes have the same number of batches. The arguments are those of
    `train_batches`; `transform` gets None instead of a random generator.

    Returns:
      Batches {"image": float32 (N, H, W, C), "label": int32 (N,), "mask": float32 (N,)} with
      N = batch_size / process_count.

    Raises:
      ValueError: numbers that do not fit together, or no image at all.
    """
    if not len(dataset):
        raise ValueError("there are no images to evaluate on")
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size}: it must be at least 1")
    padded = -(-len(dataset) // batch_size) * batch_size
    examples = grain.MapDataset.range(padded).map(
        functools.partial(_eval_example, dataset, transform)
    )
    batches = split_into_batches(
        examples, batch_size=batch_size, process_index=process_index, process_count=process_count
    )
    return Stream(batches, workers)


def _train_example(
    transform: Transform, example: Example, rng: np.random.Generator
) -> dict[str, Any]:
    return {"image": transform(example["image"], rng), "label": np.int32(example["label"])}


def _eval_example(dataset: Dataset, transform: Transform, index: int) -> dict[str, Any]:
    example = dataset.source[index % len(dataset)]
    return {
        "image": transform(example["image"], None),
        "label": np.int32(example["label"]),
        "mask": np.float32(index < len(dataset)),
    }
