"""Anchors: the boxes, a few at each cell of each feature map, from which proposals start."""

from collections.abc import Sequence

import numpy as np


def compute_strides(
    image_size: tuple[int, int], feature_sizes: Sequence[tuple[int, int]]
) -> tuple[tuple[int, int], ...]:
    """Returns the distances of neighbouring cells, (y, x) in pixels, of each feature map.

    As in torchvision these are whole quotients of the sizes. So the fifth map of an image of
    800 rows, which has 13 rows, has a stride of 61 and not of 64.

    Args:
      image_size: height and width of the images, with padding.
      feature_sizes: height and width of each map.

    >>> compute_strides((800, 1344), [(25, 42), (13, 21)])
    ((32, 32), (61, 64))
    """
    return tuple((image_size[0] // rows, image_size[1] // cols) for rows, cols in feature_sizes)


def make_anchors(
    feature_sizes: Sequence[tuple[int, int]],
    strides: Sequence[tuple[int, int]],
    sizes: Sequence[float],
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
) -> tuple[np.ndarray, ...]:
    """Makes the anchors of a pyramid of feature maps.

    Args:
      feature_sizes: height and width of each map.
      strides: the distance of neighbouring cells, (y, x) in pixels, of each map.
      sizes: the side of a square anchor of each map, in pixels.
      aspect_ratios: heights divided by widths. The area does not depend on them.

    Returns:
      For each map float32 anchors (height · width · ratios, 4), in the order y, x, ratio.
      The anchors of a cell are rounded to whole pixels (half to even) around its corner.

    Raises:
      ValueError: there are not as many strides and sizes as maps.

    >>> make_anchors([(1, 2)], [(4, 4)], [32], [1.0])[0].tolist()
    [[-16.0, -16.0, 16.0, 16.0], [-12.0, -16.0, 20.0, 16.0]]
    """
    if not len(feature_sizes) == len(strides) == len(sizes):
        raise ValueError(
            f"{len(feature_sizes)} feature maps need as many strides and sizes of anchors, "
            f"not {len(strides)} and {len(sizes)}"
        )
    root = np.sqrt(np.asarray(aspect_ratios, np.float32))
    maps = []
    for (rows, columns), stride, size in zip(feature_sizes, strides, sizes, strict=True):
        width, height = np.float32(size) / root, np.float32(size) * root
        cell = np.round(np.stack([-width, -height, width, height], axis=-1) / 2)
        y = np.arange(rows, dtype=np.float32)[:, None, None] * stride[0]
        x = np.arange(columns, dtype=np.float32)[None, :, None] * stride[1]
        corners = np.stack(np.broadcast_arrays(x, y, x, y), axis=-1)
        maps.append((corners + cell[None, None]).reshape(-1, 4))
    return tuple(maps)
