"""Each transform has the right properties, and the recipes work as a whole."""

import functools
import math

import cloudpickle
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from examples import datasets
from examples.datasets import transforms

seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 40)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return rng(seed).integers(256, size=(height, width, channels), dtype=np.uint8)


def ramp(height: int, width: int) -> np.ndarray:
    """Returns a picture in which every row rises from 0 to 255."""
    row = np.linspace(0, 255, width).astype(np.uint8)
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


@given(sides, sides, seeds)
@settings(max_examples=50, deadline=None)
def test_flip_mirrors_or_does_nothing(height, width, seed):
    image = picture(height, width)
    out = transforms.flip(image, rng(seed))
    assert np.array_equal(out, image) or np.array_equal(out, image[:, ::-1])


def test_flip_mirrors_about_half_of_the_images():
    image = ramp(2, 9)
    draws = rng()
    mirrored = sum(transforms.flip(image, draws)[0, 0, 0] > 0 for _ in range(2000))
    assert abs(mirrored - 1000) < 5 * math.sqrt(2000) / 2


@given(sides, sides, st.integers(0, 6), seeds)
@settings(max_examples=50, deadline=None)
def test_pad_crop_is_a_window_of_the_padded_image(height, width, padding, seed):
    image = picture(height, width)
    out = transforms.pad_crop(image, rng(seed), padding=padding)
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    windows = [
        padded[top : top + height, left : left + width]
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    ]
    assert out.shape == image.shape
    assert any(np.array_equal(out, window) for window in windows)


def test_pad_crop_shifts_by_every_amount_equally_often():
    image = np.zeros((9, 9, 1), np.uint8)
    image[4, 4] = 1
    draws = rng()
    counts = sum(transforms.pad_crop(image, draws, padding=4).astype(int) for _ in range(8100))
    # Each of 81 places has 100 hits on average. The bound is five standard deviations.
    assert np.abs(counts - 100).max() < 50


@given(st.integers(1, 12), st.integers(1, 12), seeds)
@settings(max_examples=30, deadline=None)
def test_normalize_has_an_inverse(height, width, seed):
    mean, std = (0.5, 0.1, 0.3), (0.2, 0.4, 0.7)
    image = picture(height, width, seed=seed)
    out = transforms.normalize(image, None, mean=mean, std=std)
    assert out.dtype == np.float32
    np.testing.assert_allclose((out * std + mean) * 255, image, atol=1e-3)


def test_mean_pool_averages_blocks():
    image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    out = transforms.mean_pool(image, None)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out[..., 0], [[2.5, 4.5], [10.5, 12.5]])


@given(st.integers(4, 300), st.integers(4, 300), st.integers(2, 64))
@settings(max_examples=50, deadline=None)
def test_resize_shorter_keeps_proportions(height, width, size):
    out = transforms.resize_shorter(picture(height, width), None, size=size)
    assert min(out.shape[:2]) == size
    assert (out.shape[0] < out.shape[1]) <= (height < width)
    longer = max(height, width) * size / min(height, width)
    assert longer - 1 < max(out.shape[:2]) <= longer


def test_shrinking_averages_over_everything_that_a_pixel_covers():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255  # the finest there are: picking pixels would give black or white
    out = transforms.resize(stripes, None, height=8, width=8)
    assert np.abs(out.astype(int) - 127).max() < 12


