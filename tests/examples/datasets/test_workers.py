"""Data workers: real processes, the same batches, and none left behind."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from examples.datasets import pipeline
from tests.examples.datasets import worker_program

PROGRAM = [sys.executable, "-m", "tests.examples.datasets.worker_program"]
ROOT = Path(__file__).parents[3]


def test_workers_change_no_batch_and_a_restored_iterator_goes_on():
    done = subprocess.run(
        [*PROGRAM, "digest", "2"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    shared, alone = json.loads(done.stdout), worker_program.digests(0)
    assert len(alone["batches"]) == len(set(alone["batches"])) == 36
    assert alone["resumed"] == alone["batches"][worker_program.STEPS :]
    assert shared == alone


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and that no one has asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_workers_end_when_their_parent_is_killed():
    parent = subprocess.Popen([*PROGRAM, "wait", "2"], cwd=ROOT, stdout=subprocess.PIPE)
    workers = []
    try:
        assert parent.stdout
        workers = json.loads(parent.stdout.readline())
        assert len(workers) == 2
        time.sleep(1)
        assert all(map(alive, workers))  # they live until then
        parent.kill()  # SIGKILL: the parent can do nothing more
        parent.wait()
        deadline = time.monotonic() + 10
        while any(map(alive, workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(alive, workers))
    finally:
        parent.kill()
        parent.wait()
        assert parent.stdout
        parent.stdout.close()
        for worker in filter(alive, workers):
            os.kill(worker, 9)


def test_the_watch_is_for_workers_alone():
    with pytest.raises(RuntimeError, match="not a worker"):
        pipeline._die_with_parent(0, 1)
