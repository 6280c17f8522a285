"""COCO's format is read as pycocotools reads it, and what is broken is refused by file and id."""

import copy
import json
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from pycocotools.coco import COCO

from examples.datasets.coco import load_coco
from examples.datasets.outlines import encode_mask
from examples.datasets.types import DatasetError

HEIGHT, WIDTH = 12, 16
MASK = np.zeros((HEIGHT, WIDTH), np.uint8)
MASK[2:7, 3:9] = 1
MASK[4, 5] = 0


def plain(mask):
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    return {"size": list(mask.shape), "counts": np.diff([0, *edges, flat.size]).tolist()}


def entry(number, image=7, category=5, **changes):
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [3.0, 2.0, 6.0, 5.0],
        "area": 29.0,
        "iscrowd": 0,
        "segmentation": [[3, 2, 9, 2, 9, 7, 3, 7]],
        **changes,
    }


def make_content():
    image = {"height": HEIGHT, "width": WIDTH}
    return {
        "images": [
            {"id": 9, "file_name": "b.png", **image},
            {"id": 7, "file_name": "a.png", **image},
            {"id": 4, "file_name": "c.png", **image},
        ],
        "categories": [{"id": 5, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            entry(11),
            entry(12, image=9, category=2, segmentation=encode_mask(MASK)),
            entry(13, segmentation=plain(MASK)),
            entry(14, iscrowd=1, segmentation=plain(MASK)),
            entry(15, bbox=[3.0, 2.0, 1.0, 0.0], area=0.0),
            entry(16, segmentation=[[1.5, 1, 6, 1, 6, 8], [8, 2, 13, 3, 12.2, 9, 8, 8]]),
        ],
    }


def write(folder, content):
    (folder / "annotations").mkdir(parents=True)
    path = folder / "annotations" / "instances_train.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    (folder / "train").mkdir()
    for name in "abc":
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "train" / f"{name}.png")
    return path


def test_objects_are_those_of_the_file_without_crowds_and_what_has_no_area(tmp_path):
    write(tmp_path, make_content())
    data = load_coco(tmp_path, "train", masks=True)
    assert data.image_ids.tolist() == [9, 7, 4]
    assert (data.category_ids, data.class_names) == ((2, 5), ("dog", "cat"))
    assert [data.object_ids[data.objects(i)].tolist() for i in range(3)] == [[12], [11, 13, 16], []]
    assert data.labels.tolist() == [1, 2, 2, 2]
    assert data.boxes[0].tolist() == [3, 2, 9, 7]
    assert data.read_image(1).shape == (HEIGHT, WIDTH, 3)


def test_polygons_and_both_kinds_of_runs_are_drawn_as_pycocotools_draws_them(tmp_path):
    path = write(tmp_path, make_content())
    data, theirs = load_coco(tmp_path, "train"), COCO(str(path))
    masks = np.concatenate([data.draw_masks(i) for i in range(3)])
    expected = [theirs.annToMask(theirs.anns[number]) for number in data.object_ids.tolist()]
    np.testing.assert_array_equal(masks, np.stack(expected).astype(bool))
    assert data.draw_masks(2).shape == (0, HEIGHT, WIDTH)


