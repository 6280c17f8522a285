"""Optimizer updates with and without GC: compiled, counted and timed side by side."""

import difflib
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from scipy import stats

from examples.benchmarks.trees import Tree

OPTIMIZERS = {
    "sgdm": optax.sgd(1e-3, momentum=0.9),
    "adam": optax.adam(1e-3),
    "adamw": optax.adamw(1e-3),
}
# Memory traffic with GC beside that without, in reads and writes of a whole tree. XLA computes each
# output in a pass of its own. SGDM's momentum: gradient and momentum read, momentum written; its
# weights: momentum and weights read, weights written; together 6. Adam has two moments of 3 each, and
# its weights read both: 10. AdamW's decay needs the weights that this pass reads already: 10. The means
# need one more read of the gradient; the subtraction rides on the reads that were there.
BOUNDS = {"sgdm": 7 / 6, "adam": 11 / 10, "adamw": 11 / 10}
MIN_ROUNDS = 6  # below it no two order statistics hold the median with 95 % certainty
_SAMPLE_SECONDS = 0.01  # a timed sample repeats shorter calls: a call takes 0.1 ms by itself


class Program(NamedTuple):
    """A compiled function, and the seconds its tracing (to StableHLO) and compilation took."""

    compiled: jax.stages.Compiled
    text: str
    trace_seconds: float
    compile_seconds: float

    @property
    def bytes_accessed(self) -> float:
        """Bytes that its kernels read and write, as XLA counts them.

        On CPU it hands sums to a library (YNNPACK). Of dense kernels from 8e6 parameters on, that
        library also takes the subtraction and, under SGDM, the momentum: XLA sees its arguments and
        results alone, and counts one read too few. Under Adam the centralized gradient becomes such a
        result, a temporary. ``XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=`` turns the library off.
        """
        cost = self.compiled.cost_analysis()
        if cost is None:
            raise RuntimeError("this backend counts no bytes: run with JAX_PLATFORMS=cpu")
        return cost["bytes accessed"]

    @property
    def temporary_bytes(self) -> int:
        return self._memory.temp_size_in_bytes

    @property
    def argument_bytes(self) -> int:
        return self._memory.argument_size_in_bytes

    @property
    def needed_bytes(self) -> int:
        """Bytes that a call takes: arguments, temporaries, and outputs that no donation covers."""
        memory = self._memory
        outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
        return memory.argument_size_in_bytes + memory.temp_size_in_bytes + outputs

    @property
    def _memory(self):
        memory = self.compiled.memory_analysis()
        if memory is None:
            raise RuntimeError("this backend tells no memory: run with JAX_PLATFORMS=cpu")
        return memory


class Ratio(NamedTuple):
    """Paired ratios: median, quartiles, and the median's 95 % interval."""

    median: float
    quartiles: tuple[float, float]
    interval: tuple[float, float]


def optimizer(name: str) -> optax.GradientTransformation:
    """One of `OPTIMIZERS`; an unknown name is a ValueError that lists them, the nearest first."""
    if name not in OPTIMIZERS:
        nearest = difflib.get_close_matches(name, OPTIMIZERS, n=len(OPTIMIZERS), cutoff=0.0)
        raise ValueError(f"no optimizer is called {name!r}; there are {', '.join(nearest)}")
    return OPTIMIZERS[name]


def arms(tree: Tree) -> dict[str, optax.GradientTransformation]:
    """What stands before the optimizer in each arm."""
    return {
        "none": optax.identity(),
        "ours": tree.gc,
        "optax": optax.centralize(),
        "naive": naive(tree.axes),
    }


def naive(axes: Any) -> optax.GradientTransformation:
    """The one-liner, over the right axes: no float32 for narrower leaves, no checks."""
    return optax.stateless(
        lambda updates, _: jax.tree.map(
            lambda g, its: g - g.mean(its, keepdims=True) if its else g, updates, axes
        )
    )


def update_step(tx: optax.GradientTransformation) -> Callable:
    """A step of training behind the gradient: from (parameters, state), gradients to new ones."""

    def step(carry, grads):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def compile_program(
    function: Callable,
    *args: Any,
    known: tuple[Program, ...] = (),
    compiler_options: dict[str, Any] | None = None,
    **options: Any,
) -> Program:
    """Compiles for shapes or arrays; the first argument is donated, as training does.

    Args:
      function: what to compile.
      *args: its arguments.
      known: programs compiled already, one of which is returned if it has the same StableHLO.
      compiler_options: options of XLA's for this program.
      **options: for ``jax.jit``.
    """
    begin = time.perf_counter()
    lowered = jax.jit(function, donate_argnums=0, **options).lower(*args)
    traced = time.perf_counter()
    text = lowered.as_text()
    for program in known:
        if program.text == text:
            return program._replace(trace_seconds=traced - begin)
    begin_compile = time.perf_counter()
    compiled = lowered.compile(compiler_options)
    return Program(compiled, text, traced - begin, time.perf_counter() - begin_compile)


