"""Average precision is that of pycocotools, of boxes and masks in the original image."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from examples.datasets.coco import load_coco
from examples.detection.data import Preparation, crop_mask
from examples.detection.evaluation import Scorer, read_truth, to_results
from examples.training.errors import DivergedError


@pytest.fixture(scope="module")
def data(scenes_folder):
    return load_coco(scenes_folder, "test", masks=True)


def make_output(data, *, short_side=192, shift=0.0, score=lambda i: 0.9, places=8):
    """Makes the detections that a net would return if it had found every object."""
    preparation = Preparation(short_side, short_side, "rgb", True, 28, places)
    output = {
        "boxes": np.zeros((len(data), places, 4), np.float32),
        "labels": np.zeros((len(data), places), np.int32),
        "scores": np.zeros((len(data), places), np.float32),
        "valid": np.zeros((len(data), places), bool),
        "masks": np.zeros((len(data), places, 28, 28), np.float32),
        "row": np.arange(len(data), dtype=np.int32),
        "counts": np.ones(len(data), bool),
        "size": np.array([preparation.resize(size) for size in data.sizes], np.int32),
    }
    for row in range(len(data)):
        own = data.objects(row)
        number = own.stop - own.start
        scale = output["size"][row, 0] / data.sizes[row, 0]
        output["boxes"][row, :number] = (data.boxes[own] + shift) * scale
        output["labels"][row, :number] = data.labels[own]
        output["scores"][row, :number] = [score(i) for i in range(number)]
        output["valid"][row, :number] = True
        for i, (mask, box) in enumerate(zip(data.draw_masks(row), data.boxes[own], strict=True)):
            output["masks"][row, i] = crop_mask(mask, box, 28)
    return output


def test_what_is_right_in_the_resized_image_scores_1_in_the_original_one(data):
    scores = Scorer(data, np.arange(len(data)), masks=True).score([make_output(data)])
    assert scores.metrics["box_AP"] == pytest.approx(1)
    assert scores.metrics["mask_AP50"] == pytest.approx(1)
    assert scores.metrics["mask_AP"] > 0.75  # masks of 28x28 are a little coarse
    found = {data.class_names[label - 1] for label in data.labels}
    assert {name for name, ap in scores.classes["box"].items() if ap == pytest.approx(1)} == found
    assert np.isnan([scores.classes["box"][n] for n in data.class_names if n not in found]).all()
    # No digit is larger than 96 x 96 pixels.
    assert "box_APl" not in scores.metrics


def test_masks_are_drawn_exactly_if_boxes_are_not_rounded(data):
    """torchvision's rounding costs a fifth of the mask AP of small objects that are found exactly."""
    rows, output = np.arange(len(data)), make_output(data)
    aligned = Scorer(data, rows, masks=True, aligned=True).score([output])
    assert aligned.metrics["mask_AP"] > 0.99
    assert Scorer(data, rows, masks=True).score([output]).metrics["mask_AP"] < 0.85


def test_detections_of_one_image_do_not_depend_on_how_many_there_are(data):
    """Masks are pasted ten at a time."""
    few = make_output(data)
    of_detections = ("boxes", "labels", "scores", "valid", "masks")
    many = few | {name: np.repeat(few[name], 3, axis=1) for name in of_detections}
    assert many["valid"].sum(1).max() > 10
    expected = [entry for entry in to_results(data, few) for _ in range(3)]
    assert to_results(data, many) == expected


