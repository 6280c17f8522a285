"""`create` makes the paper's detectors, and `create` and `detect` refuse bad input."""

import functools
import inspect

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import optax_gc
from examples import detection
from examples.detection.box_head import FourConvOneFC
from examples.detection.conv_norm import ConvNorm

tiny = functools.partial(
    detection.create,
    "resnet18",
    num_classes=3,
    fpn_channels=8,
    fc_units=16,
    width=8,
    pre_nms=(40, 20),
    post_nms=(20, 10),
    detections=5,
)


def test_the_package_has_all_the_names_that_it_lists():
    assert {*detection._MODULES, "MMDETECTION_1", "TORCHVISION", "Settings"} == set(
        detection.__all__
    )
    modules = [name for name in detection.__all__ if inspect.ismodule(getattr(detection, name))]
    assert modules == []
    with pytest.raises(AttributeError, match=r"'examples\.detection' has no attribute 'detekt'"):
        _ = detection.detekt  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "counts the background too, so it must be at least 2, not 1"),
        ({"norm": "bn"}, 'norm must be "frozen_bn" or "gn", not \'bn\''),
        ({"box_head": "1fc"}, "box_head must be .* not '1fc'"),
        ({"pre_nms": (5,)}, r"pre_nms must be two numbers of at least 1, .* not \(5,\)"),
        ({"post_nms": (5, 0)}, "post_nms must be two numbers"),
        ({"detections": 0}, "detections must be at least 1, not 0"),
        ({"fpn_channels": 0}, "fpn_channels must be at least 1, not 0"),
        ({"anchor_scale": 0}, "anchor_scale must be above 0, not 0"),
        ({"score_threshold": 50}, "score_threshold must be from 0 to 1, not 50"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("backbone", ["vgg11", "resnet20", "resnext29_4x64d", "unknown"])
def test_backbone_without_four_stages(backbone):
    with pytest.raises(ValueError, match=f"must be one of resnet18, .*, not '{backbone}'"):
        detection.create(backbone, num_classes=3, rngs=nnx.Rngs(0))


def test_parameter_counts_of_the_papers_detectors():
    # Those of torchvision's maskrcnn_resnet50_fpn and fasterrcnn_resnet50_fpn for 81 classes, with
    # the scales and biases of batch normalization.
    for masks, expected in ((True, 44_400_693), (False, 41_757_156)):
        model = nnx.eval_shape(
            lambda masks=masks: detection.create(
                "resnet50", num_classes=81, masks=masks, rngs=nnx.Rngs(0)
            )
        )
        count = sum(x.size for _, x in nnx.to_flat_state(nnx.state(model, nnx.Param)))
        assert count == expected


@functools.cache
def make_abstract():
    return nnx.eval_shape(lambda: tiny(rngs=nnx.Rngs(0)))


@pytest.mark.parametrize(
    ("images", "sizes", "message"),
    [
        (jnp.ones((64, 64, 3)), [(64, 64)], r"images must be \(B, H, W, 3\), not \(64, 64, 3\)"),
        (jnp.ones((1, 64, 64, 1)), [(64, 64)], "images must be"),
        (jnp.ones((1, 0, 64, 3)), [(64, 64)], "images must be"),
        (np.ones((1, 64, 64, 3), np.uint8), [(64, 64)], "floating-point numbers, not uint8"),
        (jnp.ones((1, 64, 64, 3)), (64, 64), r"sizes must be \(1, 2\)"),
        (jnp.ones((1, 64, 64, 3)), [(64, 65)], r"image 0 must be .* \(64, 64\), not \(64, 65\)"),
        (jnp.ones((1, 64, 64, 3)), [(0, 64)], r"from \(1, 1\)"),
    ],
)
def test_bad_images(images, sizes, message):
    with pytest.raises(ValueError, match=message):
        detection.detect(make_abstract(), images, np.array(sizes))


def test_normalized_head_treats_each_region_by_itself():
    conv = functools.partial(ConvNorm, norm="gn", weight_standardization=True, dtype=None)
    head = FourConvOneFC(4, 7, 5, conv=conv, dtype=None, rngs=nnx.Rngs(0))
    regions = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 7, 7, 4)), jnp.float32)
    whole = head(regions)
    assert whole.shape == (2, 3, 5)
    np.testing.assert_allclose(whole[1, 2], head(regions[1, 2][None])[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{}, {"norm": "gn", "weight_standardization": True, "box_head": "4conv1fc"}]
)
def test_gc_finds_every_kernel(options):
    model = nnx.eval_shape(lambda: tiny(masks=True, **options, rngs=nnx.Rngs(0)))
    params = nnx.state(model, nnx.Param)
    axes = dict(nnx.to_flat_state(optax_gc.nnx_kernel_axes(model)(params)))
    expected = {
        path: {2: (0,), 4: (0, 1, 2)}.get(len(x.shape)) for path, x in nnx.to_flat_state(params)
    }
    # Its stride is as large as its kernel, so each of its taps belongs to a neuron of its own.
    expected["mask_head", "conv5_mask", "kernel"] = (2,)
    found = {p: x.get_value() if isinstance(x, nnx.Variable) else x for p, x in axes.items()}
    assert found == expected
