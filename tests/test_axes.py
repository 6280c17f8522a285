"""kernel_axes, conv_kernels and dense_kernels decide only by a leaf's last name and its rank."""

import subprocess
import sys
from typing import Any

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from jax.tree_util import DictKey, GetAttrKey

import optax_gc
from optax_gc import centralize, conv_kernels, dense_kernels, exclude, kernel_axes, tabulate


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_a_dense_kernel_is_averaged_over_its_inputs():
    assert kernel_axes({"kernel": array(5, 7)}) == {"kernel": (0,)}


def test_a_convolution_is_averaged_over_space_and_input_channels():
    assert kernel_axes({"kernel": array(3, 3, 5, 7)}) == {"kernel": (0, 1, 2)}


@pytest.mark.parametrize("rank", [0, 1, 3, 5, 6])
def test_a_leaf_of_an_ambiguous_rank_is_left_alone(rank):
    assert kernel_axes({"kernel": array(*[2] * rank)}) == {"kernel": None}


def test_ranks_names_the_ranks_of_kernels():
    axes = kernel_axes({"a": array(3, 5, 7), "b": array(5, 7)}, ranks=(3,))
    assert axes == {"a": (0, 1), "b": None}


@pytest.mark.parametrize(
    ("out_axis", "expected"), [(0, (1, 2, 3)), (-1, (0, 1, 2)), (-2, (0, 1, 3))]
)
def test_all_axes_except_the_output_axis_are_averaged(out_axis, expected):
    assert kernel_axes({"w": array(2, 3, 4, 5)}, out_axis=out_axis) == {"w": expected}


@pytest.mark.parametrize(
    "name",
    [
        "bias", "in_proj_bias", "scale", "layer_scale", "offset", "cls_token", "embedding",
        "embeddings", "pos_embed", "position_embeddings", "PosEmbedding", "b", "pos", "position",
        "pos_emb", "rel_pos_h", "relative_position_bias_table", "cls", "class_token", "codebook",
        "A_log", "gamma", "head_scales", "lora_B",
    ],
)  # fmt: skip
@pytest.mark.parametrize("rank", [2, 4])
def test_a_leaf_whose_name_is_not_that_of_a_kernel_is_left_alone(name, rank):
    tree = {"layer": {name: array(*[3] * rank)}}
    assert kernel_axes(tree) == {"layer": {name: None}}
    assert conv_kernels(tree) == dense_kernels(tree) == {"layer": {name: False}}


@pytest.mark.parametrize(
    "name", ["kernel", "weight", "w", "w_i", "query", "bias_free", "tokens", "bb"]
)
def test_a_leaf_of_any_other_name_is_a_kernel(name):
    assert kernel_axes({name: array(3, 4)}) == {name: (0,)}


@pytest.mark.parametrize("module", ["patch_embedding", "bias", "scale", "b", "token"])
def test_only_the_last_name_counts_and_not_those_of_modules(module):
    assert kernel_axes({module: {"kernel": array(3, 4)}}) == {module: {"kernel": (0,)}}


def test_a_leaf_does_not_depend_on_its_neighbours():
    tree = {"kernel": array(3, 4), "bias": array(4)}
    alone = {"kernel": array(3, 4)}
    assert kernel_axes(tree)["kernel"] == kernel_axes(alone)["kernel"]


class Box:
    def __init__(self, value):
        self.value = value


jax.tree_util.register_pytree_with_keys(
    Box, lambda box: (((GetAttrKey("value"), box.value),), None), lambda _, children: Box(*children)
)


def test_the_value_of_a_box_is_not_a_name():
    axes = kernel_axes({"kernel": Box(array(3, 4)), "bias": Box(array(3, 4))})
    assert axes["kernel"].value == (0,)
    assert axes["bias"].value is None
    # A key of a dictionary is always a name, even if it is "value".
    assert kernel_axes({"value": array(3, 4)}) == {"value": (0,)}


