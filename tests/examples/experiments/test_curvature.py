"""The measures of Proposition 4.2 agree with Hessians that are known in full."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

from examples.experiments.curvature import make_lipschitz
from examples.models.layers import WSConv
from optax_gc import centralize, conv_kernels

INPUTS, OUTPUTS = 5, 3
SIZE = OUTPUTS + INPUTS * OUTPUTS
RNG = np.random.default_rng(0)
ROTATION = np.linalg.qr(RNG.normal(size=(SIZE, SIZE)))[0]
# Flat, the bias is in front, and of a kernel's weights a neuron's are OUTPUTS apart.
E = np.ones((INPUTS, INPUTS)) / INPUTS
P = np.eye(SIZE)
P[OUTPUTS:, OUTPUTS:] -= np.kron(E, np.eye(OUTPUTS))

SPECTRA = {
    "convex": np.linspace(0.1, 3, SIZE),
    "saddle": np.linspace(-7, 2, SIZE),
    "opposite": np.linspace(-2, 2, SIZE),
    "close": np.r_[1, 0.99, np.linspace(0, 0.5, SIZE - 2)],
    "one direction": np.r_[4, np.zeros(SIZE - 1)],
    "large": 1e30 * np.linspace(-1, 2, SIZE),
    "small": 1e-30 * np.linspace(-1, 2, SIZE),
    "flat": np.zeros(SIZE),
}


@pytest.fixture
def key():
    return jax.random.key(0)


def quadratic(params, hessian, slope):
    flat, _ = ravel_pytree(params)
    return 0.5 * flat @ hessian @ flat + slope @ flat


def quadratic_params():
    return {"bias": jnp.ones(OUTPUTS), "kernel": jnp.ones((INPUTS, OUTPUTS))}


def hessian_of(spectrum):
    return ROTATION @ np.diag(spectrum) @ ROTATION.T


def spectral(matrix):
    return np.linalg.norm(matrix, 2)


@pytest.mark.parametrize("name", SPECTRA)
def test_norms_are_those_of_numpy(name, key, x64):
    hessian, slope, params = hessian_of(SPECTRA[name]), RNG.normal(size=SIZE), quadratic_params()
    found = make_lipschitz(quadratic, centralize(), tolerance=1e-8)(params, hessian, slope, key=key)
    gradient = hessian @ ravel_pytree(params)[0] + slope
    expected = [np.linalg.norm(x) for x in (gradient, P @ gradient)]
    expected += [spectral(hessian), spectral(P @ hessian)]
    np.testing.assert_allclose(found[:4], expected, rtol=1e-7)
    assert found.converged


def test_the_steepest_curvature_of_a_saddle_counts_for_either_sign(key, x64):
    found = make_lipschitz(quadratic, centralize())(
        quadratic_params(), hessian_of(SPECTRA["saddle"]), np.zeros(SIZE), key=key
    )
    assert found.hessian_norm == pytest.approx(7, rel=1e-4)


def test_a_curvature_that_gc_removes_is_gone(key, x64):
    e = np.r_[np.zeros(OUTPUTS), np.tile(np.eye(OUTPUTS)[0], INPUTS)] / np.sqrt(INPUTS)
    found = make_lipschitz(quadratic, centralize())(
        quadratic_params(), 5 * np.outer(e, e), np.zeros(SIZE), key=key
    )
    assert found.hessian_norm == pytest.approx(5, rel=1e-4)
    assert found.hessian_norm_gc == pytest.approx(0, abs=1e-12)


class Net(nnx.Module):
    """A convolution, a normalization and a dense layer."""

    def __init__(self, rngs: nnx.Rngs, conv=nnx.Conv):
        self.conv = conv(2, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.fc = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.fc(nnx.tanh(self.norm(self.conv(x))).mean((1, 2)))


def make(seed=0, **kwargs):
    """Returns the loss of a net as a function of parameters, other variables and a batch, and these."""
    graph, params, rest = nnx.split(Net(nnx.Rngs(seed), **kwargs), nnx.Param, ...)
    rng = np.random.default_rng(seed)
    batch = rng.normal(1, 1, (6, 5, 5, 2)).astype("f"), rng.integers(0, 3, 6)

    def loss(params, rest, batch):
        images, labels = batch
        logits = nnx.merge(graph, params, rest, copy=True)(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return loss, params, rest, batch


def dense_hessians(loss, gc, params, *args):
    """Returns H and PH in full. PH is the derivative of the centralized gradient."""
    flat, unravel = ravel_pytree(params)

    def gradient(vector, project):
        tree = jax.grad(loss)(unravel(vector), *args)
        return ravel_pytree(gc.update(tree, gc.init(tree))[0] if project else tree)[0]

    return [np.asarray(jax.jit(jax.jacobian(gradient), static_argnums=1)(flat, p)) for p in (0, 1)]


@pytest.mark.parametrize("gc", [centralize(), centralize(mask=conv_kernels)], ids=["all", "conv"])
def test_both_inequalities_on_a_net(gc, key):
    net = make()
    found = make_lipschitz(net[0], gc)(*net[1:], key=key)
    assert 0 < found.gradient_norm_gc < found.gradient_norm
    assert 0 < found.hessian_norm_gc < found.hessian_norm
    hessian, with_gc = dense_hessians(net[0], gc, *net[1:])
    assert found.hessian_norm == pytest.approx(spectral(hessian), rel=1e-3)
    assert found.hessian_norm_gc == pytest.approx(spectral(with_gc), rel=1e-3)


def test_gc_changes_neither_norm_if_gradients_already_have_zero_mean(key):
    net = make(conv=WSConv)
    found = make_lipschitz(net[0], centralize(mask=conv_kernels))(*net[1:], key=key)
    assert found.gradient_norm_gc == pytest.approx(found.gradient_norm, rel=1e-5)
    assert found.hessian_norm_gc == pytest.approx(found.hessian_norm, rel=1e-3)


def test_without_gc_both_sides_are_equal(key):
    net = make()
    found = make_lipschitz(net[0], optax.identity())(*net[1:], key=key)
    assert found.gradient_norm_gc == found.gradient_norm
    assert found.hessian_norm_gc == found.hessian_norm


def test_the_hessian_of_one_kernel_is_its_own_block(key):
    loss, params, rest, batch = make()

    def loss_of_kernel(kernel, params, rest, batch):
        params = nnx.merge_state(params, nnx.State({"conv": {"kernel": nnx.Param(kernel)}}))
        return loss(params, rest, batch)

    args = params["conv"]["kernel"][...], params, rest, batch
    found = make_lipschitz(loss_of_kernel, centralize())(*args, key=key)
    hessian, with_gc = dense_hessians(loss_of_kernel, centralize(), *args)
    assert hessian.shape == (72, 72)
    assert found.hessian_norm == pytest.approx(spectral(hessian), rel=1e-3)
    assert found.hessian_norm_gc == pytest.approx(spectral(with_gc), rel=1e-3)
    assert found.hessian_norm_gc < found.hessian_norm


def test_the_key_does_not_matter():
    net = make()
    lipschitz = make_lipschitz(net[0], centralize())
    one, other = (lipschitz(*net[1:], key=jax.random.key(seed)) for seed in (1, 2))
    np.testing.assert_allclose(one[:4], other[:4], rtol=1e-3)


def test_the_product_is_compiled_once_for_all_checkpoints_and_seeds():
    traces = []
    net = make()

    def loss(*args):
        traces.append(args)
        return net[0](*args)

    lipschitz = make_lipschitz(loss, centralize())
    found = {lipschitz(*make(s)[1:], key=jax.random.key(s)).hessian_norm for s in (0, 1, 0, 2)}
    assert len(traces) == 1
    assert len(found) == 3


def test_the_estimates_converge_from_below(key, x64):
    args = quadratic_params(), hessian_of(SPECTRA["close"]), np.zeros(SIZE)
    bounds = []
    for iterations in (1, 3, 5):
        found = make_lipschitz(quadratic, centralize(), tolerance=1e-12, iterations=iterations)(
            *args, key=key
        )
        assert not found.converged
        assert found.products == 4 * iterations
        bounds.append(found.hessian_norm)
    assert bounds == sorted(bounds)
    assert bounds[0] < 0.9
    assert bounds[-1] < 1


def test_at_least_one_iteration_is_needed(key):
    with pytest.raises(ValueError, match="iterations must be at least 1, not 0"):
        make_lipschitz(quadratic, centralize(), iterations=0)


@pytest.mark.parametrize("where", ["gradient", "hessian"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_an_error(where, value, key):
    hessian, slope = np.eye(SIZE, dtype="f"), np.ones(SIZE, "f")
    if where == "gradient":
        slope[0] = value
    else:
        hessian[0, 0] = value
    with pytest.raises(ValueError, match="the gradient or the Hessian is not finite"):
        make_lipschitz(quadratic, centralize())(quadratic_params(), hessian, slope, key=key)
