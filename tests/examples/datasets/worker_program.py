"""A program with data workers, for the tests to run and to kill.

python -m tests.examples.datasets.worker_program digest WORKERS STEPS   writes a hash of each batch
python -m tests.examples.datasets.worker_program wait WORKERS           writes its workers' ids, waits
"""

import hashlib
import itertools
import json
import multiprocessing
import sys
import time

from examples.datasets import pipeline
from tests.examples.datasets.toys import noisy, toy


def main(command: str, workers: int, steps: int = 0) -> None:
    stream = pipeline.train_batches(
        toy(50),
        noisy,
        batch_size=4,
        seed=2,
        epochs=None if command == "wait" else 3,
        workers=workers,
    )
    iterator = iter(stream)
    if command == "wait":
        next(iterator)
        print(json.dumps([child.pid for child in multiprocessing.active_children()]), flush=True)
        time.sleep(600)
    hashes = [digest(batch) for batch in itertools.islice(iterator, steps)]
    state = json.loads(json.dumps(iterator.get_state()))
    rest = [digest(batch) for batch in iterator]
    iterator.close()
    again = iter(stream)
    again.set_state(state)
    resumed = [digest(batch) for batch in again]
    again.close()
    tested = pipeline.eval_batches(toy(50), noisy_but_fixed, batch_size=8, workers=workers)
    evaluated = iter(tested)
    evaluation = [digest(batch) for batch in evaluated]
    evaluated.close()
    result = {"batches": hashes + rest, "rest": rest, "resumed": resumed, "evaluation": evaluation}
    print(json.dumps(result), flush=True)


def noisy_but_fixed(image, rng):
    return image.astype("float32") * 2


def digest(batch) -> str:
    content = b"".join(batch[key].tobytes() for key in sorted(batch))
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
