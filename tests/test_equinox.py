"""equinox_kernel_axes finds each layer's axes, wherever the layer is."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest

from optax_gc import AxisRoles, centralize, equinox_kernel_axes, muon_dimension_numbers, tabulate

KEY = jax.random.key(0)


def found(model, **kwargs):
    """Returns the axes by path of all leaves that are centralized."""
    params = eqx.filter(model, eqx.is_inexact_array)
    axes = equinox_kernel_axes(model, **kwargs)(params)
    flat = jax.tree_util.tree_leaves_with_path(axes, is_leaf=lambda node: isinstance(node, tuple))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in flat
        if isinstance(leaf, tuple)
    }


class Net(eqx.Module):
    table: eqx.nn.Embedding
    norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    cells: list
    convs: dict
    positions: jax.Array
    own: jax.Array

    def __init__(self, key):
        self.table = eqx.nn.Embedding(9, 8, key=key)
        self.norm = eqx.nn.LayerNorm((4, 8))
        self.attention = eqx.nn.MultiheadAttention(2, 8, key=key)
        self.cells = [eqx.nn.GRUCell(3, 4, key=key), eqx.nn.LSTMCell(3, 4, key=key)]
        self.convs = {"up": eqx.nn.ConvTranspose2d(3, 4, 2, stride=2, key=key)}
        self.positions = jnp.ones((5, 8))
        self.own = jnp.ones((5, 8))


def test_each_layer_is_found_wherever_it_is_and_the_rest_is_left_alone_with_a_reason():
    model = Net(KEY)
    expected = {
        f"attention/{name}_proj/weight": (1,) for name in ("query", "key", "value", "output")
    }
    expected |= {f"cells/{index}/weight_{gate}": (1,) for index in (0, 1) for gate in ("ih", "hh")}
    assert found(model) == expected | {"convs/up/weight": (1,)}
    text = tabulate(eqx.filter(model, eqx.is_inexact_array), equinox_kernel_axes(model))
    assert "left alone, embedding: 1 leaf, 72 weights" in text
    assert "left alone, unknown layer Net: 1 leaf, 40 weights\n  own" in text
    assert "norm/weight" in text.split("not a kernel")[1]


def test_a_model_of_shapes_is_enough_and_gradients_are_accepted():
    shapes = eqx.filter_eval_shape(Net, KEY)
    assert set(equinox_kernel_axes(shapes)._table) == set(equinox_kernel_axes(Net(KEY))._table)
    model = eqx.nn.MLP("scalar", 2, 3, 1, key=KEY)
    grads = eqx.filter_grad(lambda model: jnp.sum(model(jnp.float32(2.0))))(model)
    tx = centralize(equinox_kernel_axes(model))
    updates: Any = tx.update(grads, optax.EmptyState())[0]
    assert jnp.allclose(updates.layers[1].weight.sum(1), 0, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_stacks_of_filter_vmap_are_found(axis):
    def make(key):
        return eqx.nn.Linear(3, 4, key=key)

    where = eqx.filter_eval_shape(make, KEY)
    out_axes = eqx.tree_at(lambda layer: (layer.weight, layer.bias), where, (axis, 0))
    stacked = eqx.filter_vmap(make, out_axes=out_axes)(jax.random.split(KEY, 5))
    assert found(stacked) == {"weight": (2,)}
    roles = equinox_kernel_axes(stacked).roles(eqx.filter(stacked, eqx.is_inexact_array)).weight
    assert roles == AxisRoles((2,), (1 - axis,), (axis,))


def test_layers_chooses_kernels_and_muon_gets_its_numbers():
    model = Net(KEY)
    assert found(model, layers=(eqx.nn.ConvTranspose,)) == {"convs/up/weight": (1,)}
    with pytest.raises(ValueError, match=r"layers has Embedding.*Linear, Conv"):
        found(model, layers=(eqx.nn.Embedding,))
    numbers = muon_dimension_numbers(equinox_kernel_axes(model))
    up = numbers(eqx.filter(model, eqx.is_inexact_array)).convs["up"].weight
    assert up == optax.contrib.MuonDimensionNumbers((1,), (0, 2, 3))


@pytest.mark.parametrize(
    "model", [None, {}, 3, eqx.nn.Linear, jnp.ones(3), {"w": jnp.ones((3, 4))}]
)
def test_what_is_not_an_equinox_model_is_refused(model):
    with pytest.raises(TypeError, match="must have Equinox modules with arrays; got"):
        equinox_kernel_axes(model)
