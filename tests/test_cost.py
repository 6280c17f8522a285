"""Bounds on the cost of GC as XLA counts it, which a slower version would break on any machine.

Everything is compiled for shapes. No array is made, and nothing is timed. The kernels have less than
8e6 parameters, because XLA's CPU backend fuses larger dense kernels differently.
"""

import functools
import re

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_gc
from optax_gc import centralize, kernel_axes
from tests.test_sharding import collectives

newest_xla = pytest.mark.newest_xla

PARAMS = {
    f"layer{i}": {
        "conv": {"kernel": jax.ShapeDtypeStruct((3, 3, 128, 128), jnp.float32)},
        "dense": {
            "kernel": jax.ShapeDtypeStruct((1024, 512), jnp.float32),
            "bias": jax.ShapeDtypeStruct((512,), jnp.float32),
        },
    }
    for i in range(6)
}
TREE_BYTES = sum(4 * leaf.size for leaf in jax.tree.leaves(PARAMS))
MEANS_BYTES = 6 * 4 * (128 + 512)

OPTIMIZERS = {
    "sgd": functools.partial(optax_gc.sgd, 0.1, momentum=0.9),
    "sgdw": functools.partial(optax_gc.sgdw, 0.1, momentum=0.9, weight_decay=5e-4),
    "adam": functools.partial(optax_gc.adam, 1e-3),
    "adamw": functools.partial(optax_gc.adamw, 1e-3),
}


def plain_line(updates, params):
    """GC if nothing has to be inferred, checked or widened."""
    del params
    return jax.tree.map(
        lambda g, axes: g - g.mean(axes, keepdims=True) if axes else g,
        updates,
        kernel_axes(updates),
    )


def copied(updates, params):
    """A branch is not fused with anything around it, so its result is written to memory."""
    finite = jnp.isfinite(updates["layer0"]["dense"]["bias"][0])
    return jax.lax.cond(finite, lambda: plain_line(updates, params), lambda: updates)


def read_twice(updates, params):
    return plain_line(plain_line(updates, params), params)


def shifted(updates, params):
    first = jax.tree.map(lambda g: jnp.broadcast_to(g[:1], g.shape), updates)
    return plain_line(jax.tree.map(jnp.subtract, updates, first), params)


def lower(tx, params=PARAMS):
    """Lowers an update step that works in place, as in training."""

    def step(carry, grads):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    # In JAX 0.12 the shapes that `init` returns do not have the sharding of their parameters.
    state = optax.tree_utils.tree_map_params(
        tx,
        lambda leaf, param: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=param.sharding),
        jax.eval_shape(tx.init, params),
        params,
    )
    return jax.jit(step, donate_argnums=0).lower((params, state), params)


def cost(tx, params=PARAMS):
    """Returns the bytes accessed, the bytes of temporaries, and the bytes updated in place."""
    compiled = lower(tx, params).compile()
    memory, counts = compiled.memory_analysis(), compiled.cost_analysis()
    assert memory is not None
    assert counts is not None
    return counts["bytes accessed"], memory.temp_size_in_bytes, memory.alias_size_in_bytes


def within_bounds(make, gc, trees_accessed=1, trees_kept=0):
    """Returns whether GC adds at most this many trees of traffic and of temporaries, and the means."""
    accessed, temporary, in_place = cost(make(gc=gc))
    without, without_temporary, without_in_place = cost(make(gc=optax.identity()))
    return (
        accessed <= 1.001 * (without + trees_accessed * TREE_BYTES)
        and temporary <= without_temporary + trees_kept * TREE_BYTES + 1.01 * MEANS_BYTES
        and in_place == without_in_place
    )


@newest_xla
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_costs_one_read_of_the_gradients_and_room_for_the_means(optimizer):
    assert within_bounds(OPTIMIZERS[optimizer], centralize())


@newest_xla
def test_gc_of_the_decay_costs_two_more_passes_and_a_tree():
    """On CPU, XLA writes g + λw to memory, and then reads it for the means and for the momentum.

    Without GC, the momentum reads g and w and adds λw itself. At least two more reads are needed.
    """
    sgd = functools.partial(optax_gc.sgd, 0.1, momentum=0.9, weight_decay=5e-4)
    assert within_bounds(sgd, centralize(), trees_accessed=3, trees_kept=1)


@newest_xla
@pytest.mark.parametrize("worse", [copied, read_twice, shifted])
def test_a_form_that_costs_more_breaks_the_bounds(worse):
    assert not within_bounds(OPTIMIZERS["sgd"], optax.stateless(worse))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
def test_it_is_the_plain_line_to_the_compiler(dtype):
    """It is as fast as the shortest code for GC, because it is the same program."""
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), PARAMS)
    ours, plain = (
        lower(optax.chain(gc, optax.sgd(0.1, momentum=0.9)), params).as_text()
        for gc in (centralize(), optax.stateless(plain_line))
    )
    assert ours == plain


@newest_xla
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_float32_sums_of_narrow_gradients_cost_no_more_than_narrow_ones(dtype):
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), PARAMS)
    ours, plain = (
        cost(optax.chain(gc, optax.sgd(0.1, momentum=0.9)), params)
        for gc in (centralize(), optax.stateless(plain_line))
    )
    assert all(mine <= its for mine, its in zip(ours[:2], plain[:2], strict=True))
    assert ours[2] == plain[2]


@pytest.mark.eight_devices
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize("split", ["nothing", "outputs", "inputs"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_sharded_update_sends_the_means_of_split_inputs_once(optimizer, split, axis_type):
    """This does not depend on the number of leaves, or on the optimizer that follows."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(axis_type,))

    def shard(leaf):
        spec: list[str | None] = [None] * len(leaf.shape)
        if len(spec) > 1 and split != "nothing":
            spec[-2 if split == "inputs" else -1] = "x"
        sharding = NamedSharding(mesh, P(*spec))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    tx = OPTIMIZERS[optimizer](gc=centralize())
    compiled = lower(tx, jax.tree.map(shard, PARAMS)).compile()
    found = collectives(compiled)
    if split != "inputs":
        assert found == []
        return
    ((shapes, kind),) = found
    assert kind == "all-reduce"
    sizes = [int(size) for size in re.findall(r"f32\[(\d+)\]", shapes)]
    assert 4 * sum(sizes) == MEANS_BYTES
    assert len(sizes) == 12