def test_a_leaf_without_a_name_is_judged_by_its_rank():
    assert kernel_axes(array(3, 4)) == (0,)
    assert kernel_axes(array(3)) is None
    assert kernel_axes([(array(3, 4), array(4)), (array(3, 3, 4, 5), array(5))]) == [
        ((0,), None),
        ((0, 1, 2), None),
    ]
    assert kernel_axes({0: array(3, 4)}) == {0: (0,)}


def test_the_items_of_a_list_have_the_name_of_the_list():
    assert kernel_axes({"bias": [array(3, 4)], "kernel": [array(3, 4)]}) == {
        "bias": [None],
        "kernel": [(0,)],
    }


def test_masked_and_missing_nodes_are_left_alone():
    tree = {"a": optax.MaskedNode(), "b": None, "c": {"kernel": array(3, 4)}}
    assert kernel_axes(tree) == {"a": None, "b": None, "c": {"kernel": (0,)}}
    assert conv_kernels(tree) == {"a": False, "b": None, "c": {"kernel": False}}
    assert dense_kernels(tree) == {"a": False, "b": None, "c": {"kernel": True}}


@pytest.mark.parametrize("leaf", [3.0, "text", jax.nn.relu, np.float32(2)])
def test_a_leaf_that_is_not_an_array_is_left_alone(leaf):
    assert kernel_axes({"kernel": leaf}) == {"kernel": None}
    assert conv_kernels({"kernel": leaf}) == {"kernel": False}


@pytest.mark.parametrize("tree", [{}, [], (), None])
def test_an_empty_tree_stays_empty(tree):
    assert kernel_axes(tree) == tree
    assert conv_kernels(tree) == tree
    assert dense_kernels(tree) == tree


def test_conv_kernels_and_dense_kernels_mark_leaves_by_rank():
    tree = {"kernel": array(3, 3, 4, 5), "head": array(4, 5), "attention": array(4, 2, 5)}
    assert conv_kernels(tree) == {"kernel": True, "head": False, "attention": False}
    assert dense_kernels(tree) == {"kernel": False, "head": True, "attention": False}


@pytest.mark.parametrize("name", ["head", "decoder/head", "head/kernel"])
def test_exclude_marks_all_but_the_named_part_in_every_framework(name):
    tree = {
        "decoder": {"head": {"kernel": array(3, 2)}, "body": [{"kernel": array(3, 3)}]},
        "overhead": {"kernel": array(2, 2)},
    }
    expected = {
        "decoder": {"head": {"kernel": False}, "body": [{"kernel": True}]},
        "overhead": {"kernel": True},
    }
    assert exclude(name)(tree) == expected
    boxed = nnx.state(nnx.Dict(head=nnx.Linear(3, 2, rngs=nnx.Rngs(0))))
    assert not any(jax.tree.leaves(exclude("head")(boxed)))


def excluded(name, params):
    """Returns the paths of the leaves that the mask excludes."""
    marked = jax.tree_util.tree_leaves_with_path(exclude(name)(params))
    return [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, kept in marked if not kept
    ]


