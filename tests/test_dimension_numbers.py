"""Muon and GaLore get the right axes, as an independent Newton-Schulz on flat matrices shows."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import optax_gc
from tests.helpers import apply
from tests.linear_kinds import LINEN_KINDS, NNX_KINDS, draw

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def newton_schulz(matrix):
    x = matrix / (np.linalg.norm(matrix) + 1e-8)
    wide = x if x.shape[0] <= x.shape[1] else x.T
    a, b, c = COEFFICIENTS
    for _ in range(5):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide if x.shape[0] <= x.shape[1] else wide.T


def expected_update(grad, roles, per_head):
    """Computes Muon's first step in NumPy, with one flat matrix (inputs, outputs) for each batch."""
    outputs = [axis for axis in roles.outputs if not (per_head and axis in roles.heads)]
    batch = [axis for axis in range(grad.ndim) if axis not in (*roles.inputs, *outputs)]
    order = [*batch, *roles.inputs, *outputs]
    moved = np.transpose(grad, order)
    fan_in = int(np.prod([grad.shape[axis] for axis in roles.inputs]))
    fan_out = int(np.prod([grad.shape[axis] for axis in outputs]))
    matrices = moved.reshape(-1, fan_in, fan_out)
    scale = np.sqrt(max(1, fan_out / fan_in))
    each = np.stack([scale * newton_schulz(matrix) for matrix in matrices])
    return -np.transpose(each.reshape(moved.shape), np.argsort(order))


def check(params, axes, per_head):
    numbers = optax_gc.muon_dimension_numbers(axes, per_head=per_head)
    tx = optax.contrib.muon(1.0, nesterov=False, muon_weight_dimension_numbers=numbers)
    grads = jax.tree.map(lambda p: draw(p, seed=3), params)
    updates = jax.jit(functools.partial(apply, tx))(grads, params)
    roles = jax.tree.leaves(
        axes.roles(params),
        is_leaf=lambda node: node is None or isinstance(node, optax_gc.AxisRoles),
    )
    kernels = 0
    for grad, update, its in zip(
        jax.tree.leaves(grads), jax.tree.leaves(updates), roles, strict=True
    ):
        if isinstance(its, optax_gc.AxisRoles):
            kernels += 1
            expected = expected_update(np.asarray(grad), its, per_head)
            np.testing.assert_allclose(update, expected, atol=1e-9)
    assert kernels


HEADS = ("general 1 to 2", "general 2 to 2", "einsum")  # the kinds with several axes of outputs


