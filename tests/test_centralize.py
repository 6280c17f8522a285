"""centralize() handles every kind of leaf and tree, and refuses bad axes and masks."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_gc import centralize, conv_kernels, dense_kernels, kernel_axes
from tests.helpers import apply


def gradients(seed=0):
    """Returns gradients of a small image net, with kernels of several kinds, a norm and a bias."""
    shapes = {
        "conv": {"kernel": (3, 3, 4, 8), "bias": (8,)},
        "depthwise": {"kernel": (3, 3, 1, 8)},
        "pointwise": {"kernel": (1, 1, 8, 6)},
        "norm": {"scale": (6,), "bias": (6,)},
        "head": {"kernel": (6, 10), "bias": (10,)},
    }
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(1.0, 1.0, shape), jnp.float32),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


class TestEquationOne(chex.TestCase):
    @chex.all_variants
    def test_each_neurons_mean_over_its_inputs_is_subtracted(self):
        grads = gradients()
        tx = centralize()
        out = self.variant(lambda g: apply(tx, g))(grads)
        for name in ("conv", "depthwise", "pointwise", "head"):
            kernel = np.asarray(grads[name]["kernel"], np.float64)
            columns = kernel.reshape(-1, kernel.shape[-1])
            expected = (columns - columns.mean(0)).reshape(kernel.shape)
            np.testing.assert_allclose(out[name]["kernel"], expected, atol=1e-6)
        chex.assert_trees_all_equal(out["norm"], grads["norm"])
        chex.assert_trees_all_equal(out["conv"]["bias"], grads["conv"]["bias"])

    @chex.all_variants
    def test_shapes_dtypes_and_structure_are_kept(self):
        grads = gradients()
        tx = centralize()
        out = self.variant(lambda g: apply(tx, g))(grads)
        chex.assert_trees_all_equal_structs(out, grads)
        chex.assert_trees_all_equal_shapes_and_dtypes(out, grads)


def test_there_is_no_state():
    tx = centralize()
    state = tx.init(gradients())
    assert jax.tree.leaves(state) == []
    assert jax.tree.structure(tx.update(gradients(), state)[1]) == jax.tree.structure(state)


def test_nothing_is_mutated():
    grads = jax.tree.map(np.asarray, gradients())
    before = jax.tree.map(np.copy, grads)
    apply(centralize(), grads)
    chex.assert_trees_all_equal(grads, before)


def test_a_second_call_does_not_retrace():
    tx = centralize(mask=conv_kernels)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def update(grads, state):
        return tx.update(grads, state)

    state = tx.init(gradients())
    for seed in range(3):
        _, state = update(gradients(seed), state)


def test_it_works_under_strict_dtype_promotion():
    with jax.numpy_dtype_promotion("strict"):
        apply(centralize(), {"kernel": jnp.ones((3, 4), jnp.bfloat16), "head": jnp.ones((3, 4))})


# Which axes


def test_axes_as_a_tree_a_callable_and_a_prefix_agree():
    grads = gradients()
    tree = kernel_axes(grads)
    prefix = tree | {"norm": None}
    as_lists = jax.tree.map(
        lambda axes: axes and list(axes),
        tree,
        is_leaf=lambda node: type(node) is tuple or node is None,
    )
    expected = apply(centralize(), grads)
    for axes in (tree, lambda _: tree, prefix, as_lists):
        chex.assert_trees_all_equal(apply(centralize(axes), grads), expected)


def test_negative_axes_count_from_the_end():
    grads = gradients()["conv"]["kernel"]
    chex.assert_trees_all_equal(
        apply(centralize((-4, -3, -2)), grads), apply(centralize((0, 1, 2)), grads)
    )
    chex.assert_trees_all_equal(
        apply(centralize((np.int64(0),)), grads), apply(centralize((0,)), grads)
    )


def test_output_and_batch_axes_are_treated_alike():
    stacked = jax.random.normal(jax.random.key(0), (5, 3, 4))
    together = apply(centralize((1,)), stacked)
    alone = jnp.stack([apply(centralize((0,)), layer) for layer in stacked])
    chex.assert_trees_all_equal(together, alone)


def test_a_tuple_of_ints_is_a_leaf_and_a_tuple_of_tuples_a_container():
    first, second = jnp.arange(6.0).reshape(2, 3), jnp.arange(8.0).reshape(2, 4)
    out = apply(centralize(((0,), (1,))), (first, second))
    np.testing.assert_allclose(out[0].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(out[1].mean(1), 0, atol=1e-6)
    both = apply(centralize((0,)), (first, second))
    np.testing.assert_allclose(both[1].mean(0), 0, atol=1e-6)
    chex.assert_trees_all_equal(apply(centralize(((), None)), (first, second)), (first, second))


def test_no_axes_leave_the_leaf_alone():
    grads = gradients()
    chex.assert_trees_all_equal(apply(centralize(()), grads), grads)


@pytest.mark.parametrize(
    ("shape", "axes"), [((1, 4), (0,)), ((1, 1, 1, 6), (0, 1, 2)), ((3, 1, 2), (1,))]
)
def test_a_weight_vector_of_fan_in_one_is_left_alone(shape, axes):
    """The mean is the weight's whole gradient. Without it, the weight would never train."""
    grads = jax.random.normal(jax.random.key(0), shape)
    chex.assert_trees_all_equal(apply(centralize(axes), grads), grads)
    chex.assert_trees_all_equal(apply(centralize(), {"kernel": grads})["kernel"], grads)


