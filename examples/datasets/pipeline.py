"""From a data set to batches: shuffled, augmented, sharded by process, checkpointable.

Grain does the work. What is decided here: the order of its steps, which makes a batch depend on
the seed and its number in the stream alone, not on workers or processes.
"""

import functools
import multiprocessing
import os
import signal
import threading
from typing import Any

import grain
import numpy as np
from absl import flags

from examples.datasets.records import Dataset, Example
from examples.datasets.transforms import Transform

# Batches made ahead, by this process's thread or by each worker.
_BATCHES_AHEAD = 4


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

    Batch k is the same on any number of workers, and all processes together see the images of one
    process. An iterator has `get_state` and `set_state`, and goes into a checkpoint through
    `grain.checkpoint`: restored, it goes on with the same batches on any number of workers. Close
    an iterator that has workers (`iterator.close()`).

    Args:
      dataset: the images.
      transform: from one image and its generator to float32 (H, W, C).
      batch_size: images a step, of all processes together.
      seed: of order and augmentation, 0 to 2**32 - 1.
      epochs: passes over the data; None never ends.
      workers: processes that decode and augment; with 0 it is done by a thread of this one. A
        program with workers needs the guard `if __name__ == "__main__":`.
      process_index: which share of every batch this process takes.
      process_count: the number of shares; it divides `batch_size`.
      drop_remainder: leave out the last images of an epoch when they fill no batch.

    Returns:
      Batches {"image": float32 (N, H, W, C), "label": int32 (N,)} with
      N = batch_size / process_count.

    Raises:
      ValueError: sizes that do not fit together, or too few images for one batch.
    """
    _check(batch_size, workers, process_index, process_count)
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed {seed}: give 0 to 2**32 - 1")
    if epochs is not None and epochs < 1:
        raise ValueError(f"epochs {epochs}: give at least 1, or None for no end")
    if drop_remainder:
        images = len(dataset) // batch_size * batch_size
    elif process_count == 1:
        images = len(dataset)
    else:
        raise ValueError("drop_remainder=False would give processes batches of unlike sizes")
    if not images:
        raise ValueError(f"{len(dataset)} training images do not fill a batch of {batch_size}")
    batches = (
        grain.MapDataset.source(dataset.source)
        .seed(seed)  # mixed by a hash: Grain's shuffle alone would give seed 1 seed 0's next epoch
        .shuffle()
        .random_map(functools.partial(_train_example, transform))
        .slice(slice(images))
        .slice(slice(process_index, None, process_count))
        .batch(batch_size // process_count)
        .repeat(epochs)
    )
    return _Stream(batches, workers)


def eval_batches(
    dataset: Dataset,
    transform: Transform,
    *,
    batch_size: int,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.IterDataset:
    """Makes the batches of one pass in stored order, all of one size.

    The last batch is filled up with the first images again; "mask" is 1 on every image once and 0
    on these. All processes have the same number of batches. Arguments are those of `train_batches`;
    `transform` is called with None for a generator.

    Returns:
      Batches {"image": float32 (N, H, W, C), "label": int32 (N,), "mask": float32 (N,)} with
      N = batch_size / process_count.

    Raises:
      ValueError: sizes that do not fit together, or no image at all.
    """
    _check(batch_size, workers, process_index, process_count)
    if not len(dataset):
        raise ValueError("there are no images to evaluate on")
    padded = -(-len(dataset) // batch_size) * batch_size
    batches = (
        grain.MapDataset.range(padded)
        .map(functools.partial(_eval_example, dataset, transform))
        .slice(slice(process_index, None, process_count))
        .batch(batch_size // process_count)
    )
    return _Stream(batches, workers)


def _check(batch_size: int, workers: int, process_index: int, process_count: int) -> None:
    if workers < 0:
        raise ValueError(f"workers {workers}: give 0 or more")
    if batch_size < 1 or process_count < 1 or batch_size % process_count:
        raise ValueError(f"a batch of {batch_size} does not divide among {process_count} processes")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index} is not below {process_count}")


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


class _Stream(grain.IterDataset):
    """Batches in their order, made ahead of their use."""

    def __init__(self, batches: grain.MapDataset, workers: int):
        super().__init__()
        self._batches, self._workers = batches, workers

    def __iter__(self) -> grain.DatasetIterator:
        return _StreamIterator(self._batches, self._workers)


class _StreamIterator(grain.DatasetIterator):
    """An iterator whose state is the number of batches it gave.

    Grain's own state is a count for each worker. Restored with other workers than it was saved
    with, it goes on at a wrong place without an error.
    """

    def __init__(self, batches: grain.MapDataset, workers: int):
        super().__init__()
        self._batches, self._workers = batches, workers
        self._given = 0
        self._open = True
        self._source = None  # started late: to set the state of a new iterator costs nothing

    def __next__(self) -> dict[str, np.ndarray]:
        self.start_prefetch()
        assert self._source is not None
        batch = next(self._source)
        self._given += 1
        return batch

    def start_prefetch(self) -> None:
        if not self._open:
            raise ValueError("this iterator is closed")
        if self._source is None:
            left = self._batches.slice(slice(self._given, None))
            self._source = iter(_prefetch(left, self._workers))
            self._source.start_prefetch()

    def get_state(self) -> dict[str, int]:
        return {"batches": self._given}

    def set_state(self, state: dict[str, int]) -> None:
        self._stop()
        self._given = state["batches"]

    def close(self) -> None:
        self._open = False
        self._stop()
        super().close()

    def _stop(self) -> None:
        if self._source is not None:
            self._source.close()
            self._source = None


def _prefetch(batches: grain.MapDataset, workers: int) -> grain.IterDataset:
    # Batches are made before the stream is dealt to workers, so worker w makes whole batches
    # w, w + workers, ... and the stream is the same for any number of them.
    ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_BATCHES_AHEAD)
    stream = batches.to_iter_dataset(ahead)
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain asks for Abseil's flags, which nothing else uses
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(
            num_workers=workers, per_worker_buffer_size=_BATCHES_AHEAD
        )
        stream = stream.mp_prefetch(options, worker_init_fn=_live_with_parent)
    return stream


def _live_with_parent(index: int, count: int) -> None:
    """Ends this worker when its parent is gone, killed or not: no one is left to stop it."""
    del index, count
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("not a worker process")
    # Ctrl-C reaches every process of a terminal. The parent answers it, and stops its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch():
        parent.join()  # returns when the parent's end of a pipe closes, in whatever way it died
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
