"""linen_kernel_axes finds each layer's axes, wherever the layer is."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax.core import freeze

from optax_gc import AxisRoles, linen_kernel_axes, tabulate

KEY = jax.random.key(0)
X = jax.ShapeDtypeStruct((2, 3), jnp.float32)


def asked(model, *args, **kwargs):
    """Returns the axes and the abstract variables of a model. The default input is X."""
    args = args or (X,)
    axes = linen_kernel_axes(model, KEY, *args, **kwargs)
    kwargs.pop("layers", None)
    return axes, jax.eval_shape(lambda: model.lazy_init(KEY, *args, **kwargs))


def found(model, *args, **kwargs):
    """Returns the axes by path of all leaves that are centralized."""
    axes, variables = asked(model, *args, **kwargs)
    flat = jax.tree_util.tree_leaves_with_path(
        axes(nn.meta.unbox(variables["params"])), is_leaf=lambda node: isinstance(node, tuple)
    )
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


class CallTime(nn.Module):
    """An Einsum that gets its equation when it is called."""

    @nn.compact
    def __call__(self, x):
        return nn.Einsum((4, 3))(x, einsum_str="ti,oi->to")


@pytest.mark.parametrize(
    ("layer", "shape", "axes"),
    [
        (nn.Dense(4), (2, 3), (0,)),
        (nn.DenseGeneral((2, 4)), (5, 3), (0,)),
        (nn.DenseGeneral(4, axis=(-2, -1)), (5, 2, 3), (0, 1)),
        (nn.DenseGeneral((4, 5), axis=(-2, -1)), (5, 2, 3), (0, 1)),
        (nn.DenseGeneral(4, batch_dims=(0,)), (2, 5, 3), (1,)),
        (nn.Einsum((2, 3, 4), "nta,hab->nthb"), (2, 5, 3), (1,)),
        (nn.Einsum((2, 3, 4), "...hd,hdo->...o"), (5, 2, 3), (0, 1)),
        (nn.Conv(4, 5), (1, 9, 3), (0, 1)),
        (nn.Conv(4, (5, 2)), (1, 9, 9, 3), (0, 1, 2)),
        (nn.Conv(4, (5, 2, 1)), (1, 9, 9, 9, 3), (0, 1, 2, 3)),
        (nn.Conv(6, (5, 2), feature_group_count=2), (1, 9, 9, 4), (0, 1, 2)),
        (nn.Conv(4, (5, 2), feature_group_count=4), (1, 9, 9, 4), (0, 1, 2)),
        (nn.ConvLocal(4, (3, 2)), (1, 9, 9, 3), (2,)),
        (nn.ConvTranspose(4, (5, 2)), (1, 9, 9, 3), (0, 1, 2)),
        (nn.ConvTranspose(4, (5, 2), transpose_kernel=True), (1, 9, 9, 3), (0, 1, 3)),
    ],
)
def test_the_input_axes_of_each_layer_are_found(layer, shape, axes):
    assert found(layer, jnp.zeros(shape)) == {"kernel": axes}


def test_einsum_may_get_its_equation_in_the_call():
    assert found(CallTime()) == {"Einsum_0/kernel": (1,)}


def test_einsum_subclass_may_pass_its_equation_on():
    class Transposed(nn.Einsum):
        @nn.compact
        def __call__(self, inputs, einsum_str=None):
            return super().__call__(inputs, "ti,oi->to")

    assert found(Transposed((4, 3))) == {"kernel": (1,)}


def test_attention_averages_inputs_and_never_its_biases_of_rank_two():
    model = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8)
    axes, variables = asked(model, jnp.zeros((1, 5, 6)))
    assert variables["params"]["query"]["bias"].shape == (2, 4)
    assert found(model, jnp.zeros((1, 5, 6))) == {
        "query/kernel": (0,),
        "key/kernel": (0,),
        "value/kernel": (0,),
        "out/kernel": (0, 1),
    }
    assert axes(variables)["params"]["query"] == {"kernel": (0,), "bias": None}


@pytest.mark.parametrize(
    ("cell", "count"),
    [(nn.LSTMCell, 8), (nn.OptimizedLSTMCell, 8), (nn.SimpleCell, 2), (nn.GRUCell, 6)],
)
def test_recurrent_cells_hold_dense_kernels(cell, count):
    axes = found(nn.RNN(cell(4)), jnp.zeros((2, 5, 3)))
    assert set(axes.values()) == {(0,)}
    assert len(axes) == count
    assert all(path.endswith("/kernel") for path in axes)


def test_a_convolutional_cell_holds_convolution_kernels():
    axes = found(nn.RNN(nn.ConvLSTMCell(4, (3, 3))), jnp.zeros((1, 2, 5, 5, 3)))
    assert set(axes.values()) == {(0, 1, 2)}
    assert len(axes) == 2


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = nn.SpectralNorm(nn.Dense(3))(x, update_stats=train)
        x = nn.WeightNorm(nn.Dense(3))(x)
        return nn.LayerNorm()(nn.BatchNorm(use_running_average=not train)(x))


class Nested(nn.Module):
    def setup(self):
        self.items = [nn.Dense(4), nn.Dense(3)]
        self.named = {"a": nn.Dense(3)}
        self.table = nn.Embed(7, 3)
        self.inner = nn.remat(Inner, static_argnums=(2,))()

    def __call__(self, x, train):
        for item in self.items:
            x = item(x)
        x = self.inner(self.named["a"](x), train)
        return self.table.attend(self.items[1](self.items[0](x)))

    def encode(self, x):
        return self.items[0](x)


NESTED = {
    "items_0/kernel": (0,),
    "items_1/kernel": (0,),
    "named_a/kernel": (0,),
    "inner/Dense_0/kernel": (0,),
    "inner/Dense_1/kernel": (0,),
}


@pytest.mark.parametrize("train", [True, False])
def test_layers_are_found_in_lists_dicts_wrappers_and_remat(train):
    assert found(Nested(), X, train) == NESTED


def test_the_arguments_are_those_of_init():
    axes = found(Nested(), X, method="encode")
    assert axes == {"items_0/kernel": (0,)}
    assert found(Nested(), X, train=False) == NESTED


def test_leaves_of_other_collections_and_embeddings_are_left_alone_with_a_reason():
    axes, variables = asked(Nested(), X, True)
    text = tabulate(variables, axes)
    assert "left alone, embedding: 1 leaf, 21 weights\n  params/table/embedding" in text
    assert "left alone, in batch_stats" in text


def stack(layer, size, axis) -> Any:
    broadcast: Any = None  # which nn.vmap takes, but its annotation does not
    return nn.vmap(
        layer,
        variable_axes={"params": axis},
        split_rngs={"params": True},
        in_axes=broadcast,
        axis_size=size,
        metadata_params={nn.PARTITION_NAME: None},
    )


@pytest.mark.parametrize(("axis", "axes"), [(0, (1,)), (1, (0,)), (2, (0,))])
def test_stack_axes_are_batch_axes_wherever_they_lie(axis, axes):
    assert found(stack(nn.Dense, 5, axis)(4, use_bias=False)) == {"kernel": axes}


class Square(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
        return nn.Dense(3, use_bias=False, kernel_init=init)(x), None


def scanned(axis):
    return nn.scan(
        nn.remat(Square),
        variable_axes={"params": axis},
        split_rngs={"params": True},
        length=5,
        metadata_params={nn.PARTITION_NAME: None},
    )


@pytest.mark.parametrize(("axis", "axes"), [(0, (1,)), (1, (0,)), (2, (0,))])
def test_scanned_kernels_can_be_boxed(axis, axes):
    model = scanned(axis)()
    assert found(model, X, None) == {"Dense_0/kernel": axes}
    asking, variables = asked(model, X, None)
    boxed = asking(variables)["params"]["Dense_0"]["kernel"]
    assert boxed.value == axes


def test_stacks_of_stacks_and_of_functions_are_found():
    class Stack(nn.Module):
        def setup(self):
            self.dense = nn.Dense(4)

        def __call__(self, x):
            return stack(lambda module, x: module.dense(x), 7, 1)(self, x)

    assert found(Stack()) == {"dense/kernel": (0,)}
    assert found(stack(scanned(1), 6, 0)(), X, None) == {"Dense_0/kernel": (1,)}
    assert found(stack(Stack, 6, 0)()) == {"dense/kernel": (1,)}


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_the_transform_shows_the_stack_if_its_size_does_not(axis):
    # All axes have the same size, so only nn.vmap knows which one it has added.
    axes, variables = asked(stack(nn.Dense, 3, axis)(3))
    kernel = jax.tree_util.tree_leaves(variables["params"]["kernel"])[0]
    roles = axes.roles(variables)["params"]["kernel"]
    assert kernel.shape == (3, 3, 3)
    expected = {0: ((1,), (2,), (0,)), 1: ((0,), (2,), (1,)), -1: ((0,), (1,), (2,))}[axis]
    assert (roles.inputs, roles.outputs, roles.stacks) == expected
    assert axes(variables)["params"]["kernel"] == expected[0]


def test_attention_can_have_as_many_scanned_layers_as_heads():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            x = x + nn.MultiHeadDotProductAttention(num_heads=3, qkv_features=6, name="attention")(
                x
            )
            return nn.Dense(3)(nn.Dense(3)(x)), None

    class Decoder(nn.Module):
        @nn.compact
        def __call__(self, x):
            scan = nn.scan(
                nn.remat(Block), variable_axes={"params": 1}, split_rngs={"params": True}, length=3
            )
            x, _ = scan(name="blocks")(x, None)
            return nn.Dense(3, name="head")(x)

    axes = linen_kernel_axes(Decoder(), KEY, jax.ShapeDtypeStruct((2, 5, 3), jnp.float32))
    shapes = jax.eval_shape(Decoder().init, KEY, jnp.ones((2, 5, 3)))["params"]
    attention = axes(shapes)["blocks"]["attention"]
    assert attention["query"]["kernel"] == (0,)  # (inputs, layers, heads, features)
    assert attention["out"]["kernel"] == (0, 2)  # (heads, layers, features, outputs)
    assert axes(shapes)["blocks"]["Dense_1"]["kernel"] == (0,)
    assert axes(shapes)["head"]["kernel"] == (0,)


def test_nested_stacks_are_distinguished():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(x)

    model = nn.remat_scan(Block, lengths=(2, 2))()
    x = jax.ShapeDtypeStruct((4, 2), jnp.float32)
    axes = linen_kernel_axes(model, KEY, x)
    found = axes.roles(jax.eval_shape(model.init, KEY, x))
    (roles,) = jax.tree.leaves(found, is_leaf=lambda node: isinstance(node, AxisRoles))
    assert (roles.inputs, roles.outputs, roles.stacks) == ((2,), (3,), (0, 1))


def test_a_model_that_cannot_take_boxes_is_inspected_by_shape():
    class Normalized(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.SpectralNorm(nn.Dense(4))(x, update_stats=False)

    assert list(found(Normalized()).values()) == [(0,)]


def test_layers_names_the_classes_and_a_subclass_is_its_base():
    class Wide(nn.Dense):
        pass

    model = nn.Sequential([Wide(3), nn.Dense(4), nn.remat(Wide)(2)])
    first, second, third = (f"layers_{index}/kernel" for index in range(3))
    assert found(model) == {first: (0,), second: (0,), third: (0,)}
    assert found(model, layers=(Wide,)) == {first: (0,), third: (0,)}
    # Code that serves several models may name layers that one of them does not use.
    assert found(model, layers=(nn.Conv,)) == {}
    axes, variables = asked(model, layers=(nn.Conv,))
    assert "left alone, not in layers: 3 leaves" in tabulate(variables, axes)


@pytest.mark.parametrize("layer", [nn.BatchNorm, nn.SelfAttention, nn.Module, nn.Embed])
def test_layers_that_own_no_kernel_are_an_error(layer):
    with pytest.raises(ValueError, match=f"layers has {layer.__name__}.*Dense"):
        linen_kernel_axes(nn.Dense(4), KEY, X, layers=(layer,))


def test_subclass_that_keeps_its_kernel_under_another_name_is_unknown():
    class Renamed(nn.Dense):
        @nn.compact
        def __call__(self, inputs):
            return inputs @ self.param("weight", self.kernel_init, (3, self.features))

    axes, variables = asked(Renamed(4))
    assert "left alone, unknown layer Renamed: 1 leaf, 12 weights" in tabulate(variables, axes)


def test_shared_scopes_work_and_kernels_tied_with_different_axes_are_named():
    class Adapted(nn.Module):
        def setup(self):
            self.base = nn.Dense(4)
            nn.share_scope(self, self.base)

        @nn.compact
        def __call__(self, x):
            down = self.param("down", nn.initializers.ones, (x.shape[-1], 2))
            return self.base(x) + jnp.sum(x @ down)

    class Tied(nn.Module):
        def setup(self):
            self.layer = nn.Einsum((3, 3), use_bias=False)

        def __call__(self, x):
            return self.layer(self.layer(x, "ti,io->to"), "ti,oi->to")

    assert found(Adapted()) == {"kernel": (0,)}
    axes, variables = asked(Adapted())
    assert "unknown layer Adapted: 1 leaf, 6 weights\n  params/down" in tabulate(variables, axes)
    axes, variables = asked(Tied())
    with pytest.raises(
        ValueError, match=r"\['layer'\]\['kernel'\].*\(0,\) as Einsum at layer.*\(1,\) as Einsum"
    ):
        axes(variables)


def test_updates_may_lack_params_or_be_frozen_but_not_be_of_another_model():
    axes, variables = asked(Nested(), X, True)
    inside = axes(variables["params"])
    assert axes({"params": variables["params"]}) == {"params": inside}
    assert axes(freeze(variables["params"])) == freeze(inside)
    with pytest.raises(ValueError, match=r"no leaf \['head'\]\['kernel'\].*call it again"):
        axes({"head": {"kernel": jnp.ones((3, 4))}})
    with pytest.raises(ValueError, match=r"\['named_a'\]\['kernel'\] of shape \(3, 5\) had"):
        axes({"named_a": {"kernel": jnp.ones((3, 5))}})
