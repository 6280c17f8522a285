"""An error in the flags, the data or the weights of a detector is one line before any work begins."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from examples import train_detector
from examples.detection.scenes import write_scenes
from tests.examples.detection.tiny import CONFIG, flags_of

# The smallest run, which needs no pretrained weights.
FLAGS = flags_of(dataclasses.replace(CONFIG, norm="gn", frozen_stages=None))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a folder with three scenes, and with files that are no weights."""
    folder = tmp_path_factory.mktemp("bad")
    write_scenes(folder / "scenes", train=3, validation=0, test=1)
    save_file({}, folder / "empty.safetensors")
    (folder / "text.pth").write_text("no weights")
    (folder / "text.txt").write_text("no weights")
    return folder


def run(monkeypatch, folder, *flags):
    """Runs the program in a folder, and returns the line with which it ends."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["train_detector", *map(str, flags)])
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        train_detector.main()
    line = str(stopped.value)
    assert "\n" not in line
    assert len(line) < 600
    assert sorted(folder.rglob("*")) == before, "nothing is written"
    return line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--short-side 0", "--short-side 0: it must be at least 1"),
        ("--short-side 65", "--short-side 65: it must not be above --long-side"),
        ("--short-side 1000000 --long-side 1000000", "--short-side and .* GiB of memory"),
        ("--max-objects 1", r"--max-objects 1: image \d of .*train\.json has \d objects, so"),
        ("--max-objects 1000000000000000", "--max-objects: the batches need .* GiB"),
        ("--mask-cells 0", "--mask-cells 0: it must be at least 1"),
        ("--anchor-scale 0", "--anchor-scale 0.0: it must be a positive number"),
        ("--anchor-scale nan", "--anchor-scale nan: it must be a positive number"),
        ("--proposals 1", "--proposals 1: it must be at least 2"),
        ("--roi-samples 3", "--roi-samples 3: it must be at least 4"),
        ("--detections 0", "--detections 0: it must be at least 1"),
        ("--width 1000000000", "the weights and the state of the optimizer need .* GiB"),
        ("--norm frozen_bn", "--pretrained None: layers that are frozen need weights"),
        (
            "--schedule step --milestones 2 --warmup-steps 5",
            "--warmup-steps 5: it must be below 2, the step of the first of --milestones",
        ),
        ("--batch-size 3 --data-parallel 2", "--batch-size 3: it must be a multiple of the 2"),
        ("--train-split ../x", "--train-split ../x: it must be a name"),
        ("--eval-split validation", r"instances_validation\.json: no such file"),
        ("--data-dir nowhere --dataset coco", "nowhere: no such folder"),
        ("--data-dir empty.safetensors", "empty.safetensors: no such folder"),
        ("--partial", "--partial is for the classifier's data sets only"),
        ("--pretrained none.pth", r"none\.pth: no such file"),
        ("--pretrained text.txt", r"text\.txt: expected a \.safetensors or a \.pth file"),
        ("--pretrained scenes", "scenes.*: there is no checkpoint of a run here"),
        ("--pretrained empty.safetensors", r"missing: bn1\.bias.* and \d+ more\. The run needs"),
        ("--pretrained empty.safetensors", "a resnet18 of width 8 with the normalization gn"),
    ],
)
@pytest.mark.eight_devices
def test_settings_that_do_not_fit_are_refused(folder, monkeypatch, flags, message):
    line = run(
        monkeypatch, folder, *FLAGS, "--data-dir", "scenes", "--data-parallel", 1, *flags.split()
    )
    assert line.startswith("cannot start: ")
    assert re.search(message, line), line


def change_images(content):
    content["images"][0]["width"] = 0


def repeat_image(content):
    content["images"][1]["id"] = content["images"][0]["id"]


def leave_folder(content):
    content["images"][1]["file_name"] = "../test/000000.png"


def rename_image(content):
    content["images"][1]["file_name"] = "gone.png"


def break_box(content):
    content["annotations"][2]["bbox"][1] = float("nan")


def name_unknown_category(content):
    content["annotations"][2]["category_id"] = 77


def rename_category(content):
    content["categories"][3]["name"] = "another"


def remove_objects(content):
    content["annotations"] = []


@pytest.mark.parametrize(
    ("split", "change", "message"),
    [
        ("train", change_images, r"instances_train\.json, image 1: expected the width in whole"),
        ("train", repeat_image, r"instances_train\.json: two image entries have the id 1"),
        ("train", leave_folder, r"instances_train\.json, image 2: expected a path inside"),
        (
            "train",
            rename_image,
            r"train/gone\.png: no such file; expected image 2 of .*train\.json",
        ),
        (
            "train",
            break_box,
            r"instances_train\.json, annotation 3: expected a bbox of four numbers",
        ),
        ("test", name_unknown_category, r"test\.json, annotation 3: no category has the id 77"),
        (
            "test",
            rename_category,
            r"test\.json has other categories than .*2 are only.*4 'another'",
        ),
        ("train", remove_objects, r"train\.json: no image has an object, so there is nothing to"),
        (
            "test",
            remove_objects,
            r"test\.json: none of the images that are evaluated has an object",
        ),
    ],
)
def test_data_that_are_broken_are_refused(folder, monkeypatch, tmp_path, split, change, message):
    for name in ("train", "test"):
        (tmp_path / name).symlink_to(folder / "scenes" / name)
    (tmp_path / "annotations").mkdir()
    for name in ("train", "test"):
        content = json.loads((folder / f"scenes/annotations/instances_{name}.json").read_text())
        if name == split:
            change(content)
        (tmp_path / f"annotations/instances_{name}.json").write_text(json.dumps(content))
    line = run(monkeypatch, tmp_path, *FLAGS, "--data-dir", ".", "--eval-split", "test")
    assert line.startswith("cannot start: ")
    assert re.search(message, line), line


def test_a_folder_without_images_is_refused(folder, monkeypatch, tmp_path):
    (tmp_path / "annotations").symlink_to(folder / "scenes/annotations")
    line = run(monkeypatch, tmp_path, *FLAGS, "--data-dir", ".")
    assert "train/000000.png: no such file; expected image 1 of" in line


def test_scenes_are_made_where_the_folder_does_not_exist(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr("examples.detection.splits.write_scenes", made.append)
    line = run(monkeypatch, tmp_path, *FLAGS, "--data-dir", "new/scenes")
    assert made == [Path("new/scenes")]
    assert "no such folder" in line
