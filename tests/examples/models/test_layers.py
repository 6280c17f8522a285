"""The layers that Flax does not have work one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from examples import models
from examples.models import layers
from examples.training.errors import SettingError, UserError


def normal(seed, shape):
    return jax.random.normal(jax.random.key(seed), shape)


def test_standardized_kernels_have_zero_mean_and_unit_unbiased_deviation():
    kernel = np.asarray(layers.standardize(3 + 2 * normal(0, (3, 3, 4, 8))))
    rows = kernel.reshape(-1, 8)
    np.testing.assert_allclose(rows.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(rows.std(0, ddof=1), 1, rtol=2e-5)


def test_epsilon_is_added_to_the_deviation():
    kernel = 1e-5 * jnp.array([-1.0, 0.0, 1.0]).reshape(3, 1, 1, 1)
    expected = np.array([-0.5, 0.0, 0.5]).reshape(3, 1, 1, 1)
    np.testing.assert_allclose(layers.standardize(kernel), expected, rtol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
def test_ws_conv_is_a_conv_of_the_standardized_kernel(groups):
    options = {"strides": 2, "padding": 1, "feature_group_count": groups, "rngs": nnx.Rngs(0)}
    standardized = layers.WSConv(4, 6, (3, 3), **options)
    plain = nnx.Conv(4, 6, (3, 3), **options)
    assert isinstance(standardized, nnx.Conv)
    plain.kernel[...] = layers.standardize(standardized.kernel[...])
    x = normal(1, (2, 7, 7, 4))
    np.testing.assert_allclose(standardized(x), plain(x), rtol=1e-5, atol=1e-6)


def test_ws_gradients_have_zero_mean_over_a_neurons_inputs():
    layer = layers.WSConv(4, 6, (3, 3), rngs=nnx.Rngs(0))
    x = normal(1, (2, 7, 7, 4))
    gradient = nnx.grad(lambda layer: jnp.square(layer(x)).sum() + layer(x).sum())(layer)
    kernel = gradient["kernel"][...]
    assert jnp.abs(kernel).max() > 1
    assert jnp.abs(kernel.mean((0, 1, 2))).max() < 1e-6 * jnp.abs(kernel).max()


def test_ws_statistics_are_those_of_float32_in_a_bfloat16_net():
    layer = layers.WSConv(8, 4, (3, 3), padding="VALID", dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    # In bfloat16 the kernel would be constant, and its deviation 0.
    layer.kernel[...] = 100 + 0.01 * layer.kernel[...]
    y = layer(jnp.abs(normal(1, (1, 3, 3, 8))))
    assert y.dtype == jnp.bfloat16
    assert jnp.abs(y).min() > 0.01


def test_ws_needs_two_weights_a_neuron():
    with pytest.raises(ValueError, match="fan-in of at least 2"):
        layers.WSConv(1, 4, (1, 1), rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("features", "groups"),
    [(64, 32), (96, 32), (2048, 32), (32, 16), (16, 8), (8, 4), (24, 8), (4, 2), (2, 1), (7, 1)],
)
def test_the_number_of_groups_depends_on_the_channels(features, groups):
    assert layers.num_groups(features) == groups
    assert layers.group_norm(features, rngs=nnx.Rngs(0)).num_groups == groups


def test_groups_divide_the_channels_and_hold_two_at_least():
    for features in range(2, 300):
        assert features % layers.num_groups(features) == 0
        assert features // layers.num_groups(features) >= 2


def test_the_number_of_groups_is_a_setting():
    net = models.create(
        "resnet8", num_classes=10, stem="cifar", norm="gn", groups=1, width=8, rngs=nnx.Rngs(0)
    )
    norms = [layer for _, layer in nnx.iter_modules(net) if isinstance(layer, nnx.GroupNorm)]
    assert {norm.num_groups for norm in norms} == {1}
    # One group: the mean and the variance are those of all channels of an image.
    x = normal(0, (2, 5, 5, 8))
    expected = (x - x.mean((1, 2, 3), keepdims=True)) / x.std((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(norms[0](x), expected, atol=1e-4)
    with pytest.raises(SettingError, match="--groups 3: a layer of this net has 8 channels"):
        layers.group_norm(8, groups=3, rngs=nnx.Rngs(0))


def test_a_net_with_group_norm_does_not_depend_on_the_batch():
    model = models.create(
        "resnet8", num_classes=10, stem="cifar", norm="gn", width=8, rngs=nnx.Rngs(0)
    )
    x = normal(0, (4, 14, 14, 3))
    assert not jax.tree.leaves(nnx.state(model, nnx.BatchStat))
    np.testing.assert_allclose(model(x)[:1], model(x[:1]), rtol=1e-4, atol=1e-5)


def test_frozen_batch_norm_is_one_affine_map_in_both_modes():
    layer = layers.FrozenBatchNorm(3, epsilon=1e-5, rngs=nnx.Rngs(0))
    layer.mean[...] = jnp.array([1.0, 2.0, 3.0])
    layer.var[...] = jnp.array([4.0, 9.0, 16.0])
    assert layer.bias is not None
    layer.bias[...] = jnp.array([0.0, 1.0, 0.0])
    x = normal(0, (2, 5, 5, 3))
    expected = (np.asarray(x) - [1, 2, 3]) / np.sqrt(np.array([4, 9, 16]) + 1e-5) + [0, 1, 0]
    for mode in (layer.train, layer.eval):
        mode()
        np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(layer.mean[...], [1, 2, 3])
    np.testing.assert_array_equal(layer.var[...], [4, 9, 16])


def test_frozen_net_trains_its_scales_and_keeps_its_statistics():
    model = models.create(
        "resnet8", num_classes=10, stem="cifar", width=8, frozen_bn=True, rngs=nnx.Rngs(0)
    )
    before = jax.tree.map(jnp.copy, nnx.state(model, nnx.BatchStat))
    x = 5 + normal(0, (2, 14, 14, 3))
    gradient = nnx.jit(nnx.grad(lambda model: jnp.square(model(x)).mean()))(model)
    for name in ("scale", "bias"):
        assert jnp.abs(gradient["norm1"][name][...]).max() > 0
    jax.tree.map(np.testing.assert_array_equal, nnx.state(model, nnx.BatchStat), before)


def test_max_pool_pads_with_nothing():
    x = -1 - jnp.arange(16.0).reshape(1, 4, 4, 1)
    found = layers.max_pool(x, 3, 2, padding=1)[0, :, :, 0]
    np.testing.assert_array_equal(found, [[-1, -2], [-5, -6]])


@pytest.mark.parametrize("size", [(7, 7), (2, 3), (10, 14)])
def test_adaptive_bins_are_those_of_pytorch(size):
    x = np.asarray(normal(0, (2, *size, 3)))
    expected = np.empty((2, 7, 7, 3))
    for i in range(7):
        rows = slice(i * size[0] // 7, -(-(i + 1) * size[0] // 7))
        for j in range(7):
            columns = slice(j * size[1] // 7, -(-(j + 1) * size[1] // 7))
            expected[:, i, j] = x[:, rows, columns].mean((1, 2))
    found = layers.adaptive_average_pool(jnp.asarray(x), 7)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "pool", [layers.global_average_pool, lambda x: layers.adaptive_average_pool(x, 7)]
)
def test_pools_need_a_pixel(pool):
    with pytest.raises(UserError, match="no pixel left"):
        pool(jnp.ones((1, 0, 0, 4)))
