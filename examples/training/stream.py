"""Batches in a fixed order, made ahead of their use, that can continue from any batch.

Grain reads the examples and makes the batches. This module keeps the place in the data as one number,
which is the number of batches taken. It does not depend on the number of worker processes, so a run
can continue with another number of them.
"""

import multiprocessing
import os
import signal
import threading
from typing import Any

import grain
from absl import flags

from examples.training.errors import StoppedError

# The number of batches made ahead, by the thread of this process or by each worker.
_BATCHES_AHEAD = 4


def split_into_batches(
    examples: grain.MapDataset, *, batch_size: int, process_index: int = 0, process_count: int = 1
) -> grain.MapDataset:
    """Returns the batches of one of several processes; together they hold every example once.

    Args:
      examples: the examples in their order. Their number must be a multiple of `process_count`.
      batch_size: the number of examples in a step, over all processes together.
      process_index: the number of this process.
      process_count: the number of processes, a divisor of `batch_size`.

    Raises:
      ValueError: numbers that do not fit together.
    """
    if batch_size < 1 or process_count < 1 or batch_size % process_count:
        raise ValueError(f"a batch of {batch_size} does not divide among {process_count} processes")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index} is not below {process_count}")
    return examples.slice(slice(process_index, None, process_count)).batch(
        batch_size // process_count
    )


class Stream(grain.IterDataset):
    """An iterable over batches, which a thread or worker processes make ahead.

    Its iterators have `get_state` and `set_state`, and go into a checkpoint through
    `grain.checkpoint`. Close an iterator that has workers with `iterator.close()`.
    """

    def __init__(self, batches: grain.MapDataset, workers: int = 0):
        """Makes the stream.

        Args:
          batches: the batches in their order. Batch k must depend only on k.
          workers: the number of processes that make batches; with 0, a thread of this process makes
            them. A program with workers needs the guard `if __name__ == "__main__":`.

        Raises:
          ValueError: `workers` is negative.
        """
        if workers < 0:
            raise ValueError(f"workers {workers}: it must be 0 or more")
        super().__init__()
        self._batches, self._workers = batches, workers

    def __iter__(self) -> grain.DatasetIterator:
        return _StreamIterator(self._batches, self._workers)


class _StreamIterator(grain.DatasetIterator):
    """An iterator whose state is the number of batches that were taken from it.

    The state of Grain's own iterator is a count for each worker. Restored with another number of
    workers, it continues at a wrong place without an error.
    """

    def __init__(self, batches: grain.MapDataset, workers: int):
        super().__init__()
        self._batches, self._workers = batches, workers
        self._taken = 0
        self._open = True
        self._source = None  # it is made on the first use, because set_state may come before it

    def __next__(self) -> Any:
        self.start_prefetch()
        assert self._source is not None
        try:
            batch = next(self._source)
        except RuntimeError as error:
            # Grain raises this if a worker has ended, for example because the system killed it.
            _, dead, code = str(error).partition("terminated unexpectedly with exit code ")
            if not dead:
                raise
            raise StoppedError(
                f"a data worker ended with exit code {code.partition('.')[0]} (-9 is often a lack of "
                "memory: use fewer --workers). The same command continues from the last checkpoint"
            ) from error
        self._taken += 1
        return batch

    def start_prefetch(self) -> None:
        if not self._open:
            raise ValueError("this iterator is closed")
        if self._source is None:
            left = self._batches.slice(slice(self._taken, None))
            self._source = iter(_prefetch(left, self._workers))
            self._source.start_prefetch()

    def get_state(self) -> dict[str, int]:
        return {"batches": self._taken}

    def set_state(self, state: dict[str, int]) -> None:
        taken = state["batches"]
        if not isinstance(taken, int) or not 0 <= taken <= len(self._batches):
            raise ValueError(f"the place in the data is {taken!r} of {len(self._batches)} batches")
        self._stop()
        self._taken = taken

    def close(self) -> None:
        self._open = False
        self._stop()
        super().close()

    def _stop(self) -> None:
        if self._source is not None:
            self._source.close()
            self._source = None


def _prefetch(batches: grain.MapDataset, workers: int) -> grain.IterDataset:
    # Batches are made before the stream is dealt out to workers. Worker w makes the whole batches
    # w, w + workers, ..., so the stream is the same for any number of workers.
    ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_BATCHES_AHEAD)
    stream = batches.to_iter_dataset(ahead)
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain reads Abseil's flags, which nothing else here uses
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(
            num_workers=workers, per_worker_buffer_size=_BATCHES_AHEAD
        )
        stream = stream.mp_prefetch(options, worker_init_fn=_live_with_parent)
    return stream


def _live_with_parent(index: int, count: int) -> None:
    """Ends this worker when its parent is gone, even if the parent was killed."""
    del index, count
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("this is not a worker process")
    # Ctrl-C reaches every process of a terminal. The parent handles it, and stops its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch():
        parent.join()  # it returns when the parent's end of a pipe closes, however the parent died
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
