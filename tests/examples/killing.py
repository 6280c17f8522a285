"""Kills a trainer's program again and again, and checks that the run ends as one left alone."""

import json
import subprocess
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from tests.examples.programs import ENVIRONMENT, PYTHON

# Children are forked from a process that has imported everything and started no device: the same
# program, a few seconds of imports earlier. A kill comes just after a save has begun (even ones),
# or some steps further on (odd ones), or before the first step (the last one).
DRIVER = """
import importlib, json, os, random, signal, sys, time, traceback, warnings
from pathlib import Path

# Python 3.12 warns of a fork beside threads: NumPy's, which wait for work and hold nothing.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
for module in options["imports"]:
    importlib.import_module(module)
program = importlib.import_module(options["program"])
kills, every = options["kills"], options["every"]
flags = [*options["flags"], "--checkpoint-every", str(every), "--log-every", "1"]
checkpoints, lines = folder / "killed/checkpoints", folder / "killed/metrics.jsonl"
chance = random.Random(0)

def start(name):
    pid = os.fork()
    if pid == 0:
        sys.argv = [options["program"], *flags, "--out", str(folder / name)]
        code = 1
        try:
            program.main()
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
        steps = chance.randint(1, options["steps"])
        wait(pid, lambda: logged() != before)
        restored = logged()
        wait(pid, lambda: logged() >= restored + steps)
    else:
        last = max((step for step in saves() if (checkpoints / str(step)).exists()), default=0)
        save = last + every * chance.randint(1, 2)
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


def kill_and_continue(
    folder: Path,
    program: str,
    flags: list[str],
    *,
    kills: int,
    every: int,
    steps: int,
    imports: list[str],
    environment: dict[str, str] | None = None,
) -> list[dict]:
    """Makes a run twice, once killed again and again, and checks that both end with equal bits.

    Args:
      folder: where the runs `whole` and `killed` are made.
      program: the module of the trainer.
      flags: its flags.
      kills: the number of kills. At least one must come in the middle of a save.
      every: the number of steps between checkpoints.
      steps: a kill between saves comes at most so many steps after the start.
      imports: modules that the program imports when it is started.
      environment: more variables of the programs.

    Returns:
      The lines that the run logged.
    """
    options = {
        "program": program,
        "flags": flags,
        "kills": kills,
        "every": every,
        "steps": steps,
        "imports": imports,
    }
    done = subprocess.run(
        [*PYTHON, "-c", DRIVER, str(folder), json.dumps(options)],
        env={
            **ENVIRONMENT,
            # The first run compiles for all: the same program comes to the same machine code.
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            **(environment or {}),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 0, "no kill came in the middle of a save"

    whole, killed = folder / "whole", folder / "killed"
    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    equal = jax.tree.map(lambda a, b: bool((a == b).all()), _last_state(whole), _last_state(killed))
    assert all(jax.tree.leaves(equal)), equal
    results = [json.loads((run / "result.json").read_text()) for run in (whole, killed)]
    for result in results:
        for time in ("seconds", "images_per_second", "waiting_for_data"):
            del result[time]
    assert results[0] == results[1]
    names = [{path.name for path in run.iterdir()} for run in (whole, killed)]
    assert names[0] <= names[1]
    for name in names[0] & {"results.json", "classes.csv"}:
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    return [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]


def _last_state(run: Path):
    last = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name))
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(last / "state")
