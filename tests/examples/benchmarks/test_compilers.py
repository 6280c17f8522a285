"""Tests what the compilers for TPU and GPU make of an update step. Neither card is needed.

The compilers are wheels: ``python -m pip install ".[test,tpu,cuda-compiler]"``, then
``python -m pytest -m compilers tests/examples/benchmarks``. Linux on x86-64 only.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_gc
from examples.benchmarks.compiled import cards, hlo, layouts, targets
from optax_gc import centralize

pytestmark = [pytest.mark.compilers, pytest.mark.usefixtures("optimized")]

CARDS = ("v5e", "h100")
MESH = {"data": 2, "model": 4}
OPTIMIZERS = {
    "sgdm": optax.sgd(0.1, momentum=0.9),
    "adamw": optax.adamw(1e-3),
}


class Net(nnx.Module):
    """A layer of each kind whose axes only the model can tell, and a convolution.

    It is too large for the fast memory of a TPU, where a copy of a gradient would not count.
    """

    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(512, 1024, (3, 3), rngs=rngs)
        self.attention = nnx.MultiHeadAttention(8, 2048, 8192, decode=False, rngs=rngs)
        self.up = nnx.Linear(2048, 16384, rngs=rngs)


NET = nnx.eval_shape(lambda: Net(nnx.Rngs(0)))
PARAMS = nnx.to_pure_dict(nnx.state(NET, nnx.Param))
AXES = optax_gc.nnx_kernel_axes(NET)
KERNELS = [
    (leaf, axes)
    for leaf, axes in zip(
        jax.tree.leaves(PARAMS),
        jax.tree.leaves(AXES(PARAMS), is_leaf=lambda node: node is None or isinstance(node, tuple)),
        strict=True,
    )
    if axes
]


def means_bytes(leaf, axes) -> int:
    return 4 * leaf.size // math.prod(leaf.shape[axis] for axis in axes)


MEANS_BYTES = sum(means_bytes(*kernel) for kernel in KERNELS)


@functools.cache
def make_mesh(card: str, axis_type: AxisType) -> Mesh:
    devices = targets.describe_devices(cards.CARDS[card], 8)
    return Mesh(np.array(devices).reshape(2, 4), tuple(MESH), axis_types=(axis_type,) * 2)


def shard(params: Any, split: str, mesh: Mesh, dtype=jnp.float32) -> Any:
    """Splits each kernel over "model" along its last input axis or its first output axis."""

    def sharded(leaf, axes):
        spec: list[str | None] = [None] * len(leaf.shape)
        if axes and split != "nothing":
            spec[max(axes) + (split == "outputs")] = "model"
        sharding = NamedSharding(mesh, P(*spec))
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=sharding)

    return jax.tree.map(sharded, params, AXES(params))


@functools.cache
def compile_update(
    card: str, split: str, gc: str, optimizer: str = "sgdm", axis_type: AxisType = AxisType.Auto
) -> tuple[Any, Any, list[hlo.Instruction]]:
    """Compiles a donated update step; returns it, its first argument and its instructions."""
    first = {"none": optax.identity(), "ours": centralize(AXES)}[gc]
    tx = optax.chain(first, OPTIMIZERS[optimizer])
    mesh = make_mesh(card, axis_type)
    params = shard(PARAMS, split, mesh)

    def step(carry, grads):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    with jax.set_mesh(mesh):
        carry = (params, layouts.shard_state(jax.eval_shape(tx.init, params), params))
        compiled = jax.jit(step, donate_argnums=0).lower(carry, params).compile()
    return compiled, carry, hlo.parse(str(compiled.as_text()))


def temporaries(compiled) -> int:
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("card", CARDS)
def test_temporaries_are_the_means_and_the_partial_sums_of_a_split_reduction(card, optimizer):
    """XLA splits a long sum into at most 64 parts; buffers start at multiples of 256 bytes."""
    ours, _, _ = compile_update(card, "nothing", "ours", optimizer)
    plain, _, _ = compile_update(card, "nothing", "none", optimizer)
    rounded = sum(-(-means_bytes(*kernel) // 256) * 256 for kernel in KERNELS)
    partial = 64 * max(means_bytes(*kernel) for kernel in KERNELS)
    assert temporaries(ours) <= temporaries(plain) + rounded + partial
    smallest_kernel = min(4 * leaf.size for leaf, _ in KERNELS)
    assert rounded + partial < smallest_kernel  # so that no gradient can hide in the bound


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("split", ["nothing", "outputs", "inputs"])
@pytest.mark.parametrize("card", CARDS)
def test_the_means_of_split_inputs_travel_once_and_nothing_else(card, split, axis_type):
    _, _, program = compile_update(card, split, "ours", "sgdm", axis_type)
    found = hlo.find_collectives(program, MESH)
    if split != "inputs":
        assert found == []
    else:
        assert found == [hlo.Collective("all-reduce", ("model",), 1, MEANS_BYTES)]


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("split", ["outputs", "inputs"])
@pytest.mark.parametrize("card", CARDS)
def test_shardings_are_kept_without_being_asked_for(card, split, axis_type):
    compiled, carry, _ = compile_update(card, split, "ours", "sgdm", axis_type)
    for given, result in zip(
        jax.tree.leaves(carry), jax.tree.leaves(compiled.output_shardings), strict=True
    ):
        assert result.is_equivalent_to(given.sharding, len(given.shape))


@pytest.mark.parametrize("split", ["nothing", "outputs", "inputs"])
@pytest.mark.parametrize("card", CARDS)
def test_no_gradient_is_transposed_copied_or_read_more_than_once_more(card, split):
    _, _, program = compile_update(card, split, "ours")
    part = 1 if split == "nothing" else 4
    assert hlo.find_moves(program, min(4 * leaf.size // part for leaf, _ in KERNELS)) == []
    leaves = len(jax.tree.leaves(PARAMS))
    _, _, plain = compile_update(card, split, "none")
    assert hlo.count_reads(program, leaves) <= hlo.count_reads(plain, leaves) + 1


@pytest.mark.parametrize("card", CARDS)
def test_gc_launches_at_most_three_kernels_for_each_mean(card):
    """The sum, the sum of its parts where XLA splits it, and the quotient; most means take one."""
    _, _, ours = compile_update(card, "nothing", "ours")
    _, _, plain = compile_update(card, "nothing", "none")
    assert hlo.count_fusions(ours) - hlo.count_fusions(plain) <= 3 * len(KERNELS)


def reduces_and_subtracts(card, transform) -> list[hlo.Instruction]:
    params = shard(PARAMS, "inputs", make_mesh(card, AxisType.Auto), jnp.bfloat16)
    update = jax.jit(lambda grads: transform.update(grads, transform.init(grads))[0])
    program = hlo.parse(str(update.lower(params).compile().as_text()))
    return [it for it in program if it.opcode in ("reduce", "subtract")]


@pytest.mark.parametrize("card", CARDS)
def test_sums_and_the_subtraction_of_bfloat16_gradients_run_in_float32(card):
    found = reduces_and_subtracts(card, centralize(AXES))
    assert {"reduce", "subtract"} == {it.opcode for it in found}
    assert all(it.shape.startswith("f32[") for it in found)


def test_a_subtraction_in_bfloat16_would_show():
    """The control of the test above: on an H100, which computes in bfloat16."""
    narrow = optax.stateless(
        lambda grads, _: jax.tree.map(
            lambda g, axes: g - g.mean(axes, keepdims=True) if axes else g, grads, AXES(grads)
        )
    )
    found = reduces_and_subtracts("h100", narrow)
    assert any(it.shape.startswith("bf16[") for it in found)
