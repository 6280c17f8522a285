"""Two processes with two devices each make the same run as one process."""

import dataclasses
import json
import re
import signal
import sys
import time

import numpy as np
import pytest
from rich.console import Console

from examples.classification.presets import PRESETS
from examples.classification.task import Trainer
from examples.training.checkpoints import read_variables
from examples.training.loop import train
from examples.training.sharding import make_mesh
from tests.examples.programs import ENVIRONMENT
from tests.helpers import run_pair

CONFIG = dataclasses.replace(PRESETS["digits"][1], width=4, batch_size=48, epochs=1)


def pair(tmp_path, compiled_once, *, interrupt=False):
    """Runs the program as two processes.

    Args:
      tmp_path: the folder of the folder of the run.
      compiled_once: the variables that let both processes and later runs share compiled programs.
      interrupt: press Ctrl-C in the first process, before its first step.

    Returns:
      The exit code of each process, the results that each printed, and the errors that it printed
      beside what Gloo prints.
    """
    flags = "--width 4 --batch-size 48 --epochs 1 --fsdp 2 --log-every 5 --distributed"
    command = [sys.executable, "-W", "error", "-m", "examples.train_classifier", "digits"]
    command += [*flags.split(), "--processes", "2", "--out", tmp_path / "two"]

    def press(programs):
        # From here on, Ctrl-C waits for the end of a step.
        while not (tmp_path / "two/checkpoints").exists() and programs[0].poll() is None:
            time.sleep(0.05)
        programs[0].send_signal(signal.SIGINT)

    done = run_pair(
        lambda address, index: [*command, "--process", str(index), "--coordinator", address],
        meanwhile=press if interrupt else lambda programs: None,
        environment=ENVIRONMENT | compiled_once | {"JAX_NUM_CPU_DEVICES": "2"},
    )
    codes = [program.returncode for program in done]
    results = [re.findall(r'\{"run".*\}', program.stdout) for program in done]
    return codes, results, [program.stderr for program in done]


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines]


@pytest.mark.eight_devices
def test_two_processes_that_are_stopped_and_continued_make_the_run_of_one(tmp_path, compiled_once):
    one, two = tmp_path / "one", tmp_path / "two"
    job = Trainer(make_mesh(2, 2)).prepare(CONFIG).job
    train(job, one, log_every=5, console=Console(quiet=True))

    # Ctrl-C in one of them stops both after the same step, which is saved.
    codes, results, errors = pair(tmp_path, compiled_once, interrupt=True)
    assert codes == [1, 1], errors
    assert results == [[], []]
    message = (
        r"stopped: Ctrl-C or SIGTERM at step (\d+) of 27; the last good checkpoint is (.*)\. The"
    )
    (stopped,) = {match for error in errors for match in re.findall(message, error)}
    assert stopped[1] == str(two / "checkpoints" / stopped[0])
    assert (two / "checkpoints" / stopped[0]).is_dir()

    codes, ((told,), silent), errors = pair(tmp_path, compiled_once)
    assert codes == [0, 0], errors
    assert silent == [], "one process tells the result"
    result = json.loads(told)
    assert (result["processes"], result["devices"]) == (2, "4 x cpu")
    np.testing.assert_allclose(losses(two), losses(one), rtol=2e-3)
    expected = read_variables(one)
    for name, seen in read_variables(two).items():
        np.testing.assert_allclose(seen, expected[name], atol=2e-3, err_msg=name)