# Masks


def test_conv_only_is_the_papers_setting():
    grads = gradients()
    out, everything = apply(centralize(mask=conv_kernels), grads), apply(centralize(), grads)
    chex.assert_trees_all_equal(out["conv"], everything["conv"])
    chex.assert_trees_all_equal(out["head"], grads["head"])


def test_masks_as_a_tree_a_callable_and_a_prefix_agree():
    grads = gradients()
    mask = conv_kernels(grads)
    prefix = {"conv": True, "depthwise": True, "pointwise": True, "norm": False, "head": False}
    expected = apply(centralize(mask=conv_kernels), grads)
    for given in (mask, prefix, jax.tree.map(np.bool_, mask)):
        chex.assert_trees_all_equal(apply(centralize(mask=given), grads), expected)
    chex.assert_trees_all_equal(apply(centralize(mask=False), grads), grads)


def test_conv_kernels_and_dense_kernels_together_are_all_kernels():
    grads = gradients()
    both = apply(optax.chain(centralize(mask=conv_kernels), centralize(mask=dense_kernels)), grads)
    chex.assert_trees_all_equal(both, apply(centralize(), grads))


def test_the_axes_of_a_masked_leaf_are_not_checked():
    grads = gradients()
    out = apply(centralize((0, 1, 2), mask=conv_kernels), grads)
    chex.assert_trees_all_equal(out, apply(centralize(mask=conv_kernels), grads))


# Leaves that pass


@pytest.mark.parametrize(
    "leaf",
    [
        np.arange(6).reshape(2, 3),
        np.ones((2, 3), bool),
        np.zeros((2, 3), jax.dtypes.float0),
        jax.random.split(jax.random.key(0), (2, 3)),
        jnp.zeros((0, 3)),
        jnp.zeros((3, 0)),
        jnp.float32(1.0),
        np.float32(1.0),
        1.0,
        2,
    ],
    ids=[
        "int",
        "bool",
        "float0",
        "key",
        "no inputs",
        "no outputs",
        "rank 0",
        "numpy",
        "float",
        "python",
    ],
)
def test_leaves_without_a_mean_to_subtract_pass_through(leaf):
    for tx in (centralize(), centralize((0,)) if np.ndim(leaf) else centralize()):
        out = apply(tx, {"kernel": leaf, "head": jnp.ones((2, 3))})
        assert type(out["kernel"]) is type(leaf)
        if not jnp.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key):
            np.testing.assert_array_equal(out["kernel"], leaf)
        np.testing.assert_array_equal(out["head"], 0)


@pytest.mark.parametrize(
    "tree", [{}, [], (), None, {"a": {}}, {"a": None}, {"a": optax.MaskedNode()}]
)
def test_trees_without_leaves_pass(tree):
    assert apply(centralize(), tree) == tree
    assert apply(centralize(mask=conv_kernels), tree) == tree


