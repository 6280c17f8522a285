"""Other ways to write g - mean(g), their errors and their times."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

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
