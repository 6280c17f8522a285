"""Killed at any point and started again, a run ends as if nothing had happened."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import orbax.checkpoint as ocp

ROOT = Path(__file__).parents[3]
KILLS = 12
STEPS = 100

# Children are forked from a process that has imported everything and started no device: the same
# program, a few seconds of imports earlier. A kill comes just after a save has begun (even ones),
# or some steps further on (odd ones), or before the first step (the last one).
DRIVER = """
import os, random, signal, sys, time, traceback, warnings
from pathlib import Path

import sklearn.datasets
import absl.logging, examples.classification.task, examples.training.curves, examples.training.folder
from examples import train_classifier

# Python 3.12 warns of a fork beside threads: NumPy's, which wait for work and hold nothing.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
kills, folder = int(sys.argv[1]), Path(sys.argv[2])
flags = "digits --epochs 4 --width 4 --checkpoint-every 4 --log-every 1".split()
checkpoints, lines = folder / "killed/checkpoints", folder / "killed/metrics.jsonl"
chance = random.Random(0)

def start(name):
    pid = os.fork()
    if pid == 0:
        sys.argv = ["train_classifier", *flags, "--out", str(folder / name)]
        code = 1
        try:
            train_classifier.main()
            code = 0
        except SystemExit as stop:
            print(stop.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return pid

def saves(suffix=""):
    names = os.listdir(checkpoints) if checkpoints.exists() else ()
    return {int(name.split(".")[0]) for name in names if name.endswith(suffix)}

def logged():
    try:
        return lines.read_bytes().count(b"\\n")
    except FileNotFoundError:  # lines that no checkpoint covers are moved away at the start
        return 0

def wait(pid, condition):
    while not condition():
        if os.waitpid(pid, os.WNOHANG)[0]:
            sys.exit("the run ended before it could be killed")
        time.sleep(0.0005)

assert os.waitpid(start("whole"), 0)[1] == 0
cut = 0
for kill in range(kills):
    before = logged()
    pid = start("killed")
    if kill == kills - 1:
        time.sleep(chance.uniform(0, 1))
    elif kill % 2:
        # The log shrinks when it is cut back to the checkpoint, then it grows.
        steps = chance.randint(1, 10)
        wait(pid, lambda: logged() != before)
        restored = logged()
        wait(pid, lambda: logged() >= restored + steps)
    else:
        last = max((step for step in saves() if (checkpoints / str(step)).exists()), default=0)
        save = last + 4 * chance.randint(1, 2)
        # What an earlier kill left of this save is cleared away when the run starts again.
        wait(pid, lambda: save not in saves())
        wait(pid, lambda: save in saves())
        time.sleep(chance.choice((0, 0.01, 0.03)) if kill else 0)
    os.kill(pid, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    cut += bool(saves("-tmp"))
    print(f"killed at line {logged()}, saving {saves('-tmp')}", file=sys.stderr)
assert os.waitpid(start("killed"), 0)[1] == 0
print(cut)
"""


def weights(run):
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(run / "checkpoints" / str(STEPS) / "state")


def test_a_run_killed_twelve_times_ends_like_one_that_was_not(tmp_path):
    environment = {
        "PATH": "",
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        # The first run compiles for all: the same program comes to the same machine code.
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", DRIVER, str(KILLS), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 0, "no kill came in the middle of a save"

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "step"] == [*range(1, STEPS + 1)]
    equal = jax.tree.map(lambda a, b: bool((a == b).all()), weights(whole), weights(killed))
    assert all(jax.tree.leaves(equal)), equal
    results = [json.loads((run / "result.json").read_text()) for run in (whole, killed)]
    for result in results:
        for time in ("seconds", "images_per_second", "waiting_for_data"):
            del result[time]
    assert results[0] == results[1]
