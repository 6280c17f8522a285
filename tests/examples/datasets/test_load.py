"""`load` chooses and checks the images of a split, and reads the small real data sets."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import datasets
from examples.datasets import small
from examples.training.errors import UserError
from tests.examples.datasets import builders


def content(dataset) -> list[bytes]:
    return sorted(dataset.source[i]["image"].tobytes() for i in range(len(dataset)))


@pytest.mark.parametrize(
    ("name", "train", "test", "shape"),
    [("digits", 1297, 500, (8, 8, 1)), ("mnist5k", 3000, 2000, (28, 28, 1))],
)
def test_the_real_small_data_sets_have_their_sizes(name, train, test, shape):
    splits = [datasets.load(name, split) for split in ("train", "test")]
    assert [len(data) for data in splits] == [train, test]
    for data in splits:
        assert data.num_classes == 10
        assert data.image_shape == shape
        assert data.source[0]["image"].shape == shape
        assert data.source[0]["image"].dtype == np.uint8
        assert np.bincount(data.source.labels).min() > 0.07 * len(data)
        images = np.stack([data.source[i]["image"] for i in range(len(data))])
        assert (images.min(), images.max()) == (0, 255)


def test_fashion_mnist_where_debian_puts_it_or_an_error_that_names_the_package():
    if small.DEBIAN.is_dir():
        for split, size in {"train": 60_000, "test": 10_000}.items():
            data = datasets.load("fashion_mnist", split)
            np.testing.assert_array_equal(np.bincount(data.source.labels), [size // 10] * 10)
            assert data.image_shape == (28, 28, 1)
        # The authors' own figure shows that the first training image is a boot.
        first = datasets.load("fashion_mnist", "train").source[0]
        assert datasets.load("fashion_mnist", "train").class_names[first["label"]] == "ankle boot"
    else:
        with pytest.raises(datasets.DatasetError, match="dataset-fashion-mnist"):
            datasets.load("fashion_mnist", "train")


def test_fashion_mnist_is_found_in_the_default_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(small, "DEBIAN", tmp_path)
    builders.published(monkeypatch, "fashion_mnist", 20, 10, 10)
    with pytest.raises(
        datasets.DatasetError, match=rf"{re.escape(str(tmp_path))}.*dataset-fashion-mnist"
    ):
        datasets.load("fashion_mnist", "train")
    builders.fashion_mnist(tmp_path)
    assert len(datasets.load("fashion_mnist", "train")) == 20


@pytest.mark.parametrize("size", [1, 300, 1296])
def test_validation_and_training_images_divide_the_training_set(size):
    whole = datasets.load("digits", "train")
    train = datasets.load("digits", "train", validation=size)
    held = datasets.load("digits", "validation", validation=size, seed=5)
    assert (len(train), len(held)) == (1297 - size, size)
    assert sorted(content(train) + content(held)) == content(whole)
    # Each class has its share, up to rounding.
    share = np.bincount(whole.source.labels) * size / len(whole)
    assert np.abs(np.bincount(held.source.labels, minlength=10) - share).max() < 1.01
    # The test set does not change.
    assert len(datasets.load("digits", "test", validation=size)) == 500


@given(limit=st.integers(1, 997), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_a_limit_draws_images_by_seed(limit, seed):
    pool = datasets.load("digits", "train", validation=300)
    drawn = datasets.load("digits", "train", validation=300, limit=limit, seed=seed)
    again = datasets.load("digits", "train", validation=300, limit=limit, seed=seed)
    np.testing.assert_array_equal(drawn.source.labels, again.source.labels)
    assert len(drawn) == limit
    left = content(pool)
    for image in content(drawn):
        left.remove(image)  # raises where an image is drawn twice or from elsewhere


def test_seeds_draw_different_images():
    draws = [datasets.load("digits", "train", limit=100, seed=seed) for seed in range(5)]
    assert len({tuple(content(draw)) for draw in draws}) == 5


def test_a_choice_of_classes_is_relabelled_in_its_order():
    whole = datasets.load("digits", "test")
    some = datasets.load("digits", "test", classes=(7, 2))
    assert some.class_names == ("7", "2")
    assert some.num_classes == 2
    assert len(some) == np.isin(whole.source.labels, (7, 2)).sum()
    sevens = np.flatnonzero(whole.source.labels == 7).tolist()
    expected = [whole.source[i]["image"] for i in sevens]
    zeros = np.flatnonzero(some.source.labels == 0).tolist()
    found = [some.source[i]["image"] for i in zeros]
    np.testing.assert_array_equal(expected, found)


def test_files_follow_their_labels_through_every_choice(tmp_path, monkeypatch):
    builders.published(monkeypatch, "mini_imagenet", 15, 3, 3)
    builders.mini_imagenet_csv(tmp_path)
    data = datasets.load(
        "mini_imagenet", "train", tmp_path, classes=(2, 0), validation=4, limit=5, seed=3
    )
    for i in range(5):
        example = data.source[i]
        k = round((example["image"].mean() - builders.grey(0)) / 7)
        assert (2, 0)[example["label"]] == k // 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cifar"}, "no data set is called 'cifar'"),
        ({"split": "val"}, 'split must be "train"'),
        ({"split": "validation"}, "needs validation="),
        ({"validation": 1297}, "validation 1297"),
        ({"validation": -1}, "validation -1"),
        ({"limit": 0}, "--train-images 0: digits has 1297 images"),
        ({"limit": 1298}, "--train-images 1298"),
        ({"classes": (1, 1)}, "each only once"),
        ({"classes": (10,)}, "from 0 to 9"),
        ({"classes": ()}, "at least one label"),
        ({"data_dir": Path(".")}, "--data-dir .: digits comes with a Python package"),
    ],
)
def test_impossible_arguments_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        datasets.load(**({"name": "digits", "split": "train"} | arguments))


def test_a_data_set_without_a_published_split_is_split_the_same_way_every_time():
    from sklearn.datasets import load_digits

    pixels, _ = load_digits(return_X_y=True)
    splits = [content(datasets.load("digits", split)) for split in ("train", "test")]
    everything = np.rint(np.reshape(pixels, (-1, 8, 8, 1)) * (255 / 16)).astype(np.uint8)
    assert sorted(splits[0] + splits[1]) == sorted(image.tobytes() for image in everything)
    assert splits[1] == content(datasets.load("digits", "test"))