@pytest.mark.parametrize(
    ("kind", "per_head"),
    [(kind, False) for kind in NNX_KINDS]
    + [(kind, True) for kind in NNX_KINDS if kind.name in HEADS],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_muon_orthogonalizes_the_matrix_of_every_nnx_layer(x64, kind, per_head):
    del x64
    model = nnx.eval_shape(lambda: kind.layer(nnx.Rngs(0)))
    params = jax.tree.map(draw, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    check(params, optax_gc.nnx_kernel_axes(model), per_head)


@pytest.mark.parametrize("kind", LINEN_KINDS, ids=lambda kind: kind.name)
def test_muon_orthogonalizes_the_matrix_of_every_linen_layer(x64, kind):
    del x64
    x = jax.ShapeDtypeStruct(kind.x, jnp.float64)
    params = jax.tree.map(draw, jax.eval_shape(kind.layer.init, jax.random.key(0), x))
    check(params, optax_gc.linen_kernel_axes(kind.layer, jax.random.key(0), x), per_head=False)


class Experts(nnx.Module):
    """A block as in large language models, with grouped queries, a router and experts."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(11, 6, rngs=rngs)
        self.q = nnx.Einsum("btd,ndh->btnh", (4, 6, 2), rngs=rngs)
        self.kv = nnx.Einsum("bsd,ckdh->cbskh", (2, 2, 6, 2), rngs=rngs)
        self.out = nnx.Einsum("btnh,nhd->btd", (4, 2, 6), rngs=rngs)
        self.router = nnx.Linear(6, 3, rngs=rngs)
        self.up = nnx.Einsum("ebd,edf->ebf", (3, 6, 8), rngs=rngs)
        self.norm = nnx.RMSNorm(6, rngs=rngs)


def test_roles_of_grouped_queries_experts_and_what_muon_leaves_to_adam():
    model = nnx.Dict(model=Experts(nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    axes = optax_gc.nnx_kernel_axes(model)
    roles = axes.roles(params)["model"]
    assert roles["q"]["kernel"] == optax_gc.AxisRoles((1,), (0, 2), (), (0,))
    assert roles["kv"]["kernel"] == optax_gc.AxisRoles((2,), (0, 1, 3), (), (0, 1))
    assert roles["out"]["kernel"] == optax_gc.AxisRoles((0, 1), (2,))
    assert roles["up"]["kernel"] == optax_gc.AxisRoles((1,), (2,), (0,))
    numbers = optax_gc.muon_dimension_numbers(axes)(params)["model"]
    assert numbers["embed"]["embedding"] is numbers["norm"]["scale"] is None
    per_head = optax_gc.muon_dimension_numbers(axes, per_head=True)(params)["model"]
    assert per_head["q"]["kernel"] == optax.contrib.MuonDimensionNumbers((1,), (2,))
    assert per_head["router"]["kernel"] == optax.contrib.MuonDimensionNumbers((0,), (1,))


def test_shapes_alone_give_the_matrices_of_convolutions_and_no_heads():
    params = {
        "conv": {"kernel": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones(4)},
    }
    numbers = optax_gc.muon_dimension_numbers()(params)
    assert numbers["conv"]["kernel"] == optax.contrib.MuonDimensionNumbers((0, 1, 2), (3,))
    assert numbers["conv"]["bias"] is None
    with pytest.raises(ValueError, match="per_head=True needs axes that identify the heads"):
        optax_gc.muon_dimension_numbers(per_head=True)


def test_a_kernel_with_one_input_is_not_a_matrix_however_its_axes_are_found():
    model = nnx.Dict(
        thin=nnx.Linear(1, 4, rngs=nnx.Rngs(0)), wide=nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    )
    params = nnx.to_pure_dict(nnx.state(model))
    for axes in (optax_gc.kernel_axes, optax_gc.nnx_kernel_axes(model)):
        for convert in (optax_gc.muon_dimension_numbers, optax_gc.galore_dimension_numbers):
            numbers = convert(axes)(params)
            assert numbers["thin"]["kernel"] is None
            assert numbers["wide"]["kernel"] is not None


def test_per_head_is_refused_where_no_axis_counts_heads():
    model = eqx.nn.MultiheadAttention(2, 4, key=jax.random.key(0))
    for axes in (
        optax_gc.equinox_kernel_axes(model),
        optax_gc.nnx_kernel_axes(nnx.Linear(3, 4, rngs=nnx.Rngs(0))),
    ):
        with pytest.raises(ValueError, match="per_head=True needs axes that identify the heads"):
            optax_gc.muon_dimension_numbers(axes, per_head=True)


def test_layers_that_are_not_centralized_are_still_kernels_for_muon():
    model = nnx.Dict(
        conv=nnx.Conv(2, 3, (5,), rngs=nnx.Rngs(0)), head=nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    )
    params = nnx.to_pure_dict(nnx.state(model))
    axes = optax_gc.nnx_kernel_axes(model, layers=(nnx.Conv,))
    assert axes(params)["head"]["kernel"] is None
    numbers = optax_gc.muon_dimension_numbers(axes)(params)
    assert numbers["conv"]["kernel"] == optax.contrib.MuonDimensionNumbers((0, 1), (2,))
    assert numbers["head"]["kernel"] == optax.contrib.MuonDimensionNumbers((0,), (1,))

    x, key = jax.ShapeDtypeStruct((1, 7, 2), jnp.float32), jax.random.key(0)
    linen = nn.Sequential([nn.Conv(3, (5,)), nn.Dense(4)])
    axes = optax_gc.linen_kernel_axes(linen, key, x, layers=(nn.Conv,))
    params = jax.eval_shape(linen.init, key, x)
    numbers = optax_gc.muon_dimension_numbers(axes)(params)["params"]
    assert numbers["layers_1"]["kernel"] == optax.contrib.MuonDimensionNumbers((0,), (1,))


def test_a_kernel_of_unknown_axes_that_is_not_centralized_is_an_error_only_for_muon():
    model = nnx.Dict(
        conv=nnx.Conv(2, 3, (5,), rngs=nnx.Rngs(0)), head=nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    )
    model.head.kernel = nnx.Param(jnp.ones((5, 4)))
    params = nnx.to_pure_dict(nnx.state(model))
    axes = optax_gc.nnx_kernel_axes(model, layers=(nnx.Conv,))
    assert axes(params)["head"]["kernel"] is None
    assert "left alone, not in layers: 1 leaf" in optax_gc.tabulate(params, axes)
    with pytest.raises(ValueError, match=r"\['head'\]\['kernel'\].*belongs to Linear at head"):
        optax_gc.muon_dimension_numbers(axes)(params)


def test_a_stack_that_could_be_outputs_is_an_error_that_roles_resolve():
    square = nnx.split_rngs(splits=4)(
        nnx.vmap(lambda rngs: nnx.Linear(3, 4, rngs=rngs), out_axes=1)
    )
    model = nnx.Dict(layer=square(nnx.Rngs(0)))  # kernel (3, 4 layers, 4 outputs)
    params = nnx.to_pure_dict(nnx.state(model))
    axes = optax_gc.nnx_kernel_axes(model)
    assert axes(params)["layer"]["kernel"] == (0,)
    with pytest.raises(
        ValueError, match=r"\['layer'\]\['kernel'\].*cannot be determined.*AxisRoles"
    ):
        optax_gc.muon_dimension_numbers(axes)(params)
    settled = axes.replace({"layer/kernel": optax_gc.AxisRoles((0,), (2,), (1,))})
    numbers = optax_gc.muon_dimension_numbers(settled)(params)
    assert numbers["layer"]["kernel"] == optax.contrib.MuonDimensionNumbers((0,), (2,))
    with pytest.raises(ValueError, match="must contain each axis of layer/kernel"):
        axes.replace({"layer/kernel": optax_gc.AxisRoles((0,), (2,))})
    assert optax_gc.nnx_kernel_axes(model, stacks={"layer": 1}).roles(params)["layer"][
        "kernel"
    ].stacks == (1,)


def test_galore_projects_kernels_of_every_rank_and_not_stacks():
    model = nnx.Dict(block=Experts(nnx.Rngs(0)), conv=nnx.Conv(6, 8, (3, 3), rngs=nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    numbers = optax_gc.galore_dimension_numbers(optax_gc.nnx_kernel_axes(model))
    found = numbers(params)
    assert found["block"]["up"]["kernel"] is None
    assert found["block"]["out"]["kernel"] == optax.contrib.GaLoreDimensionNumbers((0, 1), (2,))
    tx = optax.chain(
        optax_gc.centralize(optax_gc.nnx_kernel_axes(model)),
        optax.contrib.galore(0.1, rank=2, weight_dimension_numbers=numbers),
    )
    updates = jax.jit(functools.partial(apply, tx))(params, params)
    assert np.any(updates["conv"]["kernel"])
