"""RoIAlign equals torchvision's in values, gradients and levels, for any boxes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from examples.detection.roi_align import assign_levels, multiscale_roi_align, roi_align
from tests.examples.detection.references import load_arrays, make_input

MAPS = {0.25: (32, 40), 0.125: (16, 20), 0.0625: (8, 10)}
STATIC = ("output_size", "spatial_scale", "sampling_ratio", "aligned")
compiled = jax.jit(roi_align, static_argnames=STATIC)


def make_features(name, *shape):
    """A map in the order rows, columns, channels."""
    return make_input(name, shape).transpose(0, 2, 3, 1)


def pool_images(features, rois, **options):
    """Pools boxes that come with the number of their image, as torchvision does."""
    both = [compiled(image, rois[:, 1:], **options) for image in features]
    return jnp.stack(both)[rois[:, 0].astype(int), jnp.arange(len(rois))]


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("output_size", [7, 14])
@pytest.mark.parametrize("scale", MAPS)
def test_pooled_features_equal_those_of_torchvision(scale, output_size, aligned):
    arrays = load_arrays("op_roi_align")
    rows, columns = MAPS[scale]
    features = make_features(f"seed0.roi_align.feat_{rows}x{columns}", 2, 2, rows, columns)
    pooled = pool_images(
        features, arrays["rois"], output_size=output_size, spatial_scale=scale, aligned=aligned
    )
    case = f"scale{scale}_out{output_size}_{'aligned' if aligned else 'unaligned'}"
    expected = arrays[f"{case}/out"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(pooled, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("aligned", [False, True])
def test_gradient_and_inverted_boxes_equal_those_of_torchvision(aligned, x64):
    arrays = load_arrays("op_roi_align")
    features = make_features("seed0.roi_align.feat_32x40", 2, 2, 32, 40).astype(np.float64)
    cotangent = make_features("seed0.roi_align.cotangent", 14, 2, 7, 7)
    rois = arrays["rois"].astype(np.float64)
    options = {"output_size": 7, "spatial_scale": 0.25, "aligned": aligned}
    suffix = f"scale0.25_out7_{'aligned' if aligned else 'unaligned'}"

    @jax.jit
    @jax.grad
    def gradient(features):
        return (pool_images(features, rois, **options) * cotangent).sum()

    expected = arrays[f"grad_{suffix}/grad_features"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(gradient(features), expected, rtol=0, atol=1e-12)

    inverted = arrays["rois_inverted"].astype(np.float64)
    expected = arrays[f"inverted_{suffix}/out"].transpose(0, 2, 3, 1)
    pooled = pool_images(features, inverted, **options)
    np.testing.assert_allclose(pooled, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("k_min", "k_max"), [(2, 5), (3, 6)])
def test_levels_equal_those_of_torchvision(k_min, k_max):
    arrays = load_arrays("op_multiscale_roi_align")
    case = f"levels_k{k_min}_{k_max}"
    levels = assign_levels(arrays[f"{case}/boxes"], k_min=k_min, k_max=k_max)
    np.testing.assert_array_equal(levels, arrays[f"{case}/levels"])


@pytest.mark.parametrize("output_size", [7, 14])
def test_boxes_of_all_sizes_are_pooled_from_the_maps_of_torchvision(output_size):
    arrays = load_arrays("op_multiscale_roi_align")
    features = [
        make_features(f"seed0.multiscale.p{level}", 2, 3, 256 >> level, 320 >> level)
        for level in (2, 3, 4, 5)
    ]
    case = f"pooled_out{output_size}"
    boxes = [arrays[f"{case}/boxes{image}"] for image in (0, 1)]
    padded = np.stack([boxes[0], np.pad(boxes[1], ((0, 3), (0, 0)))])
    pool = jax.jit(jax.vmap(functools.partial(multiscale_roi_align, output_size=output_size)))
    pooled = pool(features, padded)
    pooled = np.concatenate([pooled[0], pooled[1, :9]]).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(pooled, arrays[f"{case}/out"], rtol=0, atol=2e-5)


def sample(image, y, x):
    """Reads a map between its pixels, by the definition of the original program."""
    rows, columns = image.shape
    if not (-1 <= y <= rows and -1 <= x <= columns):
        return 0.0
    y, x = min(max(y, 0), rows - 1), min(max(x, 0), columns - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
    upper = image[top, left] * (1 - x + left) + image[top, right] * (x - left)
    lower = image[bottom, left] * (1 - x + left) + image[bottom, right] * (x - left)
    return upper * (1 - y + top) + lower * (y - top)


def pool_adaptively_by_loops(image, box, output_size, aligned):
    x1, y1, x2, y2 = box - (0.5 if aligned else 0)
    height, width = (y2 - y1, x2 - x1) if aligned else (max(y2 - y1, 1), max(x2 - x1, 1))
    height, width = height / output_size, width / output_size
    rows, columns = int(np.ceil(height)), int(np.ceil(width))
    pooled = np.zeros((output_size, output_size))
    for i, j in np.ndindex(output_size, output_size):
        for a, b in np.ndindex(rows, columns):
            y = y1 + (i + (a + 0.5) / rows) * height
            x = x1 + (j + (b + 0.5) / columns) * width
            pooled[i, j] += sample(image, y, x)
    return pooled / max(rows * columns, 1)


@settings(max_examples=25, deadline=None)
@given(
    hnp.arrays(np.int32, 2, elements=st.integers(-200, 200)),
    hnp.arrays(np.int32, 2, elements=st.integers(0, 400)),
    st.booleans(),
)
def test_adaptive_samples_of_any_box_give_what_the_definition_gives(corner, side, aligned):
    # Quarters of pixels, which float32 holds exactly.
    box = np.concatenate([corner, corner + side]).astype(np.float32) / 4
    image = np.random.default_rng(0).random((11, 9)).astype(np.float32)
    pooled = compiled(image[..., None], box[None], output_size=3, sampling_ratio=0, aligned=aligned)
    expected = pool_adaptively_by_loops(image, box.astype(np.float64), 3, aligned)
    np.testing.assert_allclose(pooled[0, ..., 0], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_padding_of_any_numbers_gives_finite_features_and_gradients(sampling_ratio):
    garbage = np.array([[np.nan] * 4, [np.inf] * 4, [-1e30, -1e30, 1e30, 1e30], [0.0] * 4])
    boxes = np.concatenate([garbage, [[1, 1, 5, 5]]]).astype(np.float32)

    @jax.jit
    @jax.value_and_grad
    def total(features):
        return roi_align(features, boxes, 2, sampling_ratio=sampling_ratio).sum()

    value, gradient = total(jnp.ones((6, 6, 1)))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    levels = assign_levels(boxes)
    assert ((levels >= 0) & (levels <= 3)).all()


def test_features_of_bfloat16_are_averaged_in_float32():
    image = make_features("seed0.roi_align.feat_8x10", 2, 2, 8, 10)[0].astype(jnp.bfloat16)
    boxes = load_arrays("op_roi_align")["rois"][:, 1:]
    options = {"output_size": 7, "spatial_scale": 0.0625}
    pooled = compiled(image, boxes, **options)
    assert pooled.dtype == jnp.bfloat16
    exact = compiled(image.astype(np.float32), boxes, **options)
    np.testing.assert_array_equal(pooled, exact.astype(jnp.bfloat16))


def test_missing_scale_is_an_error_that_counts():
    features = [jnp.zeros((4, 4, 1)), jnp.zeros((2, 2, 1))]
    with pytest.raises(ValueError, match="2 feature maps need as many scales, not 4"):
        multiscale_roi_align(features, jnp.zeros((1, 4)), 7)
