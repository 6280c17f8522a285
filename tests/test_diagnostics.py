"""describe, tabulate and the measures report what centralize does, and logging changes no step."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from optax_gc import centralize, kernel_axes, nnx_kernel_axes, tabulate
from optax_gc.diagnostics import (
    constraint_drift,
    describe,
    gradient_stats,
    neuron_means,
)


def normal(*shape, seed=0, dtype="float32"):
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype) + 0.5


GRADS = {
    "conv": {"kernel": normal(3, 3, 2, 4), "bias": normal(4)},
    "head": {"kernel": normal(4, 5, seed=1)},
    "experts": {"kernel": normal(2, 4, 4)},
    "steps": jnp.ones((2, 2), int),
    "table_embedding": normal(7, 4),
    "thin": {"kernel": normal(1, 4)},
}


def by_path(*args, **kwargs):
    return {report.path: report for report in describe(*args, **kwargs)}


def abstract(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def test_each_leaf_is_described_with_its_axes_or_its_reason():
    mask = jax.tree.map(lambda _: True, GRADS) | {"head": False}
    reports = by_path(GRADS, mask=mask)
    assert list(reports) == [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(GRADS)
    ]
    conv = reports["conv/kernel"]
    assert (conv.shape, conv.axes, conv.fan_in, conv.neurons) == ((3, 3, 2, 4), (0, 1, 2), 18, 4)
    assert {path: report.reason for path, report in reports.items()} == {
        "conv/kernel": "",
        "conv/bias": "not a kernel by name",
        "head/kernel": "masked",
        "experts/kernel": "rank 3 is ambiguous",
        "steps": "not floating point",
        "table_embedding": "embedding by name",
        "thin/kernel": "fan-in 1",
    }
    assert reports["head/kernel"].axes is reports["head/kernel"].fan_in is None


def test_other_axes_have_their_own_reasons():
    outputs_first = functools.partial(kernel_axes, out_axis=0, ranks=(2,))
    assert by_path(GRADS, outputs_first)["conv/kernel"].reason == "rank 4 is not in ranks"
    assert by_path(GRADS, outputs_first)["head/kernel"].axes == (1,)
    mine = jax.tree.map(lambda _: None, GRADS) | {"experts": (1,)}
    assert by_path(GRADS, mine)["head/kernel"].reason == "no axes given"
    experts = by_path(GRADS, mine)["experts/kernel"]
    assert (experts.axes, experts.fan_in, experts.neurons) == ((1,), 4, 8)


def test_the_axes_of_a_model_explain_why_a_leaf_is_left_alone():
    model = nnx.Sequential(
        nnx.Embed(5, 4, rngs=nnx.Rngs(0)),
        nnx.Linear(4, 4, rngs=nnx.Rngs(0)),
        nnx.BatchNorm(4, rngs=nnx.Rngs(0)),
    )
    reports = by_path(nnx.state(model), nnx_kernel_axes(model, layers=(nnx.Conv,)))
    assert {path: report.reason for path, report in reports.items()} == {
        "layers/0/embedding": "embedding",
        "layers/1/kernel": "not in layers",
        "layers/1/bias": "not a kernel",
        "layers/2/bias": "not a kernel",
        "layers/2/scale": "not a kernel",
        "layers/2/mean": "not an nnx.Param",
        "layers/2/var": "not an nnx.Param",
    }


def test_norms_are_those_of_the_leaf_and_of_what_the_transform_makes_of_it():
    after = centralize().update(GRADS, optax.EmptyState())[0]
    flat = [np.asarray(leaf, float) for leaf in jax.tree.leaves(after)]
    for report, before, leaf in zip(describe(GRADS), jax.tree.leaves(GRADS), flat, strict=True):
        if report.path == "steps":
            assert report.norm_before is report.norm_after is report.energy_removed is None
            continue
        assert report.norm_before == pytest.approx(np.linalg.norm(np.ravel(before)), rel=1e-5)
        assert report.norm_after == pytest.approx(np.linalg.norm(np.ravel(leaf)), rel=1e-5)
        removed = 1 - (np.linalg.norm(leaf) / np.linalg.norm(np.asarray(before))) ** 2
        assert report.energy_removed == pytest.approx(removed, abs=1e-5)
        assert bool(report.energy_removed) == (report.axes is not None)


def test_abstract_and_traced_leaves_have_no_norms():
    traced = []
    jax.jit(lambda grads: traced.append(describe(grads)) or 0)(GRADS)
    for reports in (traced[0], describe(abstract(GRADS))):
        assert [report.norm_before for report in reports] == [None] * len(reports)
        assert [report.axes for report in reports] == [report.axes for report in describe(GRADS)]


def test_gradient_of_zero_loses_nothing():
    assert by_path({"kernel": jnp.zeros((3, 2))})["kernel"].energy_removed == 0


def test_the_table_of_gradients_has_their_norms(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    grads = {"conv": {"kernel": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones(4)}, "n": jnp.ones(2, int)}
    assert tabulate(grads).splitlines() == [
        "kernel       shape    axes   fan-in  neurons  norm  after  removed",
        "conv/kernel  3x3x2x4  0,1,2      18        4  8.49      0   100.0%",
        "",
        "left alone, not a kernel by name: 1 leaf, 4 weights",
        "  conv/bias",
        "",
        "left alone, not floating point: 1 leaf, 2 weights",
        "  n",
        "",
        "centralized: 1 of 3 leaves, 72 of 78 weights",
        "norm: 8.72, 2 after, 94.7% of the energy removed",
    ]


def resnet101():
    """Returns the names and shapes of ResNet-101's 314 parameters."""

    def norm(width):
        return {"scale": (width,), "bias": (width,)}

    tree = {"stem": {"kernel": (7, 7, 3, 64)}, "norm": norm(64)}
    inputs = 64
    for stage, (blocks, width) in enumerate([(3, 64), (4, 128), (23, 256), (3, 512)]):
        for index in range(blocks):
            convs = [(1, 1, inputs, width), (3, 3, width, width), (1, 1, width, 4 * width)]
            convs += [(1, 1, inputs, 4 * width)] * (index == 0)
            block = tree.setdefault("stages", {}).setdefault(f"stage_{stage}", {})
            block[f"block_{index}"] = {
                f"conv_{i}": {"kernel": shape, "norm": norm(shape[-1])}
                for i, shape in enumerate(convs)
            }
            inputs = 4 * width
    tree["head"] = {"kernel": (2048, 1000), "bias": (1000,)}
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        tree,
        is_leaf=lambda node: isinstance(node, tuple),
    )


