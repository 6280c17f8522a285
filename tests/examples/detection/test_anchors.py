"""The anchors equal those of torchvision."""

import numpy as np
import pytest

from examples.detection import anchors
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


def test_missing_stride_is_an_error_that_counts():
    with pytest.raises(ValueError, match=r"2 feature maps need as many .* not 1 and 2"):
        anchors.make_anchors([(4, 4), (2, 2)], [(8, 8)], [32, 64])
