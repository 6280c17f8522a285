"""The nets that `create` makes have the right sizes, modes, precision, shardings and errors."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_gc
from examples import models
from examples.models import pretrained
from examples.models.resnet import BasicBlock, Bottleneck, ResNet
from examples.training.errors import UserError

small = functools.partial(models.create, num_classes=10, stem="cifar", width=8)

tiny = functools.partial(
    ResNet,
    num_classes=10,
    in_channels=3,
    conv=nnx.Conv,
    norm=nnx.BatchNorm,
    linear=nnx.Linear,
    rngs=nnx.Rngs(0),
)

# With 1000 classes in the ImageNet form and 100 in the CIFAR form.
PARAMETERS = {
    ("resnet8", "cifar"): 83_892,
    ("resnet20", "cifar"): 278_324,
    ("resnet18", "imagenet"): 11_689_512,
    ("resnet18", "cifar"): 11_220_132,
    ("resnet34", "imagenet"): 21_797_672,
    ("resnet34", "cifar"): 21_328_292,
    ("resnet50", "imagenet"): 25_557_032,
    ("resnet50", "cifar"): 23_705_252,
    ("resnet101", "imagenet"): 44_549_160,
    ("resnet101", "cifar"): 42_697_380,
    ("resnext29_4x64d", "cifar"): 27_288_996,
    ("resnext50_32x4d", "imagenet"): 25_028_904,
    ("resnext50_32x4d", "cifar"): 23_177_124,
    ("resnext101_32x4d", "imagenet"): 44_177_704,
    ("resnext101_32x4d", "cifar"): 42_325_924,
    ("resnext101_64x4d", "imagenet"): 83_455_272,
    ("resnext101_64x4d", "cifar"): 81_603_492,
    ("vgg11", "imagenet"): 132_868_840,
    ("vgg11", "cifar"): 9_277_284,
    ("densenet121", "imagenet"): 7_978_856,
    ("densenet121", "cifar"): 7_048_548,
}


def parameters(model):
    return sum(math.prod(x.shape) for x in jax.tree.leaves(nnx.state(model, nnx.Param)))


def test_the_list_of_nets_is_complete():
    assert {(name, stem) for name in models.NAMES for stem in models.forms(name)} == set(PARAMETERS)


@functools.cache
def abstract(name, stem, **options):
    classes = 1000 if stem == "imagenet" else 100
    return nnx.eval_shape(
        lambda: models.create(name, num_classes=classes, stem=stem, rngs=nnx.Rngs(0), **options)
    )


@pytest.mark.parametrize(("name", "stem"), PARAMETERS)
def test_parameter_counts_and_torch_keys(name, stem):
    model = abstract(name, stem)
    assert parameters(model) == PARAMETERS[name, stem]
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat)))]
    assert len({pretrained._torch_key(model, path) for path in paths}) == len(paths)


@pytest.mark.parametrize(
    ("name", "stem", "options"),
    [
        *((name, stem, {}) for name, stem in PARAMETERS),
        ("resnet18", "imagenet", {"weight_standardization": True, "norm": "gn"}),
        ("vgg11", "imagenet", {"weight_standardization": True, "frozen_bn": True}),
    ],
)
def test_every_kernel_is_centralized_over_its_inputs_and_nothing_else(name, stem, options):
    model = abstract(name, stem, **options)
    state = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    axes = optax_gc.nnx_kernel_axes(model)(state)

    def check(path, leaf, its_axes):
        if path[-1].key == "kernel":
            assert its_axes == tuple(range(leaf.ndim - 1))
        else:
            assert path[-1].key in ("bias", "scale")
            assert its_axes is None

    jax.tree_util.tree_map_with_path(check, state, axes)


def test_default_width_of_the_small_nets_is_16_and_of_others_64():
    for name, width in (("resnet20", 16), ("resnet18", 64)):
        make = functools.partial(models.create, name, num_classes=10, stem="cifar")
        given = nnx.eval_shape(lambda m=make, w=width: m(width=w, rngs=nnx.Rngs(0)))
        assert parameters(nnx.eval_shape(lambda m=make: m(rngs=nnx.Rngs(0)))) == parameters(given)


@pytest.mark.parametrize(
    ("name", "stem", "full"),
    [
        ("resnet18", "imagenet", 64),
        ("resnext50_32x4d", "imagenet", 64),
        ("resnext29_4x64d", "cifar", 64),
        ("vgg11", "imagenet", 64),
        ("densenet121", "cifar", 64),
    ],
)
def test_width_scales_every_layer(name, stem, full):
    make = functools.partial(models.create, name, num_classes=10, stem=stem)
    wide = nnx.eval_shape(lambda: make(width=full, rngs=nnx.Rngs(0)))
    narrow = nnx.eval_shape(lambda: make(width=4, rngs=nnx.Rngs(0)))
    shapes = zip(
        jax.tree.leaves(nnx.state(wide, nnx.Param)),
        jax.tree.leaves(nnx.state(narrow, nnx.Param)),
        strict=True,
    )
    for old, new in shapes:
        assert new.shape[-1] < old.shape[-1] or new.shape[-1] == 10


@pytest.mark.parametrize("name", ["resnext50_32x4d", "vgg11"])
def test_narrow_nets_return_logits(name):
    make = functools.partial(models.create, name, num_classes=10, width=4)
    logits = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))(jnp.zeros((1, 32, 32, 3))))
    assert logits.shape == (1, 10)


def test_nets_accept_small_grey_images():
    model = small("resnet8", norm="gn", in_channels=1, rngs=nnx.Rngs(0))
    logits = nnx.jit(lambda model, x: model(x))(model, jnp.ones((2, 14, 14, 1)))
    assert logits.shape == (2, 10)
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_weight_standardization_changes_no_parameter(norm):
    plain, standardized = (
        small("resnet8", norm=norm, weight_standardization=ws, rngs=nnx.Rngs(0))
        for ws in (False, True)
    )
    jax.tree.map(np.testing.assert_array_equal, nnx.state(plain), nnx.state(standardized))


def test_kernels_start_as_in_the_nets_of_the_paper():
    def kernel(stem):
        net = tiny(BasicBlock, (1,), expansion=1, stem=stem, width=128)
        return np.asarray(net.stages[0][0].conv2.kernel)

    np.testing.assert_allclose(kernel("imagenet").std(), math.sqrt(2 / (9 * 128)), rtol=0.01)
    np.testing.assert_allclose(np.abs(kernel("cifar")).max(), 1 / math.sqrt(9 * 128), rtol=0.01)


def test_unknown_name_lists_the_nearest_first():
    with pytest.raises(ValueError, match=r"no net is called 'ResNet-50'; there are resnet50, "):
        models.create("ResNet-50", num_classes=10, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="there are densenet121, ") as error:
        models.create("densenet", num_classes=10, rngs=nnx.Rngs(0))
    assert all(name in str(error.value) for name in models.NAMES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stem": "imagenet"}, 'resnet8 has only a CIFAR form: pass stem="cifar"'),
        ({"stem": "mnist"}, "stem must be .* not 'mnist'"),
        ({"norm": "ln"}, "norm must be .* not 'ln'"),
        ({"norm": "gn", "frozen_bn": True}, 'frozen_bn needs norm="bn"'),
        ({"groups": 2}, 'groups needs norm="gn"'),
        ({"norm": "gn", "groups": 0}, "groups must be at least 1, not 0"),
        ({"width": 0}, "width must be at least 1, not 0"),
        ({"num_classes": 0}, "num_classes must be at least 1, not 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small("resnet8", **{"rngs": nnx.Rngs(0), **options})


def test_net_without_its_last_layer_has_the_same_features():
    whole = small("resnet18", rngs=nnx.Rngs(0))
    body = small("resnet18", num_classes=None, rngs=nnx.Rngs(0))
    assert not hasattr(body, "fc")
    images = jnp.ones((1, 8, 8, 3))
    for a, b in zip(whole.features(images), body.features(images), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(AttributeError, match="it was made with num_classes=None"):
        body(images)
    with pytest.raises(ValueError, match="needs a ResNet or ResNeXt, and vgg11 is neither"):
        small("vgg11", num_classes=None, rngs=nnx.Rngs(0))


def test_epsilon_is_added_to_the_variance():
    net: Any = small(
        "resnet8", num_classes=None, frozen_bn=True, norm_epsilon=3.0, rngs=nnx.Rngs(0)
    )
    # The stored variance is 1 and the stored mean is 0, so the norm halves its inputs.
    np.testing.assert_allclose(net.norm1(jnp.full((1, 1, 1, 8), 6.0)), 3.0)


def test_images_that_are_too_small_for_the_net_are_refused():
    with pytest.raises(UserError, match="too small"):
        nnx.eval_shape(lambda: small("vgg11", rngs=nnx.Rngs(0))(jnp.ones((1, 14, 14, 3))))


def test_dropout_acts_only_in_training():
    model = nnx.jit(lambda: models.create("vgg11", num_classes=10, width=2, rngs=nnx.Rngs(0)))()
    last = jax.random.normal(jax.random.key(0), (1, 2, 2, 16))
    assert (model.head(last) != model.head(last)).any()
    model.eval()
    np.testing.assert_array_equal(model.head(last), model.head(last))


@pytest.mark.parametrize("options", [{}, {"norm": "gn", "weight_standardization": True}])
def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters(options):
    x = jax.random.normal(jax.random.key(0), (8, 14, 14, 3))
    full = small("resnet8", rngs=nnx.Rngs(0), **options)
    half = small("resnet8", dtype=jnp.bfloat16, rngs=nnx.Rngs(0), **options)
    expected, found = full(x), half(x)
    assert found.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(nnx.state(half))} == {jnp.dtype("float32")}
    error = jnp.abs(found.astype(jnp.float32) - expected).max() / jnp.abs(expected).max()
    assert 0 < error < 0.05


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_each_mode_is_traced_once(norm):
    traces = 0

    @nnx.jit
    def forward(model, x):
        nonlocal traces
        traces += 1
        return model(x)

    model = small("resnet8", norm=norm, rngs=nnx.Rngs(0))
    for _ in range(2):
        for mode in (model.train, model.eval):
            mode()
            forward(model, jnp.ones((2, 14, 14, 3)))
            forward(model, jnp.zeros((2, 14, 14, 3)))
    assert traces == (2 if norm == "bn" else 1)


@pytest.mark.eight_devices
@pytest.mark.parametrize(("block", "cardinality"), [(BasicBlock, 1), (Bottleneck, 4)])
def test_shardings_change_no_number(block, cardinality):
    expansion = 2 * cardinality if cardinality > 1 else 1
    model = tiny(block, (1,), expansion=expansion, cardinality=cardinality, stem="cifar", width=16)
    graph, state = nnx.split(model)
    x = jax.random.normal(jax.random.key(0), (8, 6, 6, 3))

    @jax.jit
    def forward(state, x):
        model = nnx.merge(graph, state, copy=True)
        loss, gradients = nnx.value_and_grad(lambda model: jnp.square(model(x)).mean())(model)
        return loss, gradients, nnx.state(model, nnx.BatchStat)

    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    expected = forward(state, x)
    # Over both axes, as in any fsdp run; with the batch on "data" alone XLA doubles the
    # gradients of grouped convolutions (jax 0.10.2).
    images = jax.device_put(x, NamedSharding(mesh, P(("data", "fsdp"))))
    for spec in (P(), P("fsdp")):

        def place(leaf, spec=spec):
            axes = (None,) * (leaf.ndim - 1) + tuple(spec)
            fits = leaf.ndim > 0 and leaf.shape[-1] % 2 == 0
            return jax.device_put(leaf, NamedSharding(mesh, P(*axes) if fits and spec else P()))

        placed = jax.tree.map(place, state)
        kernel = placed["conv1"]["kernel"][...]
        assert kernel.sharding.is_fully_replicated == (spec == P())
        found = forward(placed, images)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            # Sums in another order round differently, and a ReLU that switches changes a gradient.
            assert np.linalg.norm(np.ravel(a - b)) < 1e-3 * np.linalg.norm(np.ravel(b)) + 1e-6
