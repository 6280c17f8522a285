"""A program with data workers for detection, for the tests to run.

python -m tests.examples.detection.worker_program FOLDER WORKERS

It writes a hash of each batch of the scenes in a folder, or the error that making one raises.
"""

import json
import sys
from pathlib import Path

import numpy as np

from examples.datasets.coco import load_coco
from examples.detection import data as pipeline
from examples.training.errors import report_errors
from tests.examples.datasets.worker_program import digest

PREPARATION = pipeline.Preparation(64, 64, "rgb", masks=True, mask_cells=28, max_objects=8)


def digests(folder: Path, workers: int) -> dict[str, list[str]]:
    """Returns hashes of the batches of two epochs, and of those of an evaluation."""
    data = load_coco(folder, "train", masks=True)
    rows = np.arange(len(data))
    plan = pipeline.Plan(data, rows, PREPARATION, batch_size=4, seed=0)
    streams = {
        "training": pipeline.train_batches(plan, epochs=2, workers=workers),
        "evaluation": pipeline.evaluation_batches(
            data, rows, PREPARATION, batch_size=4, workers=workers
        ),
    }
    found = {}
    for name, stream in streams.items():
        iterator = iter(stream)
        try:
            found[name] = [digest(batch) for batch in iterator]
        finally:
            iterator.close()
    return found


if __name__ == "__main__":
    with report_errors("stopped"):
        print(json.dumps(digests(Path(sys.argv[1]), int(sys.argv[2]))))
