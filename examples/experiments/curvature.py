"""How steep and how curved a loss is, without GC and with it: both sides of Proposition 4.2."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.linalg import eigh_tridiagonal


class Lipschitz(NamedTuple):
    """Both sides of equation 5 at one point, for all n parameters as one vector.

    With the gradient g, of n numbers, the Hessian H, n x n, and GC as the projection P, n x n.

    Attributes:
      gradient_norm: \\|g\\|, an L2 norm: how fast the loss changes.
      gradient_norm_gc: \\|Pg\\|, no larger.
      hessian_norm: \\|H\\|, a spectral norm: how fast the gradient changes.
      hessian_norm_gc: \\|PH\\|, no larger.
      products: of H and a vector, that both spectral norms took together.
      converged: whether both spectral norms came within the tolerance.
    """

    gradient_norm: float
    gradient_norm_gc: float
    hessian_norm: float
    hessian_norm_gc: float
    products: int
    converged: bool


def make_lipschitz(
    loss: Callable[..., jax.Array],
    gc: optax.GradientTransformation,
    *,
    tolerance: float = 1e-4,
    iterations: int = 50,
) -> Callable[..., Lipschitz]:
    r"""Makes the function (params, \*args, key) -> Lipschitz of one loss and one GC.

    \|H\|² and \|PH\|² are the largest eigenvalues of HH and HPH; signs of H's eigenvalues do
    not matter. They are found by power iteration from a random vector, which the key draws and
    both share, in Lanczos' form: the estimate is the largest on the span of all iterates, where
    plain iteration takes the last iterate's alone and lingers at a second eigenvalue close by.
    It is a lower bound that never falls, but for rounding, and converges from below.

    The iteration stops where a singular value lies within the tolerance of the bound, by the
    eigenvector's residual; that it is the largest one is likely, not certain: try two keys. Each
    iteration takes two Hessian-vector products and keeps one vector of the size of params. One
    product is compiled, at the first call, and serves all params and args of the same shapes.
    For the Hessian of one kernel alone, let that kernel be params and all others be in args.

    Args:
      loss: (params, \*args) -> the scalar loss, twice differentiable, without randomness.
      gc: a projection without state, as ``optax_gc.centralize()``; both norms take in the leaves
        that it leaves alone.
      tolerance: relative, of each spectral norm; 1e-4 or more in float32.
      iterations: for each spectral norm at most; ``converged`` is False where they ran out.

    Returns:
      The function. ``params`` is a tree of real floating point arrays, ``key`` a random key.

    Raises:
      ValueError: ``iterations`` is below 1; from the function, a number that is not finite.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax_gc
      >>> def loss(params, x):  # its gradient is (wᵀx)x, its Hessian xxᵀ
      ...     return 0.5 * jnp.sum((x @ params["kernel"]) ** 2)
      >>> lipschitz = make_lipschitz(loss, optax_gc.centralize())
      >>> params, x = {"kernel": jnp.array([[1.0], [0.0]])}, jnp.array([1.0, 7.0])
      >>> found = lipschitz(params, x, key=jax.random.key(0))
      >>> print(f"{found.hessian_norm:.3f} without GC, {found.hessian_norm_gc:.3f} with it")
      50.000 without GC, 30.000 with it
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, not {iterations}")

    # One product a call and the loop in Python: on CPU, XLA runs a convolution in a compiled
    # loop many times slower than outside of one.
    @jax.jit
    def multiply(params, vector, *args):
        both = jax.jvp(jax.grad(lambda p: loss(p, *args)), (params,), (vector,))
        gradient, product = ((tree, gc.update(tree, gc.init(tree))[0]) for tree in both)
        return product, [optax.tree.norm(tree) for tree in gradient]

    def spectral_norm(params, args, key, with_gc):
        vector, _ = _unit(optax.tree.random_like(key, params, jax.random.normal))
        basis, diagonal, beside = [], [], []
        bound, converged, gradients = 0.0, False, []
        while len(basis) < iterations and not converged:
            basis.append(vector)
            product, gradients = multiply(params, vector, *args)
            half, length = _unit(product[with_gc])
            (vector, _), _ = multiply(params, half, *args)
            # Against all of the basis and twice: rounding would bring old directions back.
            for unit in basis * 2:
                vector = _remove(vector, unit)
            vector, rest = _unit(vector)
            numbers = [float(x) for x in (*gradients, length, rest)]
            if not np.isfinite(numbers).all():
                raise ValueError(f"the gradient or the Hessian is not finite: norms {numbers}")
            *gradients, length, rest = numbers
            diagonal.append(length**2)
            beside.append(length * rest)
            squares, vectors = eigh_tridiagonal(diagonal, beside[:-1])
            bound, residual = math.sqrt(squares[-1]), beside[-1] * abs(vectors[-1, -1])
            # Twice, for this is the residual of the square.
            converged = bool(residual <= 2 * tolerance * squares[-1])
        return bound, converged, 2 * len(basis), gradients

    def lipschitz(params: Any, *args: Any, key: jax.Array) -> Lipschitz:
        plain, done, products, _ = spectral_norm(params, args, key, False)
        with_gc, done_gc, products_gc, gradients = spectral_norm(params, args, key, True)
        converged = done and done_gc
        return Lipschitz(
            gradients[0], gradients[1], plain, with_gc, products + products_gc, converged
        )

    return lipschitz


@jax.jit
def _unit(vector):
    length = optax.tree.norm(vector)
    # A vector of zeros stays one: the Hessian is zero then.
    scale = 1 / jnp.where(length == 0, 1, length)
    return jax.tree.map(lambda x: (x * scale).astype(x.dtype), vector), length


@jax.jit
def _remove(vector, unit):
    share = optax.tree.vdot(unit, vector)
    return jax.tree.map(lambda x, y: (x - share * y).astype(x.dtype), vector, unit)
