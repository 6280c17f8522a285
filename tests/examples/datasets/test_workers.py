"""Data workers are real processes that make the same batches, and none of them is left running."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from examples.training import stream
from tests.examples.datasets import worker_program

PROGRAM = [sys.executable, "-m", "tests.examples.datasets.worker_program"]
ROOT = Path(__file__).parents[3]


def test_workers_change_no_batch_and_a_restored_iterator_continues():
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
    """Returns whether a process is running. A zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def running():
    """Starts a program with two workers, and yields it and their ids. All of them end with the test."""
    program = subprocess.Popen(
        [*PROGRAM, "wait", "2"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    workers = []
    with program:
        try:
            assert program.stdout
            workers = json.loads(program.stdout.readline())
            yield program, workers
        finally:
            program.kill()
            for worker in filter(alive, workers):
                os.kill(worker, signal.SIGKILL)


def all_end(workers: list[int], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, workers))


def test_workers_end_when_their_parent_is_killed(running):
    program, workers = running
    assert len(workers) == 2
    time.sleep(1)
    assert all(map(alive, workers))  # they live until then
    program.kill()  # SIGKILL: it can do nothing more
    assert all_end(workers)


def test_an_interrupt_is_answered_once(running):
    program, workers = running
    os.killpg(program.pid, signal.SIGINT)  # as a terminal's Ctrl-C: the workers get it too
    _, errors = program.communicate(timeout=60)
    assert program.returncode == -signal.SIGINT
    assert all_end(workers)
    assert errors.count("KeyboardInterrupt") == 1


def test_a_worker_that_is_killed_is_one_error():
    done = subprocess.run(
        [*PROGRAM, "lose", "2"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "a data worker ended with exit code -9" in json.loads(done.stdout)
    assert "The same command continues" in done.stdout


def test_the_watch_is_only_for_workers():
    with pytest.raises(RuntimeError, match="not a worker"):
        stream._live_with_parent(0, 1)
