"""Every kind of net equals PyTorch's in logits, stages, running statistics and gradients."""

import hashlib
import json
import math
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from examples import models
from examples.models import pretrained

DATA = Path(__file__).parents[2] / "data" / "models"
NETS = json.loads((DATA / "index.json").read_text())["nets"]


def draw(key, shape, kind, multiplier=1.0):
    """Makes one array of PyTorch. Its name is the seed."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    if kind in ("conv_weight", "linear_weight"):
        values = rng.standard_normal(shape) * (0.8 * math.sqrt(2 / math.prod(shape[1:])))
    elif kind == "bias":
        values = rng.standard_normal(shape) * 0.05
    elif kind == "norm_weight":
        values = 1 + 0.1 * rng.standard_normal(shape)
    elif kind == "running_var":
        values = 1 + 0.2 * rng.random(shape)
    else:
        values = 0.1 * rng.standard_normal(shape)
    return (values * multiplier).astype(np.float32)


def zeros(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    return jnp.asarray(np.zeros(leaf.shape, leaf.dtype))


def load(name):
    """Returns a net with its weights made again, its images (NHWC) and PyTorch's results."""
    net = NETS[name]
    state = {entry[0]: draw(*entry) for entry in net["keys"]}
    digest = hashlib.sha256()
    for key, value in state.items():
        digest.update(key.encode() + value.tobytes())
    assert digest.hexdigest() == net["weights_sha256"]

    # To draw weights that are replaced at once would take most of the time.
    model = nnx.eval_shape(
        lambda: models.create(
            net["net"],
            num_classes=net["num_classes"],
            stem=net["stem"],
            rngs=nnx.Rngs(0),
            **net["options"],
        )
    )
    nnx.update(model, jax.tree.map(zeros, nnx.state(model)))
    pretrained.load_torch_state(model, state)
    model.set_attributes(nnx.Dropout, rate=0.0, raise_if_not_found=False)
    seed = zlib.crc32(f"input:{net['input']}".encode())
    images = np.random.Generator(np.random.PCG64(seed)).standard_normal(net["shape"])
    with np.load(DATA / f"{name}.npz") as arrays:
        expected = dict(arrays)
    return model, state, jnp.asarray(images.astype(np.float32).transpose(0, 2, 3, 1)), expected


def outputs(model, images):
    stages = model.features(images)
    return model.head(stages[-1]), stages


forward = nnx.jit(outputs)


@nnx.jit
def forward_and_gradients(model, images):
    def loss(model):
        logits, stages = outputs(model, images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.array([1, 3]))
        return losses.mean(), (logits, stages)

    return nnx.grad(loss, has_aux=True)(model)


def assert_close(actual, expected, tolerance=1e-4):
    """Checks that two arrays are equal, with a tolerance relative to the largest value."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("name", NETS)
def test_every_net_equals_pytorchs(name):
    net = NETS[name]
    model, state, images, expected = load(name)
    modes = [mode for mode in ("eval", "train") if f"{mode}/logits" in expected]
    assert modes
    for mode in modes:
        getattr(model, mode)()
        if mode == "train" and net["trainable"]:
            gradients, (logits, stages) = forward_and_gradients(model, images)
            check_gradients(model, gradients, net["trainable"], expected)
        else:
            logits, stages = forward(model, images)
        assert_close(logits, expected[f"{mode}/logits"])
        for key, stage in zip(net["stages"], stages, strict=True):
            stage = np.asarray(stage, np.float64)
            found = [stage.mean(), stage.std(), stage.min(), stage.max()]
            assert_close(found, expected[f"{mode}/stat/{key}"])
            assert_close(stage.mean((1, 2)), expected[f"{mode}/chmean/{key}"])

    variables = dict(nnx.to_flat_state(nnx.state(model, nnx.BatchStat)))
    statistics = {pretrained._torch_key(model, path): x[...] for path, x in variables.items()}
    for key, n in net["values_per_channel"].items():
        mean, var = f"{key}.running_mean", f"{key}.running_var"
        assert_close(statistics[mean], expected[f"after_train/{mean}"])
        # PyTorch adds a tenth of the unbiased variance, and Flax a tenth of the biased one.
        added = expected[f"after_train/{var}"] - 0.9 * state[var]
        assert_close(statistics[var], 0.9 * state[var] + added * (n - 1) / n)


def check_gradients(model, gradients, keys, expected):
    flat = nnx.to_flat_state(gradients)
    found = {pretrained._torch_key(model, path): np.asarray(x[...]) for path, x in flat}
    assert found.keys() == set(keys)
    norms = np.array([np.linalg.norm(found[key].ravel()) for key in keys])
    sums = np.array([found[key].sum(dtype=np.float64) for key in keys])
    # The gradient of a bias before a batch norm is only rounding, so there is a lowest tolerance.
    floor = 1e-5 * expected["train/grad_l2"].max()
    np.testing.assert_allclose(norms, expected["train/grad_l2"], rtol=1e-3, atol=floor)
    sizes = np.sqrt([found[key].size for key in keys])
    limit = 1e-3 * expected["train/grad_l2"] * sizes + floor * sizes
    assert (np.abs(sums - expected["train/grad_sum"]) <= limit).all()
