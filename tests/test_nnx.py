"""nnx_kernel_axes finds each layer's axes, wherever the layer is."""

import dataclasses
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from optax_gc import AxisRoles, centralize, nnx_kernel_axes, tabulate
from tests.helpers import found, rngs

ONE: Any = np.int64(1)


LAYERS = [
    (lambda: nnx.Linear(3, 4, rngs=rngs()), (0,)),
    (lambda: nnx.LinearGeneral(3, (2, 4), rngs=rngs()), (0,)),
    (lambda: nnx.LinearGeneral((2, 3), 4, axis=(-2, -1), rngs=rngs()), (0, 1)),
    (lambda: nnx.LinearGeneral((2, 3), (4, 5), axis=(-2, -1), rngs=rngs()), (0, 1)),
    (lambda: nnx.LinearGeneral(3, 4, batch_axis={0: 2}, rngs=rngs()), (1,)),
    (lambda: nnx.Einsum("nta,hab->nthb", (2, 3, 4), rngs=rngs()), (1,)),
    (lambda: nnx.Einsum("bti,bio->bto", (2, 3, 4), rngs=rngs()), (1,)),
    (lambda: nnx.Einsum("...hd,hdo->...o", (2, 3, 4), rngs=rngs()), (0, 1)),
    (lambda: nnx.Einsum("...i,...io->...o", (2, 5, 3, 4), rngs=rngs()), (2,)),
    (lambda: nnx.Einsum("ti,kio->to", (2, 3, 4), rngs=rngs()), (0, 1)),
    (lambda: nnx.Conv(3, 4, 5, rngs=rngs()), (0, 1)),
    (lambda: nnx.Conv(3, 4, (5, 2), rngs=rngs()), (0, 1, 2)),
    (lambda: nnx.Conv(3, 4, (5, 2, 1), rngs=rngs()), (0, 1, 2, 3)),
    (lambda: nnx.Conv(4, 6, (5, 2), feature_group_count=2, rngs=rngs()), (0, 1, 2)),
    (lambda: nnx.Conv(4, 4, (5, 2), feature_group_count=4, rngs=rngs()), (0, 1, 2)),
    (lambda: nnx.ConvTranspose(3, 4, (5, 2), rngs=rngs()), (0, 1, 2)),
    (lambda: nnx.ConvTranspose(3, 4, (5, 2), transpose_kernel=True, rngs=rngs()), (0, 1, 3)),
]


@pytest.mark.parametrize(("layer", "axes"), LAYERS)
def test_the_input_axes_of_each_layer_are_found(layer, axes):
    assert found(layer()) == {"kernel": axes}


def test_attention_averages_inputs_and_never_its_biases_of_rank_two():
    model = nnx.MultiHeadAttention(2, 6, 8, rngs=rngs())
    assert model.query.bias is not None
    assert model.query.bias.shape == (2, 4)
    assert found(model) == {
        "query/kernel": (0,),
        "key/kernel": (0,),
        "value/kernel": (0,),
        "out/kernel": (0, 1),
    }


@pytest.mark.parametrize("cell", [nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.SimpleCell, nnx.GRUCell])
def test_recurrent_cells_hold_dense_kernels(cell):
    model = nnx.RNN(cell(3, 4, rngs=rngs()))
    state = nnx.to_flat_state(nnx.state(model, nnx.Param))
    kernels = {"/".join(map(str, path)) for path, _ in state if path[-1] == "kernel"}
    assert found(model) == dict.fromkeys(kernels, (0,))
    assert len(kernels) >= 2


def test_the_first_factor_of_lora_is_centralized_and_the_second_is_left_alone():
    model = nnx.LoRALinear(3, 4, lora_rank=2, rngs=rngs())
    assert found(model) == {"kernel": (0,), "lora/lora_a": (0,)}
    assert found(model, layers=(nnx.LoRA,)) == {"lora/lora_a": (0,)}


def test_embeddings_and_norms_are_left_alone():
    class Model(nnx.Module):
        def __init__(self):
            self.embed = nnx.Embed(5, 4, rngs=rngs())
            self.norm = nnx.BatchNorm(4, rngs=rngs())
            self.dropout = nnx.Dropout(0.5, rngs=rngs())

    assert found(Model()) == {}


