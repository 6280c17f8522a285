"""Programs for cards: what is read from a program's text, how trees are split, other forms of the means."""

import math
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from examples.benchmarks import flags, trees
from examples.benchmarks.compiled import hlo, layouts, llama, mean_forms, names, steps, update
from optax_gc import centralize

TEXT = """
%region (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%fused (p: f32[8,4]) -> f32[4] {
  %p = f32[8,4]{1,0} parameter(0)
  %zero = f32[] constant(0)
  ROOT %sum = f32[4]{0} reduce(%p, %zero), dimensions={0}, to_apply=%region
}

ENTRY %main (w: f32[8,4], g: f32[8,4]) -> f32[8,4] {
  %w = f32[8,4]{1,0} parameter(0)
  %g = f32[8,4]{1,0:T(8,128)} parameter(1)
  %bitcast = f32[32]{0} bitcast(%g)
  %sum.1 = f32[4]{0} fusion(%g), kind=kInput, calls=%fused
  %part = ((f32[8,4]{1,0}), f32[4,4]{1,0:S(1)}, s32[]) slice-start(%g), slice={[0:4], [0:4]}
  %whole = f32[4,4]{1,0:S(1)} slice-done(%part)
  %all-reduce-start = f32[4]{0} all-reduce-start(%sum.1), replica_groups=GROUPS, to_apply=%region
  %all-reduce-done = f32[4]{0} all-reduce-done(%all-reduce-start)
  %copy = f32[8,4]{0,1} copy(%bitcast)
  ROOT %out = f32[8,4]{1,0} subtract(%w, %copy)
}
"""
MESH = {"fsdp": 4, "model": 2}


def test_kernels_fusions_copies_and_reads_are_counted():
    instructions = hlo.parse(TEXT)
    assert hlo.count_fusions(instructions) == 1
    # The fusion, the slice, the all-reduce, the copy and the subtraction.
    assert hlo.count_kernels(instructions) == 5
    assert [move.name for move in hlo.find_moves(instructions, 128)] == ["copy"]
    assert hlo.find_moves(instructions, 129) == []
    # The gradient is read by the fusion, by the copy through its bitcast, and half of it by the slice.
    assert hlo.count_reads(instructions, 1) == 2.5
    # Of both arguments together: the other one is read once.
    assert hlo.count_reads(instructions, 2) == 1.75


def test_traffic_is_what_is_read_from_and_written_to_the_slow_memory():
    instructions = hlo.parse(TEXT)
    gradient, mean = 4 * 8 * 4, 4 * 4
    fusion = gradient + mean
    part = gradient // 2  # the slice is read from slow memory and written to fast memory
    all_reduce = 2 * mean
    copy, subtract = 2 * gradient, 3 * gradient
    assert hlo.count_traffic(instructions) == fusion + part + all_reduce + copy + subtract
    loop = TEXT.replace("subtract(%w, %copy)", "while(%copy), condition=%region, body=%region")
    with pytest.raises(ValueError, match="the program has a while"):
        hlo.count_traffic(hlo.parse(loop))


def test_of_an_operand_that_is_sliced_in_a_fusion_the_slice_counts():
    text = TEXT.replace(
        "reduce(%p, %zero), dimensions={0}, to_apply=%region",
        "slice(%p), slice={[0:1], [0:4]}",
    )
    less = hlo.count_traffic(hlo.parse(TEXT)) - hlo.count_traffic(hlo.parse(text))
    assert less == 4 * (8 * 4 - 4)


def test_the_names_are_those_that_can_be_made():
    assert tuple(llama.SIZES) == names.TRANSFORMERS
    assert set(names.NETS) <= set(flags.NETS)
    assert set(update.make_arms(llama.create("llama_1g"))) == set(names.ARMS)


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", ("model",)),
        ("{{0,2,4,6},{1,3,5,7}}", ("fsdp",)),
        ("{}", ("fsdp", "model")),
        ("[4,2]<=[8]", ("model",)),
        ("[2,4]<=[4,2]T(1,0)", ("fsdp",)),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_1'}", ("model",)),
        ("mesh['axis_0'=2,'axis_1'=4], device_ids=([4,2]T(1,0)) {'axis_1'}", ("fsdp",)),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_0','axis_1'}", ("fsdp", "model")),
    ],
)
def test_collectives_are_told_by_the_axes_that_they_cross(groups, axes):
    found = hlo.find_collectives(hlo.parse(TEXT.replace("GROUPS", groups)), MESH)
    assert found == [hlo.Collective("all-reduce", axes, 1, 16)]


def test_groups_in_an_unknown_form_are_an_error():
    with pytest.raises(ValueError, match="cannot read the groups"):
        hlo.find_collectives(hlo.parse(TEXT), MESH)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("llama_1g", 1.2358),
        ("llama_7g", 6.7384),
        ("llama_70g", 70.5537),
        ("llama_405g", 405.8534),
        ("mixtral_47g", 46.7028),
    ],
)
def test_llama_shapes_have_as_many_parameters_as_the_published_models(name, billions):
    assert round(llama.create(name).parameters / 1e9, 4) == billions


