"""Other ways to write g - mean(g), beside the plain one: their time and their error.

Each form stands in an update of one kernel that is done in place, as in training, and takes its turn
with the others. Prints a table in Markdown.

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

_BLOCK = 128  # rows that the two-stage forms sum first
_COLUMNS = 256  # weight vectors that errors are taken of


def _plain(g):
    return g - jnp.mean(g, _inputs(g), keepdims=True)


def _reciprocal(g):
    return g - jnp.sum(g, _inputs(g), keepdims=True) * (1 / _rows(g).shape[0])


def _matrix_vector(g):
    rows = _rows(g)
    ones = jnp.ones(rows.shape[0])
    sums = jnp.matmul(ones, rows, precision=jax.lax.Precision.HIGHEST)
    return g - _like_row(sums / rows.shape[0], g)


def _batched_dots(g):
    rows = _rows(g)
    blocks = rows.reshape(-1, _block(rows), rows.shape[1])
    sums = jnp.einsum("bio,i->bo", blocks, jnp.ones(blocks.shape[1]), precision="highest")
    return g - _like_row(sums.sum(0) / rows.shape[0], g)


def _two_stages(g):
    rows = _rows(g)
    blocks = rows.reshape(-1, _block(rows), rows.shape[1])
    # Without a barrier XLA makes one sum of the two.
    sums = jax.lax.optimization_barrier(blocks.sum(1))
    return g - _like_row(sums.sum(0) / rows.shape[0], g)


def _shifted(g):
    shifted = g - jnp.broadcast_to(g[(slice(0, 1),) * (g.ndim - 1)], g.shape)
    return shifted - jnp.mean(shifted, _inputs(g), keepdims=True)


def _twice(g):
    return _plain(_plain(g))


def _in_two_dimensions(g):
    rows = _rows(g)
    return (rows - rows.mean(0, keepdims=True)).reshape(g.shape)


FORMS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "plain: g - mean(g)": _plain,
    "sum, times 1/n": _reciprocal,
    "ones · g, highest precision": _matrix_vector,
    "batched ones · g, then a sum": _batched_dots,
    "two sums and a barrier": _two_stages,
    "shifted by the first row": _shifted,
    "plain, twice": _twice,
    "plain, in a 2-D view": _in_two_dimensions,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure other ways to write g - mean(g) beside the plain one.

    Takes about two minutes on two quiet cores, and 2.3 GB for the largest kernel.
    """

    shapes: tuple[str, ...] = ("3x3x64x64", "1x1x1024x2048", "3x3x512x512", "25088x4096")
    """Kernels, outputs last."""
    optimizer: str = "sgdm"
    """sgdm, adam or adamw."""
    rounds: int = 30
    """Paired rounds in which each form is timed once, at least 6."""
    seconds: float = 15.0
    """After these a kernel gets no further round, once it has 6."""

    def __post_init__(self):
        for shape in self.shapes:
            parse(shape)
        measure.optimizer(self.optimizer)
        if self.rounds < measure.MIN_ROUNDS:
            raise ValueError(
                f"--rounds {self.rounds}: an interval needs at least {measure.MIN_ROUNDS} rounds"
            )
        if not self.seconds >= 0:
            raise ValueError(f"--seconds {self.seconds}: give 0 or more")


def parse(shape: str) -> tuple[int, ...]:
    """Turns "3x3x64x64" into a tuple."""
    sizes = shape.split("x")
    if len(sizes) < 2 or not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise ValueError(f"--shapes {shape}: give at least two sizes, such as 3x3x64x64")
    return tuple(map(int, sizes))


def error(form: Callable[[jax.Array], jax.Array], shape: tuple[int, ...]) -> dict[str, float]:
    """The largest error, in ulp of the weight vector's largest gradient, by kind of gradient."""
    shape = (*shape[:-1], min(shape[-1], _COLUMNS))
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(shape, np.float32)
    # A column of one value has the mean that value, and nothing may be left of it.
    constant = np.broadcast_to(rng.uniform(1, 2, shape[-1]).astype(np.float32), shape)
    errors = {}
    for kind, g in {"normal": normal, "around 100": normal + 100, "constant": constant}.items():
        result = np.asarray(jax.jit(form)(g))
        inputs = tuple(range(len(shape) - 1))
        exact = g - g.mean(inputs, np.float64, keepdims=True)
        ulp = np.spacing(np.abs(g).max(inputs, keepdims=True))
        errors[kind] = float((np.abs(result - exact) / ulp).max())
    return errors


def time_forms(
    shape: tuple[int, ...], optimizer: str, rounds: int, seconds: float
) -> tuple[dict[str, measure.Ratio], dict[str, int]]:
    """Each form's update beside the plain one's, and its temporaries in bytes.

    Raises:
      MemoryError: before any array is made.
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
    del zeros  # it is donated
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
                    errors = error(FORMS[name], sizes)
                    kind = max(errors, key=lambda kind: errors[kind])
                    worst = f"{errors[kind]:.3g} ({kind})"
                    kilobytes = f"{temporaries[name] / 1e3:.1f}"
                low, high = ratio.interval
                time = f"{ratio.median:.3f} ({low:.3f}, {high:.3f})"
                table.add_row(shape, name, time, worst, kilobytes)
    # A table that is copied must not be folded to the width of this terminal.
    Console(width=max(console.width, 120)).print(table)
    console.print(
        f"Time: of an update in place under {config.optimizer}, beside the plain form's: median of the paired ratios (its "
        "95 % interval). Error: the largest of any gradient, beside float64, in ulp of its weight "
        "vector's largest; the kind of gradient with the largest error: normal, normal around 100, or "
        "constant in each weight vector. Control: the plain form beside itself."
    )


def _inputs(g):
    return tuple(range(g.ndim - 1))


def _rows(g):
    return g.reshape(-1, g.shape[-1])


def _like_row(mean, g):
    return mean.reshape((1,) * (g.ndim - 1) + mean.shape)


def _block(rows):
    return math.gcd(rows.shape[0], _BLOCK)


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, prog="python -m examples.benchmarks.alternatives"))
    except MemoryError as error_:
        sys.exit(f"stopped: {error_}")