def test_the_numbers_are_those_of_pycocotools_on_the_written_results(data, tmp_path, capsys):
    output = make_output(data, shift=2.0, score=lambda i: 0.9 - 0.1 * i)
    output["valid"][:, 1] = False
    for name in ("valid", "boxes", "labels", "scores", "masks"):
        output[name][:, 1:] = np.roll(output[name][:, 1:], -1, axis=1)  # valid ones are in front
    scores = Scorer(data, np.arange(len(data)), masks=True).score([output])
    assert 0.2 < scores.metrics["box_AP"] < 0.95
    truth = COCO(str(data.path))
    kinds: dict[Any, str] = {"bbox": "segmentation", "segm": "bbox"}
    for kind, left_out in kinds.items():
        path = tmp_path / f"{kind}.json"
        mine = [{k: v for k, v in e.items() if k != left_out} for e in scores.results]
        path.write_text(json.dumps(mine))
        theirs = COCOeval(truth, truth.loadRes(str(path)), kind)
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
        name = {"bbox": "box", "segm": "mask"}[kind]
        assert scores.metrics[f"{name}_AP"] == pytest.approx(theirs.stats[0])
        assert scores.metrics[f"{name}_AR100"] == pytest.approx(theirs.stats[8])
    capsys.readouterr()


def test_no_detection_at_all_scores_0(data):
    output = make_output(data)
    output["valid"][:] = False
    scores = Scorer(data, np.arange(len(data)), masks=True).score([output])
    assert scores.results == []
    assert scores.metrics["box_AP"] == scores.metrics["mask_AP"] == 0


def test_objects_without_an_outline_that_no_training_sees_are_scored_by_their_box(data, tmp_path):
    content = json.loads(data.path.read_text())
    entry = content["annotations"][0]
    box, outline = [4.0, 2.0, 20.0, 10.0], {"segmentation": None, "area": 0}
    content["annotations"] += [
        entry | outline | {"id": 10**6 + crowd, "bbox": box, "iscrowd": crowd} for crowd in (0, 1)
    ]
    path = tmp_path / "annotations" / "instances_test.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    (tmp_path / "test").symlink_to(data.image_dir)
    changed = load_coco(tmp_path, "test", masks=True)
    assert len(changed.boxes) == len(data.boxes)
    scores = Scorer(changed, np.arange(len(data)), masks=True).score([make_output(data)])
    assert 0.5 < scores.metrics["mask_AP50"] < 1, "one object is not found"


def test_scores_that_are_not_finite_are_an_error_with_the_image(data):
    output = make_output(data)
    output["scores"][2], output["valid"][2] = np.nan, False
    scorer = Scorer(data, np.arange(len(data)), masks=False)
    with pytest.raises(DivergedError, match=rf"for image {data.image_ids[2]} of .*_test\.json$"):
        scorer.score([output])
    output["counts"][2] = False
    assert scorer.score([output]).results


def test_only_the_chosen_images_are_scored_and_repeated_ones_are_left_out(data):
    output = make_output(data)
    output["counts"][2:] = False
    assert {e["image_id"] for e in to_results(data, output)} == set(data.image_ids[:2].tolist())
    chosen = Scorer(data, np.arange(2), masks=False).score([output])
    assert chosen.metrics["box_AP"] == pytest.approx(1)
    every = Scorer(data, np.arange(len(data)), masks=False).score([output])
    assert every.metrics["box_AP"] < 1
    assert all("mask" not in name for name in chosen.metrics)


def test_what_some_programs_do_not_write_is_no_hindrance(data, tmp_path):
    """pycocotools needs infos, areas and crowds, and takes an object with the number 0 for none."""
    content = json.loads(data.path.read_text())
    del content["info"]
    areas = [entry.pop("area") for entry in content["annotations"]]
    for number, entry in enumerate(content["annotations"]):
        entry["id"] = number
        if not entry["iscrowd"]:
            del entry["iscrowd"]
    path = tmp_path / "instances_test.json"
    path.write_text(json.dumps(content))
    read: Any = read_truth(path).dataset
    assert read["info"] == {}, "some releases of pycocotools copy it"
    assert [entry["area"] for entry in read["annotations"]] == areas
    changed = dataclasses.replace(data, path=path)
    scores = Scorer(changed, np.arange(len(data)), masks=False).score([make_output(data)])
    assert scores.metrics["box_AP"] == pytest.approx(1)
