"""On eight devices, numbers and shardings are the same, and only the needed means are sent."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from optax_gc import centralize
from tests.helpers import apply

pytestmark = pytest.mark.eight_devices

SHAPES = {
    "conv": {"kernel": (3, 3, 8, 16)},
    "dense": {"kernel": (16, 32)},
    "half": {"kernel": (32, 8)},
}
# How a kernel of rank 2 and 4 is split: on its inputs, its outputs, both, or not at all.
LAYOUTS = {
    "replicated": (P(), P()),
    "outputs": (P(None, ("x", "y")), P(None, None, None, ("x", "y"))),
    "inputs": (P(("x", "y"), None), P(None, None, ("x", "y"), None)),
    "both": (P("x", "y"), P(None, None, "x", "y")),
}


@pytest.fixture(params=[AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def mesh(request):
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(request.param,) * 2)


def gradients():
    rng = np.random.default_rng(0)
    grads = jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(1, 1, shape), jnp.float32),
        SHAPES,
        is_leaf=lambda node: isinstance(node, tuple),
    )
    grads["half"]["kernel"] = grads["half"]["kernel"].astype(jnp.bfloat16)
    return grads


def put(grads, layout, mesh):
    by_rank = dict(zip((2, 4), LAYOUTS[layout], strict=True))
    return jax.tree.map(lambda g: jax.device_put(g, NamedSharding(mesh, by_rank[g.ndim])), grads)


def collectives(compiled):
    return re.findall(
        r"= (\S+|\(.*?\)) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\(",
        compiled.as_text(),
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_and_shardings_are_those_of_one_device(layout, mesh):
    update = jax.jit(lambda grads: apply(centralize(), grads))
    expected = update(gradients())
    with jax.set_mesh(mesh):
        sharded = put(gradients(), layout, mesh)
        out = update(sharded)
    for name in SHAPES:
        result, given = out[name]["kernel"], sharded[name]["kernel"]
        assert result.sharding.is_equivalent_to(given.sharding, result.ndim)
        one_rounding = 2e-6 if result.dtype == jnp.float32 else 2.0**-8
        np.testing.assert_allclose(
            np.asarray(result, np.float32),
            np.asarray(expected[name]["kernel"], np.float32),
            atol=4 * one_rounding,
        )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_the_means_of_split_inputs_travel(layout, mesh):
    """There is one all-reduce of only the means for the whole tree, and none if inputs are whole."""
    update = jax.jit(lambda grads: apply(centralize(), grads))
    with jax.set_mesh(mesh):
        compiled = update.lower(put(gradients(), layout, mesh)).compile()
    found = collectives(compiled)
    if layout in ("replicated", "outputs"):
        assert found == []
        return
    ((shapes, kind),) = found
    assert kind == "all-reduce"
    elements = sum(
        int(np.prod([int(n) for n in dims.split(",") if n]))
        for dims in re.findall(r"f32\[([\d,]*)\]", shapes)
    )
    outputs = sum(shape["kernel"][-1] for shape in SHAPES.values())
    assert elements == (outputs if layout == "inputs" else outputs // 2)


def mapped_over(mesh, spec):
    """Returns centralize((0,)) on each device's own part, as a function of the whole gradient."""

    def update(part):
        return apply(centralize((0,)), part)

    mapped = jax.jit(jax.shard_map(update, mesh=mesh, in_specs=spec, out_specs=spec))
    return lambda gradient: mapped(jax.device_put(gradient, NamedSharding(mesh, spec)))


def test_shard_map_over_outputs_is_the_same_function(mesh):
    grads = gradients()["dense"]["kernel"]
    tx = centralize((0,))
    spec = P(None, ("x", "y"))
    mapped = mapped_over(mesh, spec)
    np.testing.assert_allclose(mapped(grads), apply(tx, grads), atol=1e-6)


def test_shard_map_over_inputs_takes_the_mean_of_only_each_part(mesh):
    """The docstring warns of this. Each device sees only its own inputs."""
    grads = gradients()["dense"]["kernel"]
    tx = centralize((0,))
    spec = P(("x", "y"), None)
    mapped = mapped_over(mesh, spec)
    parts = [apply(tx, part) for part in np.split(np.asarray(grads), 8)]
    np.testing.assert_allclose(mapped(grads), np.concatenate(parts), atol=1e-6)
    assert np.abs(np.concatenate(parts) - apply(tx, grads)).max() > 0.1
    assert "shard_map" in (centralize.__doc__ or "")
