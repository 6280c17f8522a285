"""Measures how steep and how curved a loss is without and with GC, as in Proposition 4.2."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.linalg import eigh_tridiagonal


class Lipschitz(NamedTuple):
    """Both sides of equation 5 at one point, with all n parameters as one vector.

    Here g is the gradient (n), H is the Hessian (n, n), and P is GC as a projection (n, n).

    Attributes:
      gradient_norm: \\|g\\|, the L2 norm, which is how fast the loss changes.
      gradient_norm_gc: \\|Pg\\|, which is not larger.
      hessian_norm: \\|H\\|, the spectral norm, which is how fast the gradient changes.
      hessian_norm_gc: \\|PH\\|, which is not larger.
      products: the number of products of H and a vector that both spectral norms took.
      converged: whether both spectral norms are within the tolerance.
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
    r"""Makes the function (params, \*args, key) -> Lipschitz for one loss and one GC.

    \|H\|² and \|PH\|² are the largest eigenvalues of HH and HPH, so the signs of H's eigenvalues
    do not matter. Both are found by the Lanczos method, from the same random vector, which the key
    draws. It takes the largest eigenvalue on the span of all iterates. Plain power iteration takes
    that of the last iterate, and is slow if the second eigenvalue is close to the first. The
    estimate is a lower bound that converges from below. Apart from rounding, it never falls.

    The iteration stops when the eigenvector's residual shows that some singular value is within the
    tolerance of the estimate. That this is the largest one is likely but not certain, so try two
    keys. Each iteration takes two Hessian-vector products, and keeps one vector of the size of
    params. The product is compiled at the first call, and again only for other shapes. To get the
    Hessian of only one kernel, pass that kernel as params and all others in args.

    Args:
      loss: from (params, \*args) to the scalar loss. It must be twice differentiable and not random.
      gc: a projection without state, such as ``optax_gc.centralize()``. Both norms include the
        leaves that it leaves alone.
      tolerance: the relative tolerance of each spectral norm. In float32 it must be 1e-4 or more.
      iterations: the largest number of iterations for each spectral norm. If they do not suffice,
        ``converged`` is False.

    Returns:
      The function. ``params`` is a tree of real floating-point arrays, and ``key`` a random key.

    Raises:
      ValueError: ``iterations`` is below 1. The function raises it if a number is not finite.

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

    # The loop is in Python, and each call computes one product, because on CPU a convolution in a
    # compiled loop is many times slower than outside of one.
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
            # The whole basis is removed twice, because rounding would bring old directions back.
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
            # The tolerance is doubled because this is the residual of the square.
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
    # A vector of zeros stays zero. It appears where the Hessian is zero.
    scale = 1 / jnp.where(length == 0, 1, length)
    return jax.tree.map(lambda x: (x * scale).astype(x.dtype), vector), length


@jax.jit
def _remove(vector, unit):
    share = optax.tree.vdot(unit, vector)
    return jax.tree.map(lambda x, y: (x - share * y).astype(x.dtype), vector, unit)