def compile_updates(tree: Tree, base: optax.GradientTransformation) -> dict[str, Program]:
    """The update step of each arm. No array is made."""
    programs = {}
    for name, gc in arms(tree).items():
        tx = optax.chain(gc, base)
        carry = (tree.params, jax.eval_shape(tx.init, tree.params))
        known = tuple(programs.values())
        programs[name] = compile_program(update_step(tx), carry, tree.params, known=known)
    return programs


def time_updates(
    tree: Tree,
    base: optax.GradientTransformation,
    programs: dict[str, Program],
    rounds: int,
    seconds: float,
) -> tuple[dict[str, np.ndarray], int]:
    """Times the arms in turn on one set of arrays, which each updates in place.

    Returns the seconds of one update by arm and round, with a second arm without GC, "control",
    and the number of updates in a timed sample.
    """
    rng = np.random.default_rng(0)
    grads = jax.tree.map(
        lambda leaf: jax.numpy.asarray(rng.standard_normal(leaf.shape, np.float32)), tree.params
    )
    params = jax.tree.map(jax.numpy.zeros_like, tree.params)
    carry = (params, optax.chain(optax.identity(), base).init(params))
    del params  # it is donated
    return time_chained(programs, carry, grads, "none", rounds, seconds)


def time_chained(
    programs: dict[str, Program], carry: Any, grads: Any, base: str, rounds: int, seconds: float
) -> tuple[dict[str, np.ndarray], int]:
    """Times programs from (carry, grads) to carry, each going on where the last one stopped.

    One set of arrays serves all, in place. `base` is the program that "control" runs again.
    """

    def sample(program, repeats):
        def run():
            nonlocal carry
            for _ in range(repeats):
                carry = program.compiled(carry, grads)
            jax.block_until_ready(carry)

        return run

    for program in programs.values():
        sample(program, 1)()
    begin = time.perf_counter()
    sample(programs[base], 1)()
    repeats = math.ceil(_SAMPLE_SECONDS / (time.perf_counter() - begin))
    samples = {name: sample(program, repeats) for name, program in programs.items()}
    samples["control"] = samples[base]
    times = interleave(samples, rounds, seconds)
    return {name: its / repeats for name, its in times.items()}, repeats


def interleave(
    samples: dict[str, Callable[[], None]], rounds: int, seconds: float = math.inf
) -> dict[str, np.ndarray]:
    """Times each sample once a round, in an order drawn anew, so that arms share their moments.

    No round starts after `seconds`, once there are `MIN_ROUNDS`.
    """
    rng = np.random.default_rng(0)
    names = list(samples)
    times = {name: [] for name in names}
    begin = time.perf_counter()
    for done in range(rounds):
        if done >= MIN_ROUNDS and time.perf_counter() - begin > seconds:
            break
        for i in rng.permutation(len(names)):
            start = time.perf_counter()
            samples[names[i]]()
            times[names[i]].append(time.perf_counter() - start)
    return {name: np.array(its) for name, its in times.items()}


def paired_ratio(times: np.ndarray, base: np.ndarray) -> Ratio:
    """The ratio round by round. The interval is the sign test's: it assumes no distribution."""
    ratios = np.sort(times / base)
    lowest = int(stats.binom.ppf(0.025, len(ratios), 0.5)) - 1
    if lowest < 0:
        raise ValueError(f"an interval of the median needs {MIN_ROUNDS} rounds, not {len(ratios)}")
    lower, median, upper = np.percentile(ratios, (25, 50, 75)).tolist()
    return Ratio(
        median, (lower, upper), (float(ratios[lowest]), float(ratios[len(ratios) - 1 - lowest]))
    )


def available_bytes() -> int:
    """Bytes that can still be allocated where arrays live: on the accelerator, or in main memory."""
    memory = jax.devices()[0].memory_stats()
    if memory:
        return memory["bytes_limit"] - memory["bytes_in_use"]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        return 1024 * int(lines["MemAvailable"].split()[0])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def lacks_memory(needed: int) -> str | None:
    """Says what is needed and what is there if arrays of so many bytes would not fit."""
    needed = math.ceil(1.1 * needed)  # the process and its other arrays grow too
    available = available_bytes()
    if needed <= available:
        return None
    return f"{needed / 1e9:.3g} GB are needed, {available / 1e9:.3g} GB are free"
