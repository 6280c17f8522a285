"""Optimizer updates with and without GC: compiled, counted and timed side by side."""

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

from examples.benchmarks import flags
from examples.benchmarks.trees import Tree

OPTIMIZERS = {
    "sgdm": optax.sgd(1e-3, momentum=0.9),
    "adam": optax.adam(1e-3),
    "adamw": optax.adamw(1e-3),
}
# The memory traffic with GC divided by that without, counted in reads and writes of a whole tree. XLA
# computes each output in a pass of its own. SGDM's momentum takes 3: the gradient and the momentum are
# read, and the momentum is written. Its weights take 3: the momentum and the weights are read, and the
# weights are written. That is 6. Adam has two moments of 3 each, and its weights take 4 because they
# need both moments. That is 10. AdamW's decay needs the weights, which are read anyway, so it is 10
# too. GC reads the gradient once more for the means. The subtraction needs no read of its own.
BOUNDS = {"sgdm": 7 / 6, "adam": 11 / 10, "adamw": 11 / 10}
_SAMPLE_SECONDS = 0.01  # shorter calls are repeated, because any call takes about 0.1 ms


class Program(NamedTuple):
    """A compiled function, and the seconds its tracing (to StableHLO) and compilation took."""

    compiled: jax.stages.Compiled
    text: str
    trace_seconds: float
    compile_seconds: float

    @property
    def bytes_accessed(self) -> float:
        """The bytes that the program reads and writes, as XLA counts them.

        On CPU, XLA passes sums to a library (YNNPACK). For dense kernels of 8e6 parameters or more,
        it also passes the subtraction and, under SGDM, the momentum. XLA then sees only the arguments
        and results of the library, and counts one read too few. Under Adam, the centralized gradient
        becomes such a result, which is a temporary array. To turn the library off, set
        ``XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=``.
        """
        cost = self.compiled.cost_analysis()
        if cost is None:
            raise RuntimeError("this backend does not count bytes: run with JAX_PLATFORMS=cpu")
        return cost["bytes accessed"]

    @property
    def temporary_bytes(self) -> int:
        return self._memory.temp_size_in_bytes

    @property
    def argument_bytes(self) -> int:
        return self._memory.argument_size_in_bytes

    @property
    def needed_bytes(self) -> int:
        """The bytes that a call needs: arguments, temporaries, and outputs without a donated buffer."""
        memory = self._memory
        outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
        return memory.argument_size_in_bytes + memory.temp_size_in_bytes + outputs

    @property
    def _memory(self):
        memory = self.compiled.memory_analysis()
        if memory is None:
            raise RuntimeError("this backend does not report memory: run with JAX_PLATFORMS=cpu")
        return memory


class Ratio(NamedTuple):
    """The median and quartiles of paired ratios, and the median's 95 % interval."""

    median: float
    quartiles: tuple[float, float]
    interval: tuple[float, float]


def optimizer(name: str) -> optax.GradientTransformation:
    """Returns one of `OPTIMIZERS`.

    Raises:
      ValueError: an unknown name. The message lists the known ones, with the nearest first.
    """
    flags.check_optimizer(name)
    return OPTIMIZERS[name]


def arms(tree: Tree) -> dict[str, optax.GradientTransformation]:
    """Returns the transformation that precedes the optimizer in each arm."""
    return {
        "none": optax.identity(),
        "ours": tree.gc,
        "optax": optax.centralize(),
        "naive": naive(tree.axes),
    }


def naive(axes: Any) -> optax.GradientTransformation:
    """Returns the one-liner over the right axes, without checks and without float32 sums."""
    return optax.stateless(
        lambda updates, _: jax.tree.map(
            lambda g, its: g - g.mean(its, keepdims=True) if its else g, updates, axes
        )
    )


def update_step(tx: optax.GradientTransformation) -> Callable:
    """Returns the part of a training step after the gradient.

    It is a function from (parameters, optimizer state) and gradients to the new parameters and state.
    """

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
    """Compiles a function for shapes or arrays. Its first argument is donated, as in training.

    Args:
      function: what to compile.
      *args: its arguments.
      known: compiled programs. If one of them has the same StableHLO, it is returned.
      compiler_options: XLA's options for this program.
      **options: options of ``jax.jit``.
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
    """Compiles the update step of each arm. No array is made."""
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
    """Times the arms in turns. They all update the same arrays in place.

    Returns:
      The seconds of one update by arm and round, and the number of updates in a timed sample. The
      arm "control" is a second arm without GC.
    """
    rng = np.random.default_rng(0)
    grads = jax.tree.map(
        lambda leaf: jax.numpy.asarray(rng.standard_normal(leaf.shape, np.float32)), tree.params
    )
    params = jax.tree.map(jax.numpy.zeros_like, tree.params)
    carry = (params, optax.chain(optax.identity(), base).init(params))
    del params  # because it is donated
    return time_chained(programs, carry, grads, "none", rounds, seconds)


def time_chained(
    programs: dict[str, Program], carry: Any, grads: Any, base: str, rounds: int, seconds: float
) -> tuple[dict[str, np.ndarray], int]:
    """Times programs that take (carry, grads) and return the next carry.

    Each program continues with the carry of the one before it, so all of them use the same arrays, in
    place. The sample "control" runs the program `base` a second time.
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
    """Times each sample once a round, in a new random order, so that all meet the same load.

    After `seconds` no further round starts, once there have been `flags.MIN_ROUNDS`.
    """
    rng = np.random.default_rng(0)
    names = list(samples)
    times = {name: [] for name in names}
    begin = time.perf_counter()
    for done in range(rounds):
        if done >= flags.MIN_ROUNDS and time.perf_counter() - begin > seconds:
            break
        for i in rng.permutation(len(names)):
            start = time.perf_counter()
            samples[names[i]]()
            times[names[i]].append(time.perf_counter() - start)
    return {name: np.array(its) for name, its in times.items()}


def paired_ratio(times: np.ndarray, base: np.ndarray) -> Ratio:
    """Returns the ratios of each round. The interval is that of the sign test, for any distribution."""
    ratios = np.sort(times / base)
    lowest = int(stats.binom.ppf(0.025, len(ratios), 0.5)) - 1
    if lowest < 0:
        raise ValueError(
            f"an interval of the median needs {flags.MIN_ROUNDS} rounds, not {len(ratios)}"
        )
    lower, median, upper = np.percentile(ratios, (25, 50, 75)).tolist()
    return Ratio(
        median, (lower, upper), (float(ratios[lowest]), float(ratios[len(ratios) - 1 - lowest]))
    )


def find_device() -> Any:
    """Returns the device on which JAX computes if nothing else is asked for."""
    (device,) = jax.numpy.zeros(()).devices()
    return device


def available_bytes() -> int:
    """Returns the bytes that can still be allocated on the accelerator, or else in main memory."""
    memory = find_device().memory_stats()
    if memory:
        return memory["bytes_limit"] - memory["bytes_in_use"]
    return available_host_bytes()


def available_host_bytes() -> int:
    """Returns the bytes that can still be allocated in main memory."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        return 1024 * int(lines["MemAvailable"].split()[0])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def lacks_memory(needed: int) -> str | None:
    """Returns what is needed and what is free, if arrays of so many bytes do not fit, or else None."""
    needed = math.ceil(1.1 * needed)  # because the process and its other arrays grow too
    available = available_bytes()
    if needed <= available:
        return None
    return f"{needed / 1e9:.3g} GB are needed, {available / 1e9:.3g} GB are free"