@pytest.mark.parametrize("columns", [56, 80, 200])
def test_the_table_of_resnet101_fits_the_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    params = resnet101()
    lines = tabulate(params).splitlines()
    assert len(jax.tree.leaves(params)) == 314
    assert max(map(len, lines[:106])) <= columns
    assert max(map(len, lines)) <= max(columns, 80)
    assert sum("conv_" in line and "0,1,2" in line for line in lines) == 103
    # The leaves that are left alone take a few lines, and not one for each of the 209.
    assert len(lines) < 120
    text = " ".join(" ".join(lines).split())
    assert "left alone, not a kernel by name: 209 leaves, 106,344 weights" in text
    assert "and 205 more" in text
    assert "centralized: 105 of 314 leaves, 44,442,816 of 44,549,160 weights" in text
    assert ("…" in text) == (columns < 80)


def test_a_table_with_norms_fits_eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    grads = {"stages": {"stage_3": {"block_2": {"conv_0": {"kernel": normal(3, 3, 512, 64)}}}}}
    header, row, *_ = tabulate(grads).splitlines()
    assert len(header) == len(row) <= 80
    assert row.startswith("…") == (len("stages/stage_3/block_2/conv_0/kernel") > row.index(" "))


def test_the_table_names_the_leaves_whose_mean_is_0_already():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.LayerNorm(6, rngs=rngs)
            self.up = nnx.Linear(6, 16, rngs=rngs)
            self.down = nnx.Linear(16, 2, rngs=rngs)

        def __call__(self, x):
            return self.down(nnx.relu(self.up(self.norm(x))))

    model = Net(nnx.Rngs(0))
    grads = nnx.grad(lambda model: jnp.mean((model(normal(8, 6)) - 1) ** 2))(model)
    text = tabulate(grads, nnx_kernel_axes(model))
    assert "nothing to remove, the mean is 0 already, as after a LayerNorm" in text
    assert "1 leaf, 96 weights\n  up/kernel" in text
    assert "nothing to remove" not in tabulate({"kernel": jnp.zeros((3, 2))})
    assert "nothing to remove" not in tabulate({"kernel": jax.ShapeDtypeStruct((3, 2), "float32")})


def test_the_table_of_an_empty_tree_has_only_totals():
    assert tabulate({}) == "centralized: 0 of 0 leaves, 0 of 0 weights"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_gradient_stats_are_norms_and_largest_values(dtype):
    grads = {"a": {"kernel": normal(3, 4, dtype=dtype), "bias": normal(4)}, "b": normal(2, 3, 4)}
    (path, stats), *rest = gradient_stats(grads).items()
    assert (path, rest) == ("a/kernel", [])
    wide = np.asarray(grads["a"]["kernel"].astype(jnp.promote_types(dtype, jnp.float32)))
    after = wide - wide.mean(0, keepdims=True)
    tolerance = 1e-2 if dtype == "bfloat16" else 1e-5
    assert stats.norm_before == pytest.approx(np.linalg.norm(wide), rel=tolerance)
    assert stats.norm_after == pytest.approx(np.linalg.norm(after), rel=tolerance)
    assert stats.max_before == pytest.approx(np.max(np.abs(wide)), rel=tolerance)
    assert stats.max_after == pytest.approx(np.max(np.abs(after)), rel=tolerance)
    assert {value.dtype for value in stats} == {jnp.dtype("float32")}