class Nested(nnx.Module):
    def __init__(self):
        self.items = nnx.List([nnx.Linear(2, 3, rngs=rngs()), nnx.Conv(3, 4, 5, rngs=rngs())])
        self.named = nnx.Dict(a=nnx.Linear(4, 5, rngs=rngs()))
        self.plain = nnx.data([{"b": nnx.Linear(5, 6, rngs=rngs())}])
        self.value = nnx.Linear(6, 7, rngs=rngs())
        self.shared = self.value


NESTED = {
    "items/0/kernel": (0,),
    "items/1/kernel": (0, 1),
    "named/a/kernel": (0,),
    "plain/0/b/kernel": (0,),
}


def test_layers_are_found_in_lists_dicts_and_under_every_path_to_a_shared_one():
    model = Nested()
    assert found(model) == NESTED | {"shared/kernel": (0,)}
    grads = jax.grad(lambda model: jnp.sum(model.value.kernel[...]))(model)
    leaves = jax.tree_util.tree_leaves_with_path(
        nnx_kernel_axes(model)(grads), is_leaf=lambda node: isinstance(node, tuple)
    )
    axes = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    assert axes[".value.kernel.value"] == axes[".shared.kernel.value"] == (0,)
    assert axes[".items[1].kernel.value"] == (0, 1)


def test_abstract_models_and_cycles_are_walked():
    class Cyclic(nnx.Module):
        def __init__(self):
            self.layer = nnx.Linear(2, 3, rngs=rngs())
            self.me = self

    assert found(nnx.eval_shape(Nested)) == NESTED | {"shared/kernel": (0,)}
    assert found(Cyclic()) == {"layer/kernel": (0,)}


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Sparse:
    """A tree that has a shape, as a sparse matrix has."""

    kernel: jax.Array
    shape = (2, 3)


def test_variables_may_hold_numbers_or_trees():
    class Odd(nnx.Module):
        def __init__(self):
            self.count = nnx.Variable(0)
            self.name = nnx.Variable("odd")
            self.scale = nnx.Param(1.0)
            self.tree = nnx.Param({"kernel": jnp.ones((2, 3))})
            self.sparse = nnx.Param(Sparse(jnp.ones((2, 3))))
            self.boxed = nnx.Param(nnx.Param(jnp.ones((2, 3))))
            self.layer = nnx.Linear(2, 3, rngs=rngs())

    model = Odd()
    axes = nnx_kernel_axes(model)
    for updates in (nnx.state(model, nnx.Param), nnx.state(model)):
        leaves = jax.tree_util.tree_leaves_with_path(
            axes(updates), is_leaf=lambda node: isinstance(node, tuple)
        )
        assert [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves] == [
            ("['layer']['kernel'].value", (0,))
        ]
    tx = optax.chain(centralize(axes), optax.sgd(0.5))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    optimizer.update(model, jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param)))
    assert float(model.scale[...]) == 0.5


def test_a_module_that_is_not_a_pytree_is_walked():
    class Plain(nnx.Module, pytree=False):
        def __init__(self):
            self.layers = [nnx.Linear(2, 3, rngs=rngs())]

    assert found(Plain()) == {"layers/0/kernel": (0,)}


@pytest.mark.parametrize(
    ("axes", "error", "message"),
    [
        ({"layers/9/kernel": (0,)}, ValueError, "no leaf 'layers/9/kernel'.*layers/0/"),
        ({"layers/0/kernel": (0, 7)}, ValueError, r"\(0, 7\) are out of range for layers/0/kernel"),
        ({"layers/0/kernel": [0]}, TypeError, "layers/0/kernel must be a tuple of ints"),
        ({"layers/0/kernel": ("a",)}, TypeError, "layers/0/kernel must be a tuple of ints"),
        ({"layers/0/kernel": (True,)}, TypeError, "layers/0/kernel must be a tuple of ints"),
        ({"layers/0/kernel": AxisRoles((0,), ONE)}, TypeError, "layers/0/kernel must be a tuple"),
        ({"layers/0/kernel": (0, -2)}, ValueError, r"\(0, -2\) contain .*layers/0/kernel.* twice"),
        ({"layers/0/kernel": AxisRoles((0,), (0, 1))}, ValueError, "contain each axis .* once"),
        ({"layers/0/kernel": AxisRoles((0,), ())}, ValueError, "contain each axis .* once"),
        ({"layers/0/kernel": AxisRoles((0,), (1,), (), (7,))}, ValueError, "out of range"),
        ({"layers/0/kernel": AxisRoles((0,), (1,), (), (0,))}, ValueError, "must be outputs"),
        ({"layers/0/kernel": AxisRoles((0,), (1,), (), (True,))}, TypeError, "a tuple of ints"),
    ],
)
def test_replaced_axes_must_fit_the_model(axes, error, message):
    model = nnx.Sequential(nnx.Linear(3, 4, rngs=rngs()))
    with pytest.raises(error, match=message):
        nnx_kernel_axes(model).replace(axes)