def test_gradients_of_integers_pass():
    def loss(params):
        return (params["kernel"] ** 2).sum() * params["count"].sum()

    params = {"kernel": jnp.arange(6.0).reshape(2, 3), "count": jnp.ones((2, 3), jnp.int32)}
    grads = jax.grad(loss, allow_int=True)(params)
    out = apply(centralize(), grads)
    assert out["count"].dtype == jax.dtypes.float0
    np.testing.assert_allclose(out["kernel"].mean(0), 0, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_stay_inside_their_own_neuron(bad):
    grads = gradients()["conv"]["kernel"].at[1, 2, 3, 5].set(bad)
    out = apply(centralize(), {"kernel": grads})["kernel"]
    finite = np.isfinite(out).all(axis=(0, 1, 2))
    assert finite.tolist() == [column != 5 for column in range(8)]


# Masked nodes


def test_an_axes_tree_for_all_parameters_fits_masked_updates():
    grads = gradients()
    tree = kernel_axes(grads)
    expected = apply(centralize(), grads)
    mask = {"conv": True, "depthwise": True, "pointwise": True, "norm": False, "head": False}
    out = apply(optax.masked(centralize(tree), mask), grads)
    chex.assert_trees_all_equal(out, expected | {"head": grads["head"]})
    out = apply(optax.masked(centralize(tree, mask=conv_kernels(grads)), mask), grads)
    chex.assert_trees_all_equal(out, expected | {"head": grads["head"]})


def test_an_axes_tree_for_all_parameters_fits_updates_that_lack_some():
    grads = gradients() | {"conv": None}
    out = apply(centralize(kernel_axes(gradients())), grads)
    assert out["conv"] is None
    np.testing.assert_allclose(out["head"]["kernel"].mean(0), 0, atol=1e-6)


# Errors


@pytest.mark.parametrize(
    ("axes", "error", "message"),
    [
        ({"a": {"w": (2,)}}, ValueError, r"axis 2 of axes=\(2,\) is out of range for the leaf \['a'\]\['w'\] of shape \(3, 4\)"),
        ({"a": {"w": (-3,)}}, ValueError, r"axis -3 of axes=\(-3,\) is out of range for the leaf \['a'\]\['w'\]"),
        ({"a": {"w": (1, -1)}}, ValueError, r"axes=\(1, -1\) contain an axis of the leaf \['a'\]\['w'\] of shape \(3, 4\) twice"),
        ({"a": {"w": (0.0,)}}, TypeError, r"axes of the leaf \['a'\]\['w'\] of shape \(3, 4\) must be a tuple of ints or None, not \(0.0,\)"),
        ({"a": {"w": (True,)}}, TypeError, r"must be a tuple of ints or None, not \(True,\)"),
        ({"a": {"w": (0, "1")}}, TypeError, r"must be a tuple of ints or None, not \(0, '1'\)"),
        ({"a": {"w": 0}}, TypeError, r"axes of the leaf \['a'\]\['w'\] of shape \(3, 4\) must be a tuple of ints or None, not 0"),
        ({"a": {"w": "0"}}, TypeError, r"not '0'"),
        ({"a": {"w": optax.MaskedNode()}}, TypeError, r"not MaskedNode\(\)"),
        ({"a": {"w": {"x": (0,)}}}, ValueError, r"axes is not a prefix of the updates: at \['a'\]\['w'\] it has a dict where the updates have a leaf"),
        ({"a": {"v": (0,)}}, ValueError, r"at \['a'\] it lacks \['w'\] and has \['v'\], which the updates do not have"),
        ({"a": {}}, ValueError, r"at \['a'\] it lacks \['w'\]"),
        ({"a": {"w": (0,)}, "b": None}, ValueError, r"at <root> it has \['b'\], which the updates do not have"),
        ([{"w": (0,)}], ValueError, r"at <root> it has a list where the updates have a dict"),
        (lambda _: None, TypeError, "the axes function returned None"),
        (lambda _: {"a": {"w": (7,)}}, ValueError, "axis 7"),
    ],
)  # fmt: skip
def test_an_axes_error_names_the_leaf_and_what_was_passed(axes, error, message):
    grads = {"a": {"w": jnp.ones((3, 4))}}
    tx = centralize(axes)
    with pytest.raises(error, match=message):
        tx.update(grads, tx.init(grads))
    with pytest.raises(error, match=message):
        jax.jit(tx.update).lower(grads, tx.init(grads))


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        ({"a": {"w": 1}}, TypeError, r"mask of the leaf \['a'\]\['w'\] of shape \(3, 4\) must be a bool, not 1"),
        ({"a": {"w": None}}, TypeError, r"must be a bool, not None"),
        ({"a": (0,)}, ValueError, r"mask is not a prefix of the updates: at \['a'\] it has a tuple where the updates have a dict"),
        ({"b": True}, ValueError, r"mask is not a prefix of the updates: at <root> it lacks \['a'\]"),
        (lambda _: {"a": "yes"}, TypeError, r"must be a bool, not 'yes'"),
    ],
)  # fmt: skip
def test_a_mask_error_names_the_leaf_and_what_was_passed(mask, error, message):
    grads = {"a": {"w": jnp.ones((3, 4))}}
    with pytest.raises(error, match=message):
        apply(centralize(mask=mask), grads)


class Layer:
    def __init__(self, w, name):
        self.w, self.name = w, name


jax.tree_util.register_pytree_node(
    Layer, lambda layer: ((layer.w,), layer.name), lambda name, children: Layer(*children, name)
)


def test_containers_of_one_type_with_different_static_fields_do_not_match():
    with pytest.raises(ValueError, match="both are a Layer, with different static fields"):
        apply(centralize(Layer((0,), "a")), Layer(jnp.ones((3, 4)), "b"))


def test_axes_none_is_an_error_that_names_what_to_use():
    with pytest.raises(TypeError, match=r"optax\.identity\(\)"):
        centralize(None)
