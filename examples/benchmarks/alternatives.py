"""Compares other ways to write g - mean(g) with the plain one: their time and their error.

Each form is part of an in-place update of one kernel, as in training. The forms take turns. The
result is printed as a table in Markdown.

    python -m examples.benchmarks.alternatives --help
"""

import dataclasses
import math
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from examples.benchmarks import measure

_BLOCK = 128  # the number of rows that the two-stage forms sum first
_COLUMNS = 256  # the number of weight vectors whose error is measured


def _inputs(g):
    return tuple(range(g.ndim - 1))


def _plain(g):
    return g - jnp.mean(g, _inputs(g), keepdims=True)


def _rows(g):
    return g.reshape(-1, g.shape[-1])


def _blocks(g):
    rows = _rows(g)
    return rows.reshape(-1, math.gcd(rows.shape[0], _BLOCK), rows.shape[1])


def _subtract(g, sums):
    """Subtracts the means, whose sums over all inputs are given for each output."""
    return g - (sums / _rows(g).shape[0]).reshape((1,) * (g.ndim - 1) + sums.shape)


def _matrix_vector(g):
    ones = jnp.ones(_rows(g).shape[0])
    return _subtract(g, jnp.matmul(ones, _rows(g), precision="highest"))


def _batched_dots(g):
    blocks = _blocks(g)
    ones = jnp.ones(blocks.shape[1])
    return _subtract(g, jnp.einsum("bio,i->bo", blocks, ones, precision="highest").sum(0))


def _two_stages(g):
    # Without a barrier XLA makes one sum of the two.
    return _subtract(g, jax.lax.optimization_barrier(_blocks(g).sum(1)).sum(0))


def _shifted(g):
    return _plain(g - jnp.broadcast_to(g[(slice(0, 1),) * (g.ndim - 1)], g.shape))


FORMS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "plain: g - mean(g)": _plain,
    "sum, times 1/n": lambda g: g - jnp.sum(g, _inputs(g), keepdims=True) * (1 / _rows(g).shape[0]),
    "ones · g, highest precision": _matrix_vector,
    "batched ones · g, then a sum": _batched_dots,
    "two sums and a barrier": _two_stages,
    "shifted by the first row": _shifted,
    "plain, twice": lambda g: _plain(_plain(g)),
    "plain, in a 2-D view": lambda g: _plain(_rows(g)).reshape(g.shape),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Compares other ways to write g - mean(g) with the plain one.

    This takes about two minutes on two quiet cores, and 2.3 GB for the largest kernel.
    """

    shapes: tuple[str, ...] = ("3x3x64x64", "1x1x1024x2048", "3x3x512x512", "25088x4096")
    """The shapes of the kernels, with the outputs last."""
    optimizer: str = "sgdm"
    """The optimizer of the updates: sgdm, adam or adamw."""
    rounds: int = 30
    """The number of rounds, in each of which every form is timed once. At least 6."""
    seconds: float = 15.0
    """The time after which no further round starts for a kernel, once it has had 6."""

    def __post_init__(self):
        for shape in self.shapes:
            parse(shape)
        measure.optimizer(self.optimizer)
        if self.rounds < measure.MIN_ROUNDS:
            raise ValueError(
                f"--rounds {self.rounds}: an interval needs at least {measure.MIN_ROUNDS} rounds"
            )
        if not self.seconds >= 0:
            raise ValueError(f"--seconds {self.seconds}: it must be 0 or more")


def parse(shape: str) -> tuple[int, ...]:
    """Turns "3x3x64x64" into a tuple."""
    sizes = shape.split("x")
    if len(sizes) < 2 or not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise ValueError(f"--shapes {shape}: pass at least two sizes, such as 3x3x64x64")
    return tuple(map(int, sizes))


def error(form: Callable[[jax.Array], jax.Array], shape: tuple[int, ...]) -> dict[str, float]:
    """Returns the largest error by kind of gradient, in ulp of a weight vector's largest entry."""
    shape = (*shape[:-1], min(shape[-1], _COLUMNS))
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(shape, np.float32)
    # Nothing may be left of a column in which all entries are equal.
    constant = np.broadcast_to(rng.uniform(1, 2, shape[-1]).astype(np.float32), shape)
    errors = {}
    for kind, g in {"normal": normal, "around 100": normal + 100, "constant": constant}.items():
        result = np.asarray(jax.jit(form)(g))
        exact = g - g.mean(_inputs(g), np.float64, keepdims=True)
        ulp = np.spacing(np.abs(g).max(_inputs(g), keepdims=True))
        errors[kind] = float((np.abs(result - exact) / ulp).max())
    return errors


def time_forms(
    shape: tuple[int, ...], optimizer: str, rounds: int, seconds: float
) -> tuple[dict[str, measure.Ratio], dict[str, int]]:
    """Returns each form's time relative to the plain one, and its temporaries in bytes.

    Raises:
      MemoryError: the memory does not suffice. It is raised before any array is made.
    """
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    tx, programs = optax.identity(), {}
    for name, form in FORMS.items():
        gc = optax.stateless(lambda updates, _, form=form: jax.tree.map(form, updates))
        tx = optax.chain(gc, measure.optimizer(optimizer))
        carry = (leaf, jax.eval_shape(tx.init, leaf))
        programs[name] = measure.compile_program(measure.update_step(tx), carry, leaf)
    if why_not := measure.lacks_memory(max(p.needed_bytes for p in programs.values())):
        raise MemoryError(f"a kernel of shape {shape}: {why_not}")
    grads = jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))
    zeros = jnp.zeros_like(grads)
    carry = (zeros, tx.init(zeros))
    del zeros  # because it is donated
    plain, *_ = FORMS
    times, _ = measure.time_chained(programs, carry, grads, plain, rounds, seconds)
    ratios = {name: measure.paired_ratio(its, times[plain]) for name, its in times.items()}
    return ratios, {name: program.temporary_bytes for name, program in programs.items()}


def main(config: Config) -> None:
    console = Console()
    table = Table("kernel", "form", "time", "error, ulp", "temporaries, kB", box=box.MARKDOWN)
    for shape in config.shapes:
        with console.status(shape):
            sizes = parse(shape)
            ratios, temporaries = time_forms(sizes, config.optimizer, config.rounds, config.seconds)
            for name, ratio in ratios.items():
                worst = kilobytes = "-"
                if name in FORMS:
                    value, kind = max((e, kind) for kind, e in error(FORMS[name], sizes).items())
                    worst, kilobytes = f"{value:.3g} ({kind})", f"{temporaries[name] / 1e3:.1f}"
                low, high = ratio.interval
                time = f"{ratio.median:.3f} ({low:.3f}, {high:.3f})"
                table.add_row(shape, name, time, worst, kilobytes)
    # A table that is copied must not be folded to the width of this terminal.
    Console(width=max(console.width, 120)).print(table)
    console.print(
        f"Time: an in-place update under {config.optimizer} relative to the plain form; the median of "
        "the paired ratios and its 95 % interval. Error: the largest difference to float64, in ulp of "
        "the weight vector's largest gradient, and the kind of gradient that has it: normal, normal "
        "around 100, or constant in each weight vector. Control: the plain form relative to itself."
    )


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, prog="python -m examples.benchmarks.alternatives"))
    except MemoryError as error_:
        sys.exit(f"stopped: {error_}")