BAD = {
    "a box outside": ({"bbox": [30, 30, 5, 5]}, "leaves its image"),
    "two corners": ({"bbox": [10, 8, 15, 11]}, "two corners"),
    "a box without area": ({"bbox": [3, 2, 0, 5]}, "has no area"),
    "a negative side": ({"bbox": [3, 2, -1, 5], "area": 0}, "has no area"),
    "a box of three numbers": ({"bbox": [3, 2, 1]}, "four numbers"),
    "a box that is not a number": ({"bbox": [3, 2, 1, float("nan")]}, "four numbers"),
    "a polygon of two points": ({"segmentation": [[1, 1, 2, 2]]}, "three points"),
    "a polygon of seven numbers": ({"segmentation": [[1, 1, 2, 2, 3, 3, 4]]}, "three points"),
    "an infinite box": ({"bbox": [3, 2, 1, float("inf")]}, "four numbers"),
    "a box of texts": ({"bbox": ["3", "2", "1", "5"]}, "four numbers"),
    "a box that is missing": ({"bbox": None}, "four numbers"),
    "a negative area": ({"area": -1}, "an area of 0 or more, found -1"),
    "an area that is a text": ({"area": "29"}, "an area of 0 or more, found 29"),
    "a crowd that is a text": ({"iscrowd": "yes"}, "iscrowd must be 0 or 1, not 'yes'"),
    "a polygon of texts": ({"segmentation": [["1"] * 8]}, "polygons of numbers"),
    "a polygon far outside": ({"segmentation": [[0, 0, 900, 0, 900, 900]]}, "far outside"),
    "a text as outline": ({"segmentation": "3 2 9 2"}, "polygons or runs"),
    "an unknown category": ({"category_id": 99}, "no category has the id 99"),
    "a list as a category": ({"category_id": [1]}, r"a whole number as category_id, found \[1\]"),
    "a text as a category": ({"category_id": "5"}, "a whole number as category_id, found '5'"),
    "an unknown image": ({"image_id": 99}, "no image has the id 99"),
    "an object as an image": ({"image_id": {}}, "a whole number as image_id, found {}"),
    "true as an image": ({"image_id": True}, "a whole number as image_id, found True"),
    "no outline": ({"segmentation": []}, "no segmentation"),
    "a polygon beside its box": (
        {"segmentation": [[10, 2, 12, 2, 12, 7]]},
        r"from \[10\.0, 2\.0\] to \[12\.0, 7\.0\], lies outside of its bbox, from \[3\.0, 2\.0\]",
    ),
    "runs below their box": (
        {"bbox": [3, 9, 6, 3], "segmentation": plain(MASK)},
        "lies outside of its bbox",
    ),
    "runs of another size": (
        {"segmentation": plain(np.zeros((3, 3), np.uint8))},
        "image of size",
    ),
    "runs that are too few": (
        {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [3, 4]}},
        "cover 7 pixels",
    ),
    "negative runs": (
        {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [-8, HEIGHT * WIDTH + 8]}},
        "cover 192 pixels",
    ),
    "runs of fractions": (
        {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [0.5, 191.5]}},
        "the counts of runs",
    ),
    "runs that are cut off": (
        {"segmentation": {"size": [HEIGHT, WIDTH], "counts": encode_mask(MASK)["counts"][:-1]}},
        "runs",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_broken_annotation_is_refused_by_file_and_id(tmp_path, kind):
    changes, words = BAD[kind]
    content = make_content()
    content["annotations"].append(entry(4711, **changes))
    path = write(tmp_path, content)
    with pytest.raises(DatasetError, match=words) as error:
        load_coco(tmp_path, "train", masks=True)
    assert f"{path}, annotation 4711" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_broken_file_is_refused(tmp_path):
    good = make_content()
    twice = copy.deepcopy(good)
    twice["images"][1]["id"] = 9
    leaves = copy.deepcopy(good)
    leaves["images"][1]["file_name"] = "../a.png"
    absolute = copy.deepcopy(good)
    absolute["images"][1]["file_name"] = "/a.png"
    flat = copy.deepcopy(good)
    flat["images"][1]["width"] = 0
    text = copy.deepcopy(good)
    text["images"][1]["height"] = "12"
    missing = copy.deepcopy(good)
    missing["images"][1]["file_name"] = "d.png"
    for number, (content, words) in enumerate(
        (
            (json.dumps(good)[:-20], "reading it failed"),
            ([], "COCO's format"),
            ("annotations", "reading it failed"),
            ("", "reading it failed"),
            ("[" * 100_000, "reading it failed"),
            ({**good, "categories": [{"id": 5}, {"id": 5}]}, "two category entries have the id 5"),
            (
                {**good, "annotations": [entry("3")]},
                "annotation 1 .* a whole number as id, found '3'",
            ),
            (flat, "image 7: expected the width in whole pixels, found 0"),
            (text, "image 7: expected the height in whole pixels, found '12'"),
            (absolute, "inside the folder"),
            ({**good, "images": []}, "at least one image"),
            ({**good, "categories": None}, '"categories"'),
            (twice, "two image entries have the id 9"),
            ({**good, "annotations": [entry(3), entry(3)]}, "two annotation entries have the id 3"),
            (leaves, r"image 7: expected a path inside the folder of the images, found '\.\./a"),
            (missing, "d.png: no such file; expected image 7"),
        )
    ):
        write(tmp_path / str(number), content)
        with pytest.raises(DatasetError, match=words):
            load_coco(tmp_path / str(number), "train")


def test_objects_of_the_area_0_are_left_out(tmp_path):
    content = make_content()
    content["annotations"] = [entry(1, area=0), entry(2, area=0.0), entry(3), entry(4, area=0.5)]
    del content["annotations"][2]["area"]
    write(tmp_path, content)
    assert load_coco(tmp_path, "train").object_ids.tolist() == [3, 4]


def test_outlines_without_a_pixel_are_left_out_where_masks_are_wanted(tmp_path):
    content = make_content()
    line, bow = [3, 2, 9, 7, 3, 2], [3, 2, 9, 7, 9, 2, 3, 7]  # the areas of a bow cancel out
    outlines = [plain(0 * MASK), encode_mask(0 * MASK), [line], [line, bow]]
    content["annotations"] = [entry(i, segmentation=each) for i, each in enumerate(outlines)]
    write(tmp_path, content)
    assert load_coco(tmp_path, "train").object_ids.tolist() == [0, 1, 2, 3]
    assert load_coco(tmp_path, "train", masks=True).object_ids.tolist() == [3]


@pytest.mark.parametrize("masks", [False, True])
def test_objects_that_are_left_out_need_no_outline(tmp_path, masks):
    content = make_content()
    left_out: list[dict[str, Any]] = [
        {"iscrowd": 1},
        {"ignore": 1},
        {"bbox": [3, 2, 0.5, 5]},
        {"area": 0},
    ]
    content["annotations"] = [entry(1, iscrowd=1), entry(2)] + [
        entry(i, segmentation=None, **changes) for i, changes in enumerate(left_out, 3)
    ]
    write(tmp_path, content)
    assert load_coco(tmp_path, "train", masks=masks).object_ids.tolist() == [2]


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_size_of_the_turned_image_is_explained_by_its_exif_entry(tmp_path, orientation):
    write(tmp_path, make_content())
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "train" / "a.png", exif=exif)
    with pytest.raises(DatasetError, match=r"a\.png: the image has 12 x 16 pixels") as error:
        load_coco(tmp_path, "train").read_image(1)
    assert ("EXIF entry turns it: save it turned" in str(error.value)) == (orientation == 6)