def test_replaced_axes_can_be_negative_and_of_numpy():
    model = nnx.Linear(3, 4, rngs=rngs())
    params = nnx.to_pure_dict(nnx.state(model))
    for axes in ((-2,), (ONE - 1,), AxisRoles((-2,), (ONE,), (), (-1,))):
        replaced = nnx_kernel_axes(model).replace({"kernel": axes})
        assert replaced(params)["kernel"] == (0,)
        assert replaced.roles(params)["kernel"][:2] == ((0,), (1,))
    assert replaced.roles(params)["kernel"].heads == (1,)


def test_replaced_leaves_are_left_alone_on_request_and_the_rest_keeps_its_reason():
    class Own(nnx.Module):
        def __init__(self):
            self.weight = nnx.Param(jnp.ones((3, 4)))

    model = nnx.Sequential(Own(), nnx.Linear(4, 2, rngs=rngs()))
    axes = nnx_kernel_axes(model).replace({"layers/1/kernel": None})
    text = tabulate(nnx.state(model, nnx.Param), axes)
    assert "left alone on request: 1 leaf, 8 weights\n  layers/1/kernel" in text
    assert "unknown layer Own: 1 leaf, 12 weights" in text


@pytest.mark.parametrize("model", [None, {}, 3, nnx.Linear, lambda x: x, nnx.Dropout(0.5)])
def test_what_is_not_a_model_with_parameters_is_refused_at_once(model):
    with pytest.raises(TypeError, match=r"must be an nnx\.Module that has parameters; got"):
        nnx_kernel_axes(model)


def test_kernel_that_its_layer_did_not_make_is_named():
    model = nnx.Linear(3, 4, rngs=rngs())
    model.kernel = nnx.Param(jnp.ones((5, 4)))
    with pytest.raises(ValueError, match=r"\['kernel'\].*not a stack of kernels"):
        found(model)


def test_layers_names_the_classes_and_a_subclass_is_its_base():
    class Wide(nnx.Conv):
        pass

    model = nnx.Sequential(
        nnx.Conv(2, 3, 5, rngs=rngs()), Wide(3, 4, 5, rngs=rngs()), nnx.Linear(4, 2, rngs=rngs())
    )
    first, second, third = (f"layers/{index}/kernel" for index in range(3))
    assert found(model) == {first: (0, 1), second: (0, 1), third: (0,)}
    assert found(model, layers=(nnx.Conv,)) == {first: (0, 1), second: (0, 1)}
    assert found(model, layers=(Wide, nnx.Linear)) == {second: (0, 1), third: (0,)}
    # Code that serves several models may name layers that one of them does not use.
    assert found(model, layers=(nnx.ConvTranspose,)) == {}


@pytest.mark.parametrize("layer", [nnx.BatchNorm, nnx.MultiHeadAttention, nnx.Module, nnx.Embed])
def test_layers_that_own_no_kernel_are_an_error(layer):
    with pytest.raises(ValueError, match=f"layers has {layer.__name__}.*Linear, LinearGeneral"):
        nnx_kernel_axes(nnx.Linear(3, 4, rngs=rngs()), layers=(nnx.Conv, layer))


@pytest.mark.parametrize(
    ("layers", "error"), [(nnx.Conv, TypeError), (("Conv",), TypeError), ((), ValueError)]
)
def test_layers_is_a_tuple_of_classes(layers, error):
    with pytest.raises(error, match="layers"):
        nnx_kernel_axes(nnx.Linear(3, 4, rngs=rngs()), layers=layers)


def test_tied_kernels_agree_or_are_named_with_both_owners():
    class Tied(nnx.Module):
        def __init__(self, second):
            self.first = nnx.Linear(3, 3, rngs=rngs())
            self.second = second
            self.second.kernel = self.first.kernel

    assert found(Tied(nnx.Linear(3, 3, rngs=rngs()))) == {"first/kernel": (0,)}
    other = nnx.Einsum("ti,oi->to", (3, 3), rngs=rngs())
    with pytest.raises(ValueError, match=r"\(0,\) as Linear at first.*\(1,\) as Einsum at second"):
        found(Tied(other))


