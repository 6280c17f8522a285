"""GC works on parameters in the forms that Flax (NNX and Linen), Haiku and Equinox keep."""

import functools
import subprocess
import sys

import chex
import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from flax.training.train_state import TrainState

from optax_gc import centralize, conv_kernels, kernel_axes
from tests.helpers import apply

IMAGES = np.random.default_rng(0).normal(1, 1, (2, 6, 6, 3)).astype(np.float32)


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.heads = nnx.List([nnx.Linear(4, 5, rngs=rngs)])

    def __call__(self, x):
        return self.heads[0](nnx.relu(self.norm(self.conv(x))).mean((1, 2)))


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), name="conv")(x)
        x = nn.GroupNorm(2, name="norm")(x)
        kernel_init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "out"))
        return nn.Dense(5, kernel_init=kernel_init, name="head")(nn.relu(x).mean((1, 2)))


def assert_centralized(before, after, axes):
    before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
    np.testing.assert_allclose(after, before - before.mean(axes, keepdims=True), atol=1e-6)
    assert np.abs(before - after).max() > 1e-4


def nnx_loss(model, x):
    return (model(x) ** 2).mean() + model(x).sum()


def test_gc_works_on_nnx_gradients_in_each_of_their_forms():
    """A State, a module and a plain tree have three different paths for the same leaf."""
    model = NnxNet(nnx.Rngs(0))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params):
        return nnx_loss(nnx.merge(graphdef, params, rest, copy=True), IMAGES)

    state = jax.grad(loss)(params)
    plain = nnx.to_pure_dict(state)
    module = nnx.merge(graphdef, state, rest)
    for grads in (state, plain, module):
        out = jax.jit(lambda g: apply(centralize(), g))(grads)
        chex.assert_trees_all_equal_structs(out, grads)
        flat = {
            jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value"): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(out)
        }
        assert_centralized(plain["conv"]["kernel"], flat["conv.kernel"], (0, 1, 2))
        assert_centralized(plain["heads"][0]["kernel"], flat["heads.0.kernel"], (0,))
        chex.assert_trees_all_equal(flat["norm.scale"], plain["norm"]["scale"])
        chex.assert_trees_all_equal(flat["heads.0.bias"], plain["heads"][0]["bias"])


