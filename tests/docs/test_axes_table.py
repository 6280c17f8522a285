"""The tables of layers on the page about axes say what the library does."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax import nnx

import optax_gc

PAGE = Path(__file__).parents[2] / "docs/axes.md"


def rows(framework):
    """Returns the cells of each row of a framework's table, without the backquotes."""
    page = PAGE.read_text(encoding="utf-8")
    block = re.search(rf"<!-- layers: {framework} -->\n(.*?)<!-- /layers -->", page, re.DOTALL)
    assert block, f"docs/axes.md has no table of the layers of {framework}"
    lines = block[1].strip().splitlines()[2:]
    return [[cell.strip().strip("`") for cell in line.strip("| ").split(" | ")] for line in lines]


def numbers(text, separator):
    """Reads a shape such as 3x3x6x8 or axes such as 0,1,2, as `tabulate` writes them."""
    return tuple(map(int, text.split(separator)))


def at(tree, leaf):
    return next(
        value
        for path, value in jax.tree_util.tree_leaves_with_path(
            tree, is_leaf=lambda node: node is None or isinstance(node, tuple)
        )
        if jax.tree_util.keystr(path, simple=True, separator="/") == leaf
    )


def check(params, axes, leaf, shape, told, by_shape):
    asked, guessed = at(axes(params), leaf), at(optax_gc.kernel_axes(params), leaf)
    assert at(params, leaf).shape == numbers(shape, "x")
    assert asked == (None if told == "left alone" else numbers(told, ","))
    verdict = "same" if guessed == asked else "left alone" if guessed is None else "wrong"
    assert by_shape == verdict


@pytest.mark.parametrize("row", rows("nnx"), ids=lambda row: " ".join(row[:2]))
def test_nnx_layers_are_as_the_table_says(row):
    layer, leaf, shape, told, by_shape = row
    # The text comes from our own page. Each layer takes its random numbers as the last argument.
    make = eval(f"lambda rngs: {layer[:-1]}, rngs=rngs)", {"nnx": nnx})
    model = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    check(params, optax_gc.nnx_kernel_axes(model), leaf, shape, told, by_shape)


@pytest.mark.parametrize("row", rows("linen"), ids=lambda row: " ".join(row[:3]))
def test_linen_layers_are_as_the_table_says(row):
    layer, shape_of_input, leaf, shape, told, by_shape = row
    module = eval(layer, {"nn": nn})
    x = jax.ShapeDtypeStruct(numbers(shape_of_input, "x"), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    axes = optax_gc.linen_kernel_axes(module, jax.random.key(0), x)
    check(params, axes, leaf, shape, told, by_shape)