def test_unknown_layers_are_left_alone_and_named():
    class Experts(nnx.Module):
        def __init__(self):
            self.kernel = nnx.Param(jnp.ones((2, 3, 4)))
            self.scale = nnx.Param(jnp.ones((2, 3)))

    model = nnx.Sequential(Experts(), nnx.Einsum("ti,ii->ti", (3, 3), rngs=rngs()))
    axes = nnx_kernel_axes(model)
    assert found(model) == {}
    text = tabulate(nnx.state(model, nnx.Param), axes)
    assert "unknown layer Experts: 1 leaf, 24 weights\n  layers/0/kernel" in text
    assert "unknown layer Einsum: 1 leaf, 9 weights" in text
    assert "not a kernel: 1 leaf, 6 weights" in text


def test_a_state_is_not_a_model():
    with pytest.raises(TypeError, match=r"nnx\.Module that has parameters; got State"):
        nnx_kernel_axes(nnx.state(nnx.Linear(3, 4, rngs=rngs())))


def test_updates_of_another_model_are_named():
    axes = nnx_kernel_axes(nnx.Linear(3, 4, rngs=rngs()))
    with pytest.raises(ValueError, match=r"no leaf \['head'\]\['kernel'\].*call it again"):
        axes({"head": {"kernel": jnp.ones((3, 4))}})
    for shape in [(5, 4), (3, 5), (3, 8), (1, 4), (2, 3, 4), (3, 0)]:
        with pytest.raises(ValueError, match=r"\['kernel'\] of shape .* had shape \(3, 4\)"):
            axes({"kernel": jnp.ones(shape)})


def test_masked_and_absent_updates_are_skipped():
    model = nnx.Sequential(nnx.Linear(3, 4, rngs=rngs()), nnx.Linear(4, 2, rngs=rngs()))
    axes = nnx_kernel_axes(model)
    updates = {"layers": {0: optax.MaskedNode(), 1: {"kernel": jnp.ones((4, 2)), "bias": None}}}
    after: Any = centralize(axes).update(updates, optax.EmptyState())[0]
    assert after["layers"][0] == optax.MaskedNode()
    assert after["layers"][1]["bias"] is None
    np.testing.assert_array_equal(after["layers"][1]["kernel"], 0)


@pytest.mark.eight_devices
def test_shards_of_output_axes_are_accepted_and_of_input_axes_refused():
    axes = nnx_kernel_axes(nnx.Linear(4, 8, rngs=rngs()))
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    kernel = jax.random.normal(jax.random.key(0), (4, 8))

    def project(spec):
        def update(kernel):
            updates: Any = centralize(axes).update({"kernel": kernel}, optax.EmptyState())[0]
            return updates["kernel"]

        return jax.shard_map(update, mesh=mesh, in_specs=spec, out_specs=spec)(kernel)

    whole = kernel - jnp.mean(kernel, 0, keepdims=True)
    np.testing.assert_allclose(project(PartitionSpec(None, "d")), whole, atol=1e-6)
    with pytest.raises(ValueError, match="input axes must not be split"):
        project(PartitionSpec("d", None))


def test_axes_hold_no_arrays_and_do_not_retrace():
    model = nnx.Linear(3, 4, rngs=rngs())
    tx = centralize(nnx_kernel_axes(model))
    held = jax.tree.leaves(vars(nnx_kernel_axes(model)))
    assert not any(isinstance(leaf, (jax.Array, nnx.Variable)) for leaf in held)
    traces = []

    @jax.jit
    def update(grads):
        traces.append(1)
        return tx.update(grads, optax.EmptyState())[0]

    grads = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    update(update(grads))
    assert len(traces) == 1


def test_flax_is_imported_only_when_needed_and_named_when_missing():
    code = """
import sys
from typing import Any
import optax_gc
assert not any(name.partition(".")[0] == "flax" for name in sys.modules), "flax was imported"
sys.modules["flax"] = None
for name in ("nnx_kernel_axes", "linen_kernel_axes"):
    try:
        getattr(optax_gc, name)
    except ImportError as error:
        assert "pip install flax" in str(error), error
    else:
        raise AssertionError(name)
try:
    optax_gc.nothing
except AttributeError as error:
    assert "nothing" in str(error)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
