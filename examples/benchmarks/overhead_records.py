"""The records of `examples.benchmarks.overhead`: what is measured, in order."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from examples.benchmarks import flags, measure, step, trees

if TYPE_CHECKING:
    from examples.benchmarks.overhead import Config

Record = dict[str, Any]


def use_platform(platform: str | None) -> None:
    """Makes the first device of a kind the one on which everything is computed.

    Raises:
      ValueError: JAX finds no such device. The message says which kind it finds.
    """
    if platform is None:
        return
    try:
        device = jax.devices(platform)[0]
    except RuntimeError:
        extra = {"gpu": "cuda13", "tpu": "tpu"}.get(platform, platform)
        raise ValueError(
            f"--platform {platform}: JAX finds no such device, only {jax.default_backend()}. If there "
            f'is one, install JAX for it: python -m pip install -U "jax[{extra}]"'
        ) from None
    jax.config.update("jax_default_device", device)


def machine(config: "Config") -> Record:
    """Returns the first record: the settings, the machine and the versions."""
    cpu = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":")[1].strip() if names else cpu
    packages = ("jax", "jaxlib", "optax", "flax", "numpy")
    return {
        "kind": "run",
        "date": time.strftime("%Y-%m-%d"),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "platform": measure.find_device().platform,
        "device": measure.find_device().device_kind,
        "available_bytes": measure.available_bytes(),
        "config": dataclasses.asdict(config) | {"out": str(config.out)},
    }


def measure_update(name: str, optimizer: str, rounds: int, seconds: float) -> Iterator[Record]:
    """Yields a record of a tree's update step for each arm, and for the control."""
    begin = time.perf_counter()
    tree, base = trees.create(name), measure.optimizer(optimizer)
    programs = measure.compile_updates(tree, base)
    needed = max(program.needed_bytes for program in programs.values())
    why_not = "only counted at this size" if not tree.timed else measure.lacks_memory(needed)
    times, repeats = {}, 0
    if why_not is None:
        times, repeats = measure.time_updates(tree, base, programs, rounds, seconds)
    elapsed = time.perf_counter() - begin
    plain = programs["none"]
    for arm in (*programs, "control"):
        record = {
            "kind": "update",
            "tree": name,
            "optimizer": optimizer,
            "arm": arm,
            "parameters": tree.parameters,
            "leaves": len(tree.leaves),
            "means_bytes": tree.means_bytes,
            "bound": measure.BOUNDS[optimizer],
            "seconds": round(elapsed, 2),
            "not_timed": why_not,
        }
        if arm in programs:
            program = programs[arm]
            same = [other for other in programs if programs[other].text == program.text]
            record |= {
                "same_program_as": same[0] if same[0] != arm else None,
                "bytes_accessed": program.bytes_accessed,
                "bytes_ratio": program.bytes_accessed / plain.bytes_accessed,
                "temporary_bytes": program.temporary_bytes,
                "trace_seconds": program.trace_seconds,
                "compile_seconds": program.compile_seconds,
            }
        if times:
            record |= compare(times, arm) | {"repeats": repeats}
        yield record


def compare(times: dict[str, np.ndarray], arm: str) -> Record:
    """Compares an arm's times with those of the arm without GC."""
    its, base = times[arm], times["none"]
    return {
        "rounds": len(its),
        "milliseconds": 1e3 * float(np.median(its)),
        "extra_milliseconds": 1e3 * float(np.median(its - base)),
        "ratio": measure.paired_ratio(its, base)._asdict(),
    }


def measure_step(
    name: str, optimizer: str, batch: int, rounds: int, seconds: float
) -> Iterator[Record]:
    """Yields records of a whole training step with and without GC, and of the update's extra time."""
    begin = time.perf_counter()
    base, net = measure.optimizer(optimizer), step.NETS[name]
    programs = step.compile_steps(net, base, batch)
    record = {"kind": "step", "net": name, "optimizer": optimizer, "batch": batch}
    needed = max(program.needed_bytes for program in programs.values())
    if why_not := measure.lacks_memory(needed):
        yield record | {"arm": "ours", "not_timed": why_not}
        return
    times = step.time_steps(programs, step.create_state(net, base), net, batch, rounds)
    tree = trees.create(name)
    updates, _ = measure.time_updates(
        tree, base, measure.compile_updates(tree, base), rounds, seconds
    )
    for arm in ("none", "ours", "control"):
        extra = compare(updates, arm)["extra_milliseconds"]
        direct = compare(times, arm)
        yield (
            record
            | direct
            | {
                "arm": arm,
                "not_timed": None,
                "update_extra_milliseconds": extra,
                "share": extra / (1e3 * float(np.median(times["none"]))),
                "seconds": round(time.perf_counter() - begin, 2),
            }
        )


def measure_collectives(names: tuple[str, ...], optimizer: str) -> Iterator[Record]:
    """Yields the records of `examples.benchmarks.collectives`, which has eight devices."""
    module = "examples.benchmarks.collectives"
    command = [sys.executable, "-m", module, optimizer, *names]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield from map(json.loads, process.stdout or ())
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def run(config: "Config", console: Console, write: Callable[[Record], None]) -> list[Record]:
    """Measures everything, and passes each record to `write` as soon as it is there."""
    records = []

    def keep(found):
        for record in found:
            records.append(record)
            write(record)

    nets = tuple(name for name in config.trees if name in flags.NETS)
    first = config.optimizers[0]
    steps = config.steps
    if steps is None:
        on_cpu = measure.find_device().platform == "cpu"
        steps = ("resnet20",) if on_cpu else ("resnet50", "vit_b16")
    if not config.step_rounds:
        steps = ()
    units = [
        (name, optimizer)
        for name in config.trees
        for optimizer in (config.optimizers if name in nets else (first,))
    ]
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("starting", total=len(units) + len(steps) + len(nets))
        keep([machine(config)])
        for optimizer in config.optimizers:  # the first trace is slower than later ones
            measure.compile_updates(trees.create("1e5x100"), measure.optimizer(optimizer))
        for name, optimizer in units:
            progress.update(bar, description=f"{name}, {optimizer}")
            keep(measure_update(name, optimizer, config.rounds, config.seconds))
            if why_not := records[-1]["not_timed"]:
                console.print(f"{name}, {optimizer}: not timed: {why_not}")
            progress.advance(bar)
        for name in steps:
            progress.update(bar, description=f"whole step of {name}, {first}")
            keep(measure_step(name, first, config.batch, config.step_rounds, config.seconds))
            if why_not := records[-1]["not_timed"]:
                console.print(f"whole step of {name}: not timed: {why_not}")
            progress.advance(bar)
        if nets:
            for record in measure_collectives(nets, first):
                keep([record])
                done = record["layout"] == "outputs" and record["arm"] == "optax"
                progress.update(
                    bar, description=f"collectives, {record['tree']}", advance=int(done)
                )
    return records