def test_exclude_finds_nested_modules_of_haiku_linen_and_equinox():
    x, key = array(1, 3), jax.random.key(0)
    model: Any = hk.transform(lambda x: hk.nets.MLP([4, 2], name="head")(x))
    params = jax.eval_shape(model.init, key, x)
    second = ["head/~/linear_1/b", "head/~/linear_1/w"]
    assert excluded("linear_1", params) == excluded("head/~/linear_1", params) == second
    assert excluded("head", params) == ["head/~/linear_0/b", "head/~/linear_0/w", *second]

    model = nn.Sequential([nn.Dense(4), nn.Sequential([nn.Dense(4), nn.Dense(2)])])
    params = jax.eval_shape(model.init, key, x)
    second = ["params/layers_1/layers_1/bias", "params/layers_1/layers_1/kernel"]
    assert excluded("layers_1/layers_1", params) == second

    model = eqx.filter_eval_shape(lambda: eqx.nn.MLP(3, 2, 4, 1, key=key))
    params = eqx.filter(model, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    assert excluded("layers/1", params) == ["layers/1/weight", "layers/1/bias"]


def test_exclude_works_wherever_a_mask_does():
    grads = {"body": {"kernel": jnp.ones((3, 2))}, "head": {"kernel": jnp.ones((3, 2))}}
    mask = exclude("head")
    for tx in (
        centralize(mask=mask),
        optax.masked(centralize(), mask),
        optax_gc.sgd(-1.0, gc=centralize(mask=mask)),
    ):
        updates: Any = tx.update(grads, tx.init(grads))[0]
        assert not np.any(updates["body"]["kernel"])
        assert np.all(updates["head"]["kernel"] == 1)
    assert "left alone, masked: 1 leaf, 6 weights\n  head/kernel" in tabulate(grads, mask=mask)


def test_exclude_names_a_missing_part_unless_leaves_are_masked():
    tree = {"body": {"kernel": array(3, 2)}}
    with pytest.raises(ValueError, match=r"exclude\('haed'\): no leaf is in a part of this name"):
        exclude("haed")(tree)
    assert exclude("head")(tree | {"head": optax.MaskedNode()})["body"] == {"kernel": True}
    for names in [(), (3,), ("",), (None,)]:
        with pytest.raises(TypeError, match="exclude takes names"):
            exclude(*names)


def test_conv_kernels_can_have_other_ranks():
    tree = {"x": array(2, 2, 2, 3, 4), "y": array(2, 2, 3, 4), "z": array(2, 3, 4)}
    assert conv_kernels(tree) == {"x": False, "y": True, "z": False}
    assert conv_kernels(tree, ranks=(4, 5)) == {"x": True, "y": True, "z": False}


def test_tabulate_asks_to_check_what_only_the_rank_decides():
    text = tabulate({"weight": array(3, 2), "gate": array(3, 2), "conv": array(2, 2, 3, 4)})
    assert (
        "please check: taken for dense kernels only by their rank: 1 leaf, 6 weights\n  gate"
        in text
    )


def test_messages_name_a_leaf_by_its_path():
    assert jax.tree_util.keystr((DictKey("a"), GetAttrKey("value"))) == "['a'].value"
    with pytest.raises(
        ValueError, match=r"out_axis=2 is not an axis of the leaf \['a'\]\['w'\] of shape \(3, 4\)"
    ):
        kernel_axes({"a": {"w": array(3, 4)}}, out_axis=2)


@pytest.mark.parametrize("out_axis", [1.0, None, (0,), True, "0"])
def test_an_output_axis_that_is_not_an_int_is_refused(out_axis):
    with pytest.raises(TypeError, match="out_axis must be an int"):
        kernel_axes({"w": array(3, 4)}, out_axis=out_axis)


@pytest.mark.parametrize("ranks", [2, "24", (2.0,), (True,), None])
def test_ranks_that_are_not_ints_are_refused(ranks):
    with pytest.raises(TypeError, match=r"ranks must be a sequence of ints such as \(2, 4\)"):
        kernel_axes({"w": array(3, 4)}, ranks=ranks)


def test_a_rank_without_inputs_is_refused():
    with pytest.raises(ValueError, match="a kernel has at least 2 axes"):
        kernel_axes({"w": array(3, 4)}, ranks=(1, 2))


def test_all_public_names_exist():
    assert set(optax_gc.__all__) <= set(dir(optax_gc))


def test_help_works_without_the_frameworks():
    code = """
import pydoc, sys
sys.modules["equinox"] = sys.modules["haiku"] = None
import optax_gc
text = pydoc.render_doc(optax_gc)
assert "nnx_kernel_axes(" in text and "muon_dimension_numbers(" in text
assert "equinox_kernel_axes(" not in text and "haiku_kernel_axes(" not in text
"""
    subprocess.run([sys.executable, "-c", code], check=True)