def test_neuron_means_have_the_shape_of_the_neurons():
    params = {"conv": normal(3, 3, 2, 4), "stack": normal(2, 3, 4)}
    means = neuron_means(params, {"conv": (0, 1, 2), "stack": (1,)})
    assert {path: mean.shape for path, mean in means.items()} == {"conv": (4,), "stack": (2, 4)}
    np.testing.assert_allclose(means["stack"], np.mean(params["stack"], 1), rtol=1e-5)
    assert neuron_means({"kernel": normal(3, 4, dtype="bfloat16")})["kernel"].dtype == jnp.float32


def test_constraint_drift_is_the_distance_from_the_hyperplane():
    initial = {"kernel": normal(4, 2), "bias": normal(2)}
    moved = initial | {"kernel": initial["kernel"] + jnp.array([[1.0, -1.0]] * 4)}
    drift = constraint_drift(moved, initial)
    assert list(drift) == ["kernel"]
    # eᵀ1 is √M.
    np.testing.assert_allclose(drift["kernel"], [2.0, 2.0], rtol=1e-5)


def test_constraint_drift_of_training_with_and_without_gc():
    x, y = normal(16, 8), normal(16, 4, seed=1)
    initial = {"kernel": normal(8, 4, seed=2), "bias": jnp.zeros(4)}

    def trained(tx):
        @jax.jit
        def step(params, state):
            grads = jax.grad(lambda p: jnp.mean((x @ p["kernel"] + p["bias"][None] - y) ** 2))(
                params
            )
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        params, state = initial, tx.init(initial)
        for _ in range(5):
            params, state = step(params, state)
        return constraint_drift(params, initial)["kernel"]

    sgd = optax.sgd(0.1, momentum=0.9)
    assert jnp.max(trained(optax.chain(centralize(), sgd))) < 1e-5
    assert jnp.max(trained(sgd)) > 1e-2


def test_constraint_drift_names_what_does_not_match():
    params = {"kernel": normal(4, 2)}
    for initial in ({"other": normal(4, 2)}, {"kernel": None}, {"kernel": optax.MaskedNode()}):
        with pytest.raises(ValueError, match="initial has no leaf kernel"):
            constraint_drift(params, initial)
    with pytest.raises(ValueError, match=r"kernel has shape \(4, 2\) in params, \(\) in initial"):
        constraint_drift(params, {"kernel": 0.0})
    with pytest.raises(ValueError, match=r"kernel has shape \(4, 2\) in params, \(4, 3\) in"):
        constraint_drift(params, {"kernel": normal(4, 3)})


MEASURES = {
    "stats": gradient_stats,
    "means": neuron_means,
    "drift": lambda tree, axes: constraint_drift(tree, jax.tree.map(jnp.zeros_like, tree), axes),
}


@pytest.mark.eight_devices
@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("spec", [PartitionSpec("d"), PartitionSpec(None, "d")])
def test_measures_can_be_jitted_and_sharded(name, spec):
    measure = functools.partial(MEASURES[name], axes=kernel_axes)
    tree = {"kernel": normal(8, 16), "bias": normal(16)}
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = {
        "kernel": NamedSharding(mesh, spec),
        "bias": NamedSharding(mesh, PartitionSpec()),
    }
    sharded = jax.jit(measure)(jax.device_put(tree, sharding))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), sharded, measure(tree)
    )


def test_paths_are_the_same_boxed_and_plain():
    model = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    boxed = nnx.state(model, nnx.Param)
    assert list(neuron_means(boxed)) == list(neuron_means(nnx.to_pure_dict(boxed))) == ["kernel"]


@pytest.mark.parametrize("size", [1e-40, 1e-30, 1e-23, 1.0, 1.9e19, 1e30, 3e37])
def test_norms_neither_overflow_nor_underflow(size):
    grads = {"kernel": jnp.array([[3.0], [1.0]]) * jnp.float32(size)}
    stats = jax.jit(gradient_stats)(grads)["kernel"]
    if size > 1e-38:  # subnormal numbers are flushed to 0 on some processors
        assert float(stats.norm_before) == pytest.approx(np.sqrt(10) * size, rel=1e-5)
        assert float(stats.norm_after) == pytest.approx(np.sqrt(2) * size, rel=1e-5)
        assert by_path(grads)["kernel"].energy_removed == pytest.approx(0.8, rel=1e-5)
        assert tabulate(grads).endswith("80.0% of the energy removed")


def test_nothing_is_removed_from_a_zero_gradient_and_nan_is_shown():
    assert by_path({"kernel": jnp.zeros((3, 2))})["kernel"].energy_removed == 0
    broken = {"kernel": jnp.full((3, 2), jnp.nan)}
    assert math.isnan(by_path(broken)["kernel"].energy_removed or 0)
    assert "nan% of the energy removed" in tabulate(broken)
    assert "nan%" in tabulate({"kernel": jnp.full((3, 2), jnp.inf)})


def test_leaves_without_entries_have_a_size_of_zero():
    stats = gradient_stats({"kernel": jnp.zeros((5, 0))})["kernel"]
    assert [float(value) for value in stats] == [0, 0, 0, 0]
