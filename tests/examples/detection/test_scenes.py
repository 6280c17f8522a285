"""Scenes are the same for a seed, go through the reader of COCO, and share no digit."""

import filecmp

import numpy as np
import pytest

from examples.datasets.coco import load_coco
from examples.detection import scenes
from examples.training.errors import SettingError


def test_the_files_are_the_same_for_a_seed_and_others_for_another(scenes_folder, tmp_path):
    scenes.write_scenes(tmp_path / "same", train=3, validation=0, test=5)
    scenes.write_scenes(tmp_path / "other", train=3, validation=0, test=5, seed=1)
    names = [f"train/{i:06}.png" for i in range(3)]
    names.append("annotations/instances_test.json")
    same = filecmp.cmpfiles(scenes_folder, tmp_path / "same", names, shallow=False)
    assert same == (names, [], [])
    other = filecmp.cmpfiles(scenes_folder, tmp_path / "other", names, shallow=False)
    assert other == ([], names, [])


def test_scenes_are_read_as_coco_and_masks_fit_their_boxes(scenes_folder):
    data = load_coco(scenes_folder, "train", masks=True)
    assert len(data) == 30
    assert data.class_names == tuple("0123456789")
    numbers = np.diff(data.first)
    assert numbers.min() >= 2
    assert numbers.max() <= 6
    for index in range(len(data)):
        picture, masks = data.read_image(index), data.draw_masks(index)
        assert (masks.sum(0) <= 1).all()  # a later digit takes what it covers from an earlier one
        for mask, box in zip(masks, data.boxes[data.objects(index)], strict=True):
            ys, xs = np.nonzero(mask)
            assert [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] == box.tolist()
            # A digit is brighter than what is around it.
            assert picture[mask].mean() > picture[~masks.any(0)].mean()


def test_some_scenes_have_a_crowd(scenes_folder):
    text = (scenes_folder / "annotations" / "instances_train.json").read_text()
    assert '"iscrowd": 1' in text


def test_no_digit_is_in_two_splits():
    found = [{image.tobytes() for image in scenes._digits(split)[0]} for split in scenes._DIGITS]
    assert [len(images) for images in found] == [2500, 500, 2000]
    assert len(set.union(*found)) == 5000


@pytest.mark.parametrize("seed", [0, 1])
def test_scenes_that_another_program_makes_meanwhile_are_used_if_they_are_the_same(
    tmp_path, monkeypatch, seed
):
    write, folder = scenes._write_split, tmp_path / "scenes"
    numbers = {"train": 2, "validation": 0, "test": 1}

    def write_with_another(*args):
        monkeypatch.undo()
        scenes.write_scenes(tmp_path / "another", seed=seed, **numbers)
        (tmp_path / "another").rename(folder)
        return write(*args)

    monkeypatch.setattr(scenes, "_write_split", write_with_another)
    if seed:
        with pytest.raises(SettingError, match="scenes exists: remove it first"):
            scenes.write_scenes(folder, **numbers)
    else:
        scenes.write_scenes(folder, **numbers)
    assert [path.name for path in tmp_path.iterdir()] == ["scenes"], "nothing else is left"
    assert len(load_coco(folder, "train", masks=True)) == 2


def test_a_folder_that_exists_is_left_as_it_is(scenes_folder):
    with pytest.raises(SettingError, match="exists"):
        scenes.write_scenes(scenes_folder)
    assert len(list(scenes_folder.iterdir())) == 3
