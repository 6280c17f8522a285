"""nnx_kernel_axes finds the axes that nnx.vmap and nnx.scan add, or says what it assumes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from optax_gc import nnx_kernel_axes, tabulate
from tests.helpers import found, rngs


def stacked(make, size, axis):
    out_axes = nnx.StateAxes({nnx.PathContains("kernel"): axis, ...: 0})
    return nnx.split_rngs(splits=size)(nnx.vmap(make, in_axes=0, out_axes=out_axes))(rngs())


@pytest.mark.parametrize(("axis", "axes"), [(0, (1,)), (1, (0,)), (2, (0,))])
def test_stack_axes_are_batch_axes_wherever_they_lie(axis, axes):
    assert found(stacked(lambda rngs: nnx.Linear(3, 4, rngs=rngs), 5, axis)) == {"kernel": axes}


def test_stacks_of_stacks_are_found():
    def inner(rngs):
        return nnx.vmap(lambda rngs: nnx.Linear(3, 4, rngs=rngs))(rngs)

    keys = nnx.split_rngs(splits=(6, 5))
    model = keys(nnx.vmap(inner, out_axes=2))(rngs())
    assert model.kernel.shape == (5, 3, 6, 4)
    assert found(model) == {"kernel": (1,)}


def test_the_rank_of_stacked_lora_is_found_from_both_factors():
    model = stacked(lambda rngs: nnx.LoRA(3, 2, 4, rngs=rngs), 5, 0)
    assert found(model) == {"lora_a": (1,)}
    roles = nnx_kernel_axes(model).roles(nnx.to_pure_dict(nnx.state(model)))
    assert roles["lora_b"].stacks == (0,)


def test_stack_that_could_be_outputs_or_batch_is_not_ambiguous():
    assert found(stacked(lambda rngs: nnx.Linear(3, 4, rngs=rngs), 4, 1)) == {"kernel": (0,)}


def test_stack_of_one_is_not_ambiguous():
    model = stacked(lambda rngs: nnx.Conv(3, 4, (1,), rngs=rngs), 1, 0)
    (axes,) = found(model).values()
    assert 2 in axes
    assert 3 not in axes  # the outputs


def test_an_ambiguous_stack_is_assumed_to_be_first_and_tabulate_says_so():
    model = nnx.Sequential(
        stacked(lambda rngs: nnx.Linear(3, 4, rngs=rngs), 3, 0), nnx.Conv(4, 2, 5, rngs=rngs())
    )
    assert found(model) == {"layers/0/kernel": (1,), "layers/1/kernel": (0, 1)}
    axes = nnx_kernel_axes(model)
    text = tabulate(nnx.state(model, nnx.Param), axes)
    assert "axes (0,) are taken to count stacked layers" in text
    assert "layers/0/kernel" in text.split("taken to count")[1]
    # The user can choose the axes, for a part of the model or for a leaf.
    assert found(model, stacks={"layers/0": 1})["layers/0/kernel"] == (0,)
    mine = axes.replace({"layers/0/kernel": (0,)})
    assert mine(nnx.state(model, nnx.Param))["layers"][0]["kernel"].get_value() == (0,)


@pytest.mark.parametrize("axis", [0, 1])
def test_attention_with_as_many_layers_as_heads_is_stacked_like_its_neighbours(axis):
    class Block(nnx.Module):
        def __init__(self, rngs):
            self.attention = nnx.MultiHeadAttention(3, 8, 6, decode=False, rngs=rngs)
            self.up = nnx.Linear(8, 16, rngs=rngs)

    def make(rngs):
        out_axes = nnx.StateAxes({nnx.PathContains("kernel"): axis, ...: 0})
        split = nnx.split_rngs(splits=3)
        return split(nnx.vmap(Block, in_axes=(0,), out_axes=out_axes))(rngs)

    model = nnx.Dict(blocks=nnx.eval_shape(lambda: make(rngs())))
    out = found(model)["blocks/attention/out/kernel"]  # 3 layers, 3 heads, 2 features, 8 outputs
    assert out == {0: (1, 2), 1: (0, 2)}[axis]
    roles = nnx_kernel_axes(model).roles(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    roles = roles["blocks"]["attention"]["query"]["kernel"]
    assert roles.stacks == (axis,)
    assert len(roles.heads) == 1


def test_an_ambiguous_stack_is_an_error_if_its_neighbours_disagree():
    class Two(nnx.Module):
        def __init__(self):
            self.first = stacked(lambda rngs: nnx.Linear(4, 5, rngs=rngs), 3, 0)
            self.second = stacked(lambda rngs: nnx.Linear(4, 5, rngs=rngs), 3, 1)
            self.square = stacked(lambda rngs: nnx.Linear(3, 4, rngs=rngs), 3, 0)

    model = nnx.Dict(both=Two())
    with pytest.raises(
        ValueError, match=r"\['square'\]\['kernel'\].* of shape \(3, 3, 4\).*replace"
    ):
        found(model)
    assert found(model, stacks={"both/square": 0})["both/square/kernel"] == (1,)


@pytest.mark.parametrize(
    ("stacks", "message"),
    [
        ({"decoder": 0}, "stacks has 'decoder', but the model has no kernel there"),
        ({"kernel": 2}, r"\['kernel'\].* of shape \(3, 3, 4\).*not a stack.* along \(2,\)"),
        ({"kernel": 7}, r"\['kernel'\].*not a stack.* along \(7,\)"),
        ({"kernel": -4}, r"\['kernel'\].*not a stack.* along \(-1,\)"),
        ({"kernel": (0, 1)}, r"\['kernel'\].*not a stack.* along \(0, 1\)"),
    ],
)
def test_stacks_that_do_not_fit_the_model_are_errors(stacks, message):
    with pytest.raises(ValueError, match=message):
        found(stacked(lambda rngs: nnx.Linear(3, 4, rngs=rngs), 3, 0), stacks=stacks)


def test_stacks_are_ints_also_of_numpy():
    model = stacked(lambda rngs: nnx.Linear(3, 4, rngs=rngs), 3, 0)
    assert found(model, stacks={"kernel": np.int64(0)}) == {"kernel": (1,)}
    for axes in (True, (True,), 0.0, [0]):
        with pytest.raises(
            TypeError, match=r"stacks\['kernel'\] must be an int or a tuple of ints"
        ):
            found(model, stacks={"kernel": axes})


def test_the_user_chooses_nested_stacks_of_equal_size():
    inner = stacked(lambda rngs: nnx.Linear(3, 3, rngs=rngs), 3, 0)
    model = nnx.Dict(layers=jax.tree.map(lambda p: jnp.stack([p] * 3, 1), inner))
    assert found(model, stacks={"layers": (0, 1)}) == {"layers/kernel": (2,)}
    assert found(model, stacks={"layers": (1, -1)}) == {"layers/kernel": (0,)}
