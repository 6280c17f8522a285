"""The anchors equal those of torchvision."""

from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from examples import detection
from examples.detection import anchors
from tests.examples.detection.nets import create_tiny_net
from tests.examples.detection.references import load_arrays

SIZES = (32, 64, 128, 256, 512)
MAPS = {
    (128, 160): [(32, 40), (16, 20), (8, 10), (4, 5), (2, 3)],
    (128, 192): [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)],
}


@pytest.mark.parametrize("image_size", MAPS)
def test_anchors_equal_those_of_torchvision(image_size):
    references = load_arrays("op_anchors")
    strides = anchors.compute_strides(image_size, MAPS[image_size])
    maps = anchors.make_anchors(MAPS[image_size], strides, SIZES)
    for level, boxes in enumerate(maps):
        assert boxes.dtype == np.float32
        expected = references[f"image_{image_size[0]}x{image_size[1]}/level{level}"]
        np.testing.assert_array_equal(boxes, expected)


def test_strides_are_whole_quotients():
    # 160 / 3 is not 64, which is what the level would suggest.
    assert anchors.compute_strides((128, 160), [(2, 3)]) == ((64, 53),)


@pytest.mark.parametrize(
    ("settings", "distance"), [(detection.TORCHVISION, 61), (detection.MMDETECTION_1, 64)]
)
def test_anchors_of_the_last_map_have_the_distance_of_their_rules(settings, distance):
    sizes = [(200, 336), (100, 168), (50, 84), (25, 42), (13, 21)]
    model = nnx.eval_shape(lambda: create_tiny_net(settings=settings, rngs=nnx.Rngs(0)))
    pyramid: Any = [jax.ShapeDtypeStruct((1, *size, 8), np.float32) for size in sizes]
    levels = model.anchors((800, 1344), pyramid)
    for level, size, step in zip(levels, sizes, (4, 8, 16, 32, distance), strict=True):
        y = level.reshape(*size, 3, 4)[:, 0, 0, 1]
        np.testing.assert_array_equal(np.diff(y), step)


def test_missing_stride_is_an_error_that_counts():
    with pytest.raises(ValueError, match=r"2 feature maps need as many .* not 1 and 2"):
        anchors.make_anchors([(4, 4), (2, 2)], [(8, 8)], [32, 64])