def test_gc_works_in_an_nnx_optimizer():
    model = NnxNet(nnx.Rngs(0))
    start = jax.tree.map(jnp.copy, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    optimizer = nnx.Optimizer(model, optax.chain(centralize(), optax.sgd(0.1, 0.9)), wrt=nnx.Param)
    traces = []

    @nnx.jit
    def step(model, optimizer, x):
        traces.append(1)
        optimizer.update(model, nnx.grad(nnx_loss)(model, x))

    for _ in range(4):
        step(model, optimizer, IMAGES)
    assert len(traces) == 1
    end = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    moved = jax.tree.map(lambda a, b: np.asarray(b - a, np.float64), start, end)
    # The sum of each weight vector has not changed (Section 4.1), and all else may have.
    np.testing.assert_allclose(moved["conv"]["kernel"].mean((0, 1, 2)), 0, atol=1e-7)
    np.testing.assert_allclose(moved["heads"][0]["kernel"].mean(0), 0, atol=1e-7)
    assert np.abs(moved["conv"]["kernel"]).max() > 1e-3
    assert np.abs(moved["heads"][0]["bias"]).max() > 1e-3


def test_gc_works_in_a_linen_train_state_with_boxed_parameters():
    net = LinenNet()
    params = net.init(jax.random.key(0), IMAGES)["params"]
    assert isinstance(params["head"]["kernel"], nn.Partitioned)
    tx = optax.chain(centralize(), optax.sgd(0.1, 0.9))
    state = TrainState.create(apply_fn=net.apply, params=params, tx=tx)

    @jax.jit
    def step(state):
        def loss(params):
            out = state.apply_fn({"params": params}, IMAGES)
            return (out**2).mean() + out.sum()

        return state.apply_gradients(grads=jax.grad(loss)(state.params))

    for _ in range(4):
        state = step(state)
    moved = jax.tree.map(lambda a, b: np.asarray(b - a, np.float64), params, state.params)
    np.testing.assert_allclose(moved["conv"]["kernel"].mean((0, 1, 2)), 0, atol=1e-7)
    np.testing.assert_allclose(moved["head"]["kernel"].value.mean(0), 0, atol=1e-7)
    assert np.abs(moved["head"]["kernel"].value).max() > 1e-3
    assert np.abs(moved["norm"]["scale"]).max() > 1e-4


def test_gc_works_on_linen_variables_with_and_without_their_collection():
    variables = LinenNet().init(jax.random.key(0), IMAGES)
    assert kernel_axes(variables)["params"]["conv"]["kernel"] == (0, 1, 2)
    assert kernel_axes(variables["params"])["head"]["kernel"].value == (0,)


def test_gc_works_on_haiku_gradients():
    def forward(x):
        x = hk.Conv2D(4, 3, name="conv")(x)
        x = hk.BatchNorm(True, True, 0.9, name="norm")(x, is_training=True)
        return hk.Linear(5, name="head")(jax.nn.relu(x).mean((1, 2)))

    net = hk.transform_with_state(forward)
    params, state = net.init(jax.random.key(0), IMAGES)

    def loss(params):
        out, _ = net.apply(params, state, None, IMAGES)
        return (out**2).mean() + out.sum()

    grads = jax.grad(loss)(params)
    out = jax.jit(lambda g: apply(centralize(), g))(grads)
    assert_centralized(grads["conv"]["w"], out["conv"]["w"], (0, 1, 2))
    assert_centralized(grads["head"]["w"], out["head"]["w"], (0,))
    # Haiku's norms keep scale and offset with rank 4, in the shape (1, 1, 1, channels).
    chex.assert_trees_all_equal(out["norm"], grads["norm"])
    assert conv_kernels(grads)["conv"] == {"b": False, "w": True}


class EquinoxNet(eqx.Module):
    conv: eqx.nn.Conv2d
    head: eqx.nn.MLP

    def __init__(self, key):
        self.conv = eqx.nn.Conv2d(3, 4, 3, key=key)
        self.head = eqx.nn.MLP(4, 5, 8, 1, key=key)

    def __call__(self, x):
        return self.head(jax.nn.relu(self.conv(x)).mean((1, 2)))


def test_gc_works_on_equinox_gradients():
    model = EquinoxNet(jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    images = IMAGES.transpose(0, 3, 1, 2)

    def loss(params):
        out = jax.vmap(eqx.combine(params, static))(images)
        return (out**2).mean() + out.sum()

    grads = jax.grad(loss)(params)
    by_callable = centralize(functools.partial(kernel_axes, out_axis=0))
    # A module of axes is a tree, although it is callable too.
    by_tree = centralize(kernel_axes(params, out_axis=0))
    for tx in (by_callable, by_tree):
        out = jax.jit(lambda g, tx=tx: apply(tx, g))(grads)
        chex.assert_trees_all_equal_structs(out, grads)
        assert_centralized(grads.conv.weight, out.conv.weight, (1, 2, 3))
        assert_centralized(grads.head.layers[0].weight, out.head.layers[0].weight, (1,))
        # In Equinox a convolution's bias has rank 3.
        chex.assert_trees_all_equal(out.conv.bias, grads.conv.bias)
        chex.assert_trees_all_equal(out.head.layers[1].bias, grads.head.layers[1].bias)


def test_optax_centralize_takes_the_wrong_axes_of_a_flax_kernel():
    """It averages over the axes 1 to n - 1, which are a neuron's inputs in PyTorch but not in Flax."""
    kernel = jnp.asarray(np.random.default_rng(0).normal(1, 1, (4, 3)), jnp.float32)
    for tx, its_axes, other in ((optax.centralize(), 1, 0), (centralize(), 0, 1)):
        out = apply(tx, {"kernel": kernel})["kernel"]
        assert np.abs(out.mean(its_axes)).max() < 1e-6
        assert np.abs(out.mean(other)).max() > 0.1


def test_importing_the_library_imports_no_framework():
    code = "import sys, optax_gc; print([name for name in ('flax', 'haiku', 'equinox') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
