"""A program with data workers, for the tests to run and to kill.

python -m tests.examples.datasets.worker_program digest WORKERS   writes a hash of each batch
python -m tests.examples.datasets.worker_program wait WORKERS     writes its workers' ids, and waits
python -m tests.examples.datasets.worker_program lose WORKERS     kills a worker, and writes the error
"""

import hashlib
import itertools
import json
import multiprocessing
import sys
import time

import grain

from examples.datasets import pipeline
from examples.training.errors import StoppedError
from tests.examples.datasets.toys import noisy, plain, toy

STEPS = 13  # in the second of three epochs of 12 batches


def digests(workers: int) -> dict[str, list[str]]:
    """Returns hashes of all batches, of those after STEPS in a restored iterator, and of evaluation."""
    stream = train(workers, epochs=3)
    iterator = iter(stream)
    first = [digest(batch) for batch in itertools.islice(iterator, STEPS)]
    state = json.loads(json.dumps(iterator.get_state()))
    rest = [digest(batch) for batch in iterator]
    iterator.close()
    restored = iter(train(workers and workers - 1, epochs=3))  # with another number of workers
    restored.set_state(state)
    resumed = [digest(batch) for batch in restored]
    restored.close()
    evaluated = iter(pipeline.eval_batches(toy(50), plain, batch_size=8, workers=workers))
    evaluation = [digest(batch) for batch in evaluated]
    evaluated.close()
    return {"batches": first + rest, "resumed": resumed, "evaluation": evaluation}


def train(workers: int, epochs: int | None) -> grain.IterDataset:
    return pipeline.train_batches(
        toy(50), noisy, batch_size=4, seed=2, epochs=epochs, workers=workers
    )


def digest(batch) -> str:
    content = b"".join(batch[key].tobytes() for key in sorted(batch))
    return hashlib.sha256(content).hexdigest()


def wait(workers: int) -> None:
    iterator = iter(train(workers, epochs=None))
    for _ in range(workers):  # one batch of each: all have started
        next(iterator)
    print(json.dumps([child.pid for child in multiprocessing.active_children()]), flush=True)
    time.sleep(600)


def lose(workers: int) -> None:
    iterator = iter(train(workers, epochs=None))
    next(iterator)
    multiprocessing.active_children()[0].kill()
    try:
        for _ in range(1000):
            next(iterator)
    except StoppedError as error:
        print(json.dumps(str(error)))
    iterator.close()


if __name__ == "__main__":
    _, command, workers = sys.argv
    if command == "wait":
        wait(int(workers))
    elif command == "lose":
        lose(int(workers))
        sys.exit()
    print(json.dumps(digests(int(workers))))