@given(st.integers(5, 60), st.integers(5, 60), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_center_crop_leaves_equal_margins(height, width, size):
    y, x = np.mgrid[:height, :width]
    out = transforms.center_crop(np.stack([y, x], -1), None, size=size)
    assert out.shape == (size, size, 2)
    first, last = out[0, 0], out[-1, -1]
    margins = first, (height - 1, width - 1) - last
    assert np.abs(margins[0] - margins[1]).max() <= 1


def test_center_crop_of_an_image_that_is_too_small_is_an_error():
    with pytest.raises(ValueError, match="crop of 9 x 9 does not fit an image of 8 x 20"):
        transforms.center_crop(picture(8, 20), None, size=9)


@given(st.integers(1, 500), st.integers(1, 500), seeds)
@settings(max_examples=200, deadline=None)
def test_random_rectangles_lie_inside_and_keep_their_bounds(height, width, seed):
    top, left, h, w = transforms.random_rectangle(
        height, width, rng(seed), (0.08, 1), (3 / 4, 4 / 3)
    )
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    assert h > 0
    assert w > 0
    assume(min(height, width) > 60)  # so that rounding to pixels is small
    assert h * w / (height * width) > 0.07 or not 1 / 3 < width / height < 3
    assert 0.72 < w / h < 1.38


def test_random_rectangles_have_areas_spread_evenly():
    draws = rng()
    shapes = [
        transforms.random_rectangle(400, 400, draws, (0.08, 1), (3 / 4, 4 / 3))[2:]
        for _ in range(4000)
    ]
    area = np.array([h * w for h, w in shapes]) / 400**2
    logs = np.log([w / h for h, w in shapes])
    # Small rectangles nearly always fit, so areas below one half are drawn almost evenly.
    small = area[area < 0.5]
    counts, _ = np.histogram(small, np.linspace(0.08, 0.5, 7))
    assert np.abs(counts - len(small) / 6).max() < 5 * math.sqrt(len(small) / 6)
    assert abs(np.mean(logs)) < 0.02
    assert 0.12 < np.std(logs) < math.log(4 / 3) / math.sqrt(3)


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(10, 1000, (0, 493, 10, 13)), (1000, 10, (493, 0, 13, 10))]
)
def test_the_middle_of_a_strip_is_used_if_no_draw_fits(height, width, expected):
    # No rectangle with sides of 4 : 3 has half the area of such a long strip.
    ratio = (3 / 4, 4 / 3)
    assert transforms.random_rectangle(height, width, rng(), (0.5, 1.0), ratio) == expected


def test_random_resized_crop_enlarges_a_part():
    out = transforms.random_resized_crop(ramp(100, 100), rng(), size=50, scale=(0.25, 0.25))
    assert out.shape == (50, 50, 3)
    assert out.dtype == np.uint8
    # A quarter of the area with about its proportions has about half of the ramp.
    assert 100 < int(out[0, -1, 0]) - int(out[0, 0, 0]) < 155


@pytest.mark.parametrize("name", datasets.NAMES)
def test_recipes_have_the_right_shapes_and_randomness(name):
    train, test = transforms.recipe(name)
    sides = {"cifar100": 32, "digits": 8, "mnist5k": 28, "fashion_mnist": 28}
    sides |= {"imagenet": 224, "mini_imagenet": 224}
    size = sides.get(name, 448)
    grey = name in ("digits", "mnist5k", "fashion_mnist")
    stored = (size, size) if size < 40 else ((84, 84) if name == "mini_imagenet" else (470, 610))
    image = picture(*stored, 1 if grey else 3)
    before = image.copy()
    for transform, generator in ((train, rng(1)), (test, None)):
        out = transform(image, generator)
        assert out.shape == (size, size, 1 if grey else 3)
        assert out.dtype == np.float32
        assert abs(out.mean()) < 1.5
        assert 0.2 < out.std() < 2
    np.testing.assert_array_equal(image, before)  # pure
    np.testing.assert_array_equal(train(image, rng(1)), train(image, rng(1)))
    if not grey:
        draws = [train(image, rng(seed)) for seed in range(8)]
        assert any(not np.array_equal(draws[0], other) for other in draws[1:])
        with pytest.raises(TypeError, match="needs a generator"):
            train(image, None)
    assert len(cloudpickle.dumps((train, test))) < 5000  # they travel to data workers


def test_the_papers_cifar_recipe_step_by_step():
    image = picture(32, 32)
    train, test = transforms.recipe("cifar100")
    mean = np.array([[[0.507, 0.487, 0.441]]], np.float32)
    std = np.array([[[0.267, 0.256, 0.276]]], np.float32)

    def scaled(x):
        return (x.astype(np.float32) / np.float32(255) - mean) / std

    np.testing.assert_allclose(test(image, None), scaled(image), rtol=1e-6)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    windows = [padded[t : t + 32, s : s + 32] for t in range(9) for s in range(9)]
    out = train(image, rng(3))
    candidates = [scaled(w) for window in windows for w in (window, window[:, ::-1])]
    assert sum(np.allclose(out, candidate, atol=1e-6) for candidate in candidates) == 1


def test_compose_runs_in_order():
    double = functools.partial(lambda image, rng: image * 2)
    add = functools.partial(lambda image, rng: image + 1)
    np.testing.assert_array_equal(transforms.compose(double, add)(np.ones(2), None), [3, 3])


def test_pad_adds_a_black_frame():
    image = np.full((4, 6, 1), 7, np.uint8)
    padded = transforms.pad(image, None, padding=2)
    assert padded.shape == (8, 10, 1)
    assert padded.dtype == np.uint8
    np.testing.assert_array_equal(padded[2:6, 2:8], image)
    assert padded.sum() == image.sum()
