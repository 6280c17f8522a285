"""Two processes of two devices each, over the loopback interface, make the run of one."""

import dataclasses
import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
from rich.console import Console

from examples.classification.presets import PRESETS
from examples.classification.task import Trainer
from examples.training.checkpoints import read_variables
from examples.training.loop import train
from examples.training.sharding import make_mesh

ROOT = Path(__file__).parents[3]
CONFIG = dataclasses.replace(PRESETS["digits"][1], width=4, batch_size=48, epochs=1)


def pair(tmp_path):
    """Runs the program as two processes and gives the results that each told, beside what Gloo has to say."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {
        "PATH": "",
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    flags = "--width 4 --batch-size 48 --epochs 1 --fsdp 2 --log-every 5 --distributed"
    command = [sys.executable, "-W", "error", "-m", "examples.train_classifier", "digits"]
    command += [*flags.split(), "--out", tmp_path / "two", "--coordinator", address]
    programs = [
        subprocess.Popen(
            [*command, "--processes", "2", "--process", str(index)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        outputs = [program.communicate(timeout=200) for program in programs]
    finally:
        for program in programs:
            program.kill()
    codes = [program.returncode for program in programs]
    assert codes == [0, 0], "\n".join(error for _, error in outputs)
    return [re.findall(r'\{"run".*\}', output) for output, _ in outputs]


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines]


def test_two_processes_make_the_run_of_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    job = Trainer(make_mesh(2, 2)).prepare(CONFIG).job
    train(job, one, log_every=5, console=Console(quiet=True))

    (told,), silent = pair(tmp_path)
    assert silent == [], "one process tells the result"
    result = json.loads(told)
    assert (result["processes"], result["devices"]) == (2, "4 x cpu")
    np.testing.assert_allclose(losses(two), losses(one), rtol=2e-3)
    expected = read_variables(one)
    for name, seen in read_variables(two).items():
        np.testing.assert_allclose(seen, expected[name], atol=2e-3, err_msg=name)

    # Started again, both restore their place and find nothing left to do.
    (again,), _ = pair(tmp_path)
    assert json.loads(again)["test_loss"] == result["test_loss"]
