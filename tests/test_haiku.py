"""haiku_kernel_axes finds each layer's axes, wherever the layer is."""

from typing import Any

import haiku
import jax
import jax.numpy as jnp
import optax
import pytest

from optax_gc import AxisRoles, haiku_kernel_axes, muon_dimension_numbers, tabulate

# Haiku's type information lacks hk.experimental and some layers.
hk: Any = haiku
KEY = jax.random.key(0)


def asked(function, x, transform=hk.transform, **kwargs):
    model = transform(function)
    axes = haiku_kernel_axes(model, KEY, x, **kwargs)
    params = jax.eval_shape(model.init, KEY, x)
    return axes, params[0] if transform is hk.transform_with_state else params


def found(function, x, **kwargs):
    """Returns the axes by path of all leaves that are centralized."""
    axes, params = asked(function, x, **kwargs)
    return {
        f"{module}/{name}": leaf
        for module, arrays in axes(params).items()
        for name, leaf in arrays.items()
        if leaf is not None
    }


class Own(haiku.Module):
    def __call__(self, x):
        return x @ hk.get_parameter("weight", (4, 4), init=hk.initializers.Constant(1.0))


def test_layers_of_every_kind_are_found_and_the_rest_is_left_alone_with_a_reason():
    def net(x):
        x = hk.Conv2DTranspose(4, 2, stride=2)(hk.BatchNorm(True, True, 0.9)(x, is_training=True))
        x = hk.SeparableDepthwiseConv2D(1, 3)(hk.DepthwiseConv2D(1, 3)(x)).mean((1, 2))
        x = hk.MultiHeadAttention(2, 4, w_init=hk.initializers.RandomNormal())(x, x, x)
        x = hk.nets.MLP([4])(x[:, :4]) + hk.Embed(3, 4)(jnp.array([1, 2]))
        x, _ = hk.GRU(4)(Own()(x), jnp.ones((2, 4)))
        return hk.LSTM(4)(x, hk.LSTM(4).initial_state(2))[0]

    x = jax.ShapeDtypeStruct((2, 4, 4, 3), jnp.float32)
    axes, params = asked(net, x, hk.transform_with_state)
    kernels = found(net, x, transform=hk.transform_with_state)
    assert kernels["conv2_d_transpose/w"] == (3,)
    assert kernels["depthwise_conv2_d/w"] == (0, 1, 2)
    assert kernels["separable_depthwise_conv2_d/~/depthwise_conv2_d/w"] == (0, 1, 2)
    assert {kernels[f"multi_head_attention/{name}/w"] for name in ("query", "key", "linear")} == {
        (0,)
    }
    assert kernels["mlp/~/linear_0/w"] == kernels["gru/w_i"] == kernels["gru/w_h"] == (0,)
    assert kernels["lstm/linear/w"] == (0,)
    text = tabulate(params, axes)
    assert "left alone, embedding: 1 leaf, 12 weights\n  embed/embeddings" in text
    assert "left alone, unknown layer Own: 1 leaf, 16 weights\n  own/weight" in text
    assert not any("batch_norm" in name for name in kernels)


@pytest.mark.parametrize("outer", [1, 2])
def test_layer_stack_adds_its_axis_first(outer):
    # All axes have the same size, so only the stack itself shows which axis it has added.
    def block(x):
        return hk.Linear(3)(x)

    def net(x):
        x = hk.Linear(3)(x)
        inner = hk.experimental.layer_stack(3)(block)
        return inner(x) if outer == 1 else hk.experimental.layer_stack(3)(inner)(x)

    axes, params = asked(net, jax.ShapeDtypeStruct((2, 3), jnp.float32))
    (stacked,) = (name for name in params if name != "linear")
    depth = params[stacked]["w"].ndim - 2
    roles = axes.roles(params)[stacked]["w"]
    assert roles == AxisRoles((depth,), (depth + 1,), tuple(range(depth)))
    assert axes(params)["linear"]["w"] == (0,)


def test_layers_and_replace_choose_axes_and_muon_gets_its_numbers():
    def net(x):
        return hk.nets.MLP([4, 2])(hk.Conv1D(4, 3)(x))

    x = jax.ShapeDtypeStruct((2, 7, 3), jnp.float32)
    assert found(net, x, layers=(hk.ConvND,)) == {"conv1_d/w": (0, 1)}
    with pytest.raises(ValueError, match=r"layers has Embed.*Linear, ConvND"):
        found(net, x, layers=(hk.Embed,))
    axes, params = asked(net, x)
    assert axes.replace({"mlp/~/linear_1/w": None})(params)["mlp/~/linear_1"]["w"] is None
    numbers = muon_dimension_numbers(axes)(params)
    assert numbers["conv1_d"]["w"] == optax.contrib.MuonDimensionNumbers((0, 1), (2,))
    assert numbers["conv1_d"]["b"] is None


def test_a_model_that_was_traced_before_is_traced_again():
    model, x = hk.transform(lambda x: hk.Linear(2)(x)), jnp.zeros((1, 3))
    params = jax.eval_shape(model.init, KEY, x)
    for _ in range(2):
        assert haiku_kernel_axes(model, KEY, x)(params)["linear"]["w"] == (0,)


def test_arguments_that_are_not_arrays_reach_the_model_as_they_are():
    def net(x, is_training):
        return hk.Linear(2)(hk.BatchNorm(True, True, 0.9)(x, is_training))

    model, x = hk.transform_with_state(net), jax.ShapeDtypeStruct((2, 4), jnp.float32)
    params, _ = jax.eval_shape(lambda key, x: model.init(key, x, True), KEY, x)
    for axes in (
        haiku_kernel_axes(model, KEY, x, True),
        haiku_kernel_axes(model, KEY, x, is_training=True),
        haiku_kernel_axes(model, 0, jnp.ones((2, 4)), True),
    ):
        assert axes(params)["linear"]["w"] == (0,)


def test_an_unknown_layer_inside_of_a_layer_stack_is_named():
    axes, params = asked(
        lambda x: hk.experimental.layer_stack(3)(lambda x: Own()(x))(x),
        jax.ShapeDtypeStruct((2, 4), jnp.float32),
    )
    assert "left alone, unknown layer Own: 1 leaf, 48 weights" in tabulate(params, axes)


@pytest.mark.parametrize("model", [None, 3, hk.Linear, lambda x: x])
def test_what_is_not_transformed_is_refused(model):
    with pytest.raises(
        TypeError, match=r"what hk\.transform or hk\.transform_with_state returns; got"
    ):
        haiku_kernel_axes(model, KEY, jnp.ones((1, 2)))