def test_an_image_of_another_size_is_refused_when_it_is_read(tmp_path):
    write(tmp_path, make_content())
    Image.new("L", (WIDTH, HEIGHT + 1)).save(tmp_path / "train" / "a.png")
    with pytest.raises(DatasetError, match=r"a\.png: the image has 16 x 13 pixels.*image 7"):
        load_coco(tmp_path, "train").read_image(1)


def test_an_image_that_is_cut_short_is_refused_before_work_begins(tmp_path):
    write(tmp_path, make_content())
    path = tmp_path / "train" / "a.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(
        DatasetError, match=r"a\.png: expected image 7 of .*train\.json, but reading"
    ):
        load_coco(tmp_path, "train")


def test_the_digest_differs_with_the_annotations_and_with_the_images_that_are_used(tmp_path):
    rows = np.array([0, 1])

    def digest(name, content, rows=rows):
        write(tmp_path / name, content)
        return load_coco(tmp_path / name, "train").digest(rows)

    outline, label = make_content(), make_content()
    outline["annotations"][0]["segmentation"] = [[3, 2, 9, 2, 9, 7]]
    label["annotations"][0]["category_id"] = 2
    assert digest("first", make_content()) == digest("copy", make_content())
    changed = [digest("outline", outline), digest("label", label)]
    changed += [
        digest("order", make_content(), rows[::-1]),
        digest("fewer", make_content(), rows[:1]),
    ]
    assert len({digest("again", make_content()), *changed}) == 5


def test_classes_of_the_same_name_keep_their_ids_in_it(tmp_path):
    categories = [{"id": 0, "name": "cat"}, {"id": 5, "name": "cat"}, {"id": 2}]
    write(tmp_path, {**make_content(), "categories": categories})
    assert load_coco(tmp_path, "train").class_names == ("cat (0)", "2", "cat (5)")