def test_llama_shapes_make_a_network_that_trains_and_gc_keeps_layers_apart():
    """A step in the direction of the centralized gradient lowers the loss; each layer's mean is 0."""
    size = llama.Size(2, 8, 16, 2, 2, 4, 11)
    shapes, axes = llama.create_trees(size)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jax.numpy.asarray(0.3 * rng.standard_normal(leaf.shape), "float32"), shapes
    )
    params["norm"]["scale"] += 1
    tokens = jax.numpy.asarray(rng.integers(11, size=(2, 5)), "int32")
    loss, grads = jax.jit(jax.value_and_grad(llama.compute_loss))(params, tokens)
    tx = centralize(axes)
    updates: Any = tx.update(grads, tx.init(params))[0]
    query = updates["layers"]["query"]["kernel"]
    assert query.shape == (2, 8, 2, 4)
    assert abs(query.mean(1)).max() < 1e-6
    assert abs(query.mean(0)).max() > 1e-4
    layers = [jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"]) for i in range(2)]
    one_by_one = jax.jit(llama.compute_loss)(params | {"layers": layers}, tokens)
    np.testing.assert_allclose(one_by_one, loss, rtol=1e-2)
    expected = jax.eval_shape(lambda: params | {"layers": layers})
    assert jax.tree.map(np.shape, llama.unstack(shapes)) == jax.tree.map(np.shape, expected)
    moved = jax.tree.map(lambda w, g: w - 0.05 * g, params, updates)
    assert jax.jit(llama.compute_loss)(moved, tokens) < loss


@pytest.mark.parametrize(
    ("layout", "query", "down"),
    [
        ("replicated", P(None, None, None, None), P(None, None, None)),
        ("fsdp", P(None, "fsdp", None, None), P(None, "fsdp", None)),
        ("outputs", P(None, None, None, "model"), P(None, None, "model")),
        ("inputs", P(None, "model", None, None), P(None, "model", None)),
        ("both", P(None, "fsdp", None, "model"), P(None, "fsdp", "model")),
    ],
)
def test_layouts_split_inputs_and_outputs_and_never_the_stack(layout, query, down):
    tree = llama.create("llama_7g")
    grid, specs = layouts.split(tree, layout, 256)
    assert math.prod(grid.axes.values()) == 256
    found = jax.tree.unflatten(jax.tree.structure(tree.params), specs)["layers"]
    assert found["query"]["kernel"] == query
    assert found["down"]["kernel"] == down


def test_bytes_of_a_chip_are_those_of_its_part():
    kernel = jax.ShapeDtypeStruct((16, 64), np.float32)
    tree = trees.Tree("one", {"kernel": kernel}, {"kernel": (0,)}, centralize())
    grid, specs = layouts.split(tree, "both", 8)
    assert grid.axes == {"fsdp": 4, "model": 2}
    assert layouts.count_bytes_per_chip(tree, grid, specs) == 4 * 16 * 64 // 8
    assert layouts.count_means_bytes_per_chip(tree, grid, specs) == 4 * 64 // 2


def test_a_tree_that_the_chips_cannot_share_names_the_leaf_and_the_axis():
    kernel = jax.ShapeDtypeStruct((1026, 2050), np.float32)
    tree = trees.Tree(
        "odd", {"layer": {"kernel": kernel}}, {"layer": {"kernel": (0,)}}, centralize()
    )
    expected = (
        r"the leaf \['layer'\]\['kernel'\] of shape \(1026, 2050\) cannot be split over the 8 chips "
        r"of mesh axis 'model': 8 does not divide axis 0 of length 1026"
    )
    with pytest.raises(ValueError, match=expected):
        layouts.split(tree, "inputs", 8)


@pytest.mark.eight_devices
def test_the_optimizers_state_is_split_as_the_parameters_are():
    tree = trees.create("1e5x100")
    grid, specs = layouts.split(tree, "outputs", 8)
    params = layouts.shard(tree, grid, specs, jax.devices("cpu")[:8])
    tx = update.create_optimizer("adamw", tree)
    state = layouts.shard_state(jax.eval_shape(tx.init, params), params)
    adam = state[0]
    mesh = jax.tree.leaves(params)[0].sharding.mesh
    assert isinstance(mesh, Mesh)
    assert jax.tree.map(lambda leaf: leaf.sharding, adam.mu) == jax.tree.map(
        lambda leaf: leaf.sharding, params
    )
    assert adam.count.sharding == NamedSharding(mesh, P())


def test_a_case_that_does_not_fit_into_memory_says_how_much_is_needed():
    case = update.Case("v5e", 8, "llama_70g", "adamw", "fsdp")
    with pytest.raises(ValueError, match=r"141 GB a chip are needed .* v5e has 16 GB"):
        update.make_plan(case, {"llama_70g": llama.create("llama_70g")})


@pytest.mark.parametrize("name", [name for name, (form, _) in mean_forms.FORMS.items() if form])
def test_other_forms_of_the_means_are_the_same_function(name):
    rng = np.random.default_rng(0)
    shapes = [(3, 3, 4, 8), (3, 3, 4, 8), (36, 5), (1, 1, 36, 8)]
    arrays = {f"layer{i}": {"kernel": rng.normal(1, 1, shape)} for i, shape in enumerate(shapes)}
    grads = jax.tree.map(lambda leaf: jax.numpy.asarray(leaf, "float32"), arrays)
    axes = jax.tree.map(lambda leaf: tuple(range(leaf.ndim - 1)), grads)
    tree = trees.Tree("some", grads, axes, centralize())
    tx = mean_forms.make_transform(tree, mean_forms.FORMS[name][0])
    found, _ = tx.update(grads, tx.init(grads))
    expected, _ = tree.gc.update(grads, tree.gc.init(grads))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


def test_flops_of_the_networks_are_those_that_are_known():
    """A convolution net takes 3 times its forward pass, of 4.1e9 multiplications and additions."""
    assert steps.count_resnet_flops(2) / 2 == pytest.approx(3 * 2 * 4.1e9, rel=0.05)
    # 8 FLOPs for each weight and token, with layers computed twice forward, and attention beside it.
    assert steps.count_llama_flops(256) / (8 * 6.6e9 * 256) == pytest.approx(1, rel=0.1)
