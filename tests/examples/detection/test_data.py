"""Images of all sizes become a few shapes, and boxes and masks follow their images."""

import collections

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.datasets.coco import Coco
from examples.detection import data as pipeline
from examples.detection.data import Preparation, crop_mask, prepare_image, prepare_objects
from examples.detection.masks import project_masks_on_boxes
from examples.training.errors import SettingError

COCO = Preparation(800, 1333, "rgb", masks=True, mask_cells=56, max_objects=100)
SMALL = Preparation(60, 90, "rgb", masks=True, mask_cells=28, max_objects=4)
SIZES = [(40, 60), (60, 40), (50, 50), (40, 61), (90, 40), (20, 60), (64, 96), (50, 70)]


class Drawn(Coco):
    """A data set whose pictures are drawn here: each object is a rectangle of its own colour."""

    def read_image(self, index):
        height, width = self.sizes[index].tolist()
        picture = np.full((height, width, 3), index, np.uint8)
        for mask in self.draw_masks(index):
            picture[mask] = 255
        return picture


def make_data(tmp_path, sizes=SIZES, empty=()):
    boxes, outlines, rows = [], [], []
    for row, (height, width) in enumerate(sizes):
        if row in empty:
            continue
        x1, y1, x2, y2 = 5, 8, width - 12, height // 2
        boxes.append([x1, y1, x2, y2])
        outlines.append([np.array([x1, y1, x2, y1, x2, y2, x1, y2], np.float64)])
        rows.append(row)
    return Drawn(
        path=tmp_path / "instances.json",
        sha256="",
        image_dir=tmp_path,
        names=[f"{i}.png" for i in range(len(sizes))],
        image_ids=np.arange(len(sizes)) + 100,
        sizes=np.array(sizes, np.int32),
        category_ids=(3,),
        class_names=("box",),
        first=np.searchsorted(rows, np.arange(len(sizes) + 1)),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.ones(len(boxes), np.int32),
        object_ids=np.arange(len(boxes)),
        segmentations=outlines,
    )


def take(stream, number):
    iterator = iter(stream)
    try:
        return [next(iterator) for _ in range(number)]
    finally:
        iterator.close()


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_every_image_fits_its_bucket_and_keeps_its_ratio(height, width):
    size = np.array([height, width])
    new_height, new_width = COCO.resize(size)
    bucket = COCO.buckets[COCO.bucket(size)]
    assert new_height <= bucket[0]
    assert new_width <= bucket[1]
    assert max(new_height, new_width) == 1333 or min(new_height, new_width) == 800
    scale = max(new_height, new_width) / max(height, width)
    np.testing.assert_allclose(
        [new_height, new_width], np.maximum(1, size * scale), atol=0.5 * (1 + scale / 800)
    )


def test_boxes_and_masks_follow_the_picture_when_it_is_resized_and_mirrored(tmp_path):
    data = make_data(tmp_path)
    for index in range(len(data)):
        for flip in (False, True):
            image, size = prepare_image(data.read_image(index), SMALL, flip=flip)
            found = prepare_objects(data, index, SMALL, flip=flip)
            bright = image[: size[0], : size[1], 0] > 0
            ys, xs = np.nonzero(bright)
            pixels = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            np.testing.assert_allclose(found["boxes"][0], pixels, atol=1.01)
            np.testing.assert_array_equal(found["masks"][0], 1)
            assert not image[size[0] :].any()
            assert not image[:, size[1] :].any()


def test_a_mask_is_cut_to_its_box_by_area():
    mask = np.zeros((20, 30), bool)
    mask[4:12, 6:22] = np.arange(16) < 8
    np.testing.assert_allclose(crop_mask(mask, np.array([6, 4, 22, 12]), 4)[0], [1, 1, 0, 0])
    np.testing.assert_allclose(
        crop_mask(mask, np.array([6, 4, 22, 12]), 3)[0], [1, 0.5, 0], atol=1e-6
    )
    # In a box of any fraction, the area stays that of the mask.
    box = np.array([5.3, 3.9, 23.1, 13.2])
    cells = crop_mask(mask, box, 7)
    area = cells.mean() * (box[2] - box[0]) * (box[3] - box[1])
    np.testing.assert_allclose(area, mask.sum(), rtol=1e-5)


def test_targets_from_cut_masks_are_those_from_whole_ones():
    ys, xs = np.mgrid[:90, :120]
    mask = (xs - 60) ** 2 / 40**2 + (ys - 45) ** 2 / 30**2 < 1
    box = np.array([20, 15, 101, 76.0], np.float32)
    region = np.array([[15, 10, 90, 70.0]], np.float32)
    whole = project_masks_on_boxes(mask[None], region, np.array([0]), aligned=True)
    cut = crop_mask(mask, box, 112)[None].astype(np.float16)
    ours = project_masks_on_boxes(cut, region, np.array([0]), frames=box[None], aligned=True)
    assert jnp.abs(whole - ours).mean() < 0.005


def test_an_epoch_has_each_image_once_and_only_repeats_fill_batches(tmp_path):
    data = make_data(tmp_path)
    plan = pipeline.Plan(data, np.arange(len(data)), SMALL, 3, seed=0)
    epochs = []
    for epoch in range(2):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        batches = [plan.batch(number)[0] for number in steps]
        for rows in batches:
            assert len({SMALL.bucket(data.sizes[row]) for row in rows}) == 1
        counts = collections.Counter(np.concatenate(batches).tolist())
        assert counts.keys() == set(range(len(data)))
        buckets = collections.Counter(SMALL.bucket(size) for size in data.sizes)
        assert plan.steps_per_epoch == sum(-(-number // 3) for number in buckets.values())
        epochs.append(np.concatenate(batches).tolist())
    assert epochs[0] != epochs[1]


def test_half_of_the_images_are_mirrored_or_none(tmp_path):
    data = make_data(tmp_path)

    def count_mirrored(**options):
        plan = pipeline.Plan(data, np.arange(len(data)), SMALL, 2, seed=0, **options)
        return sum(plan.batch(number)[1].sum() for number in range(100))

    assert 70 < count_mirrored() < 130
    assert count_mirrored(mirror=False) == 0


def test_batches_are_the_same_for_processes_and_after_a_restart(tmp_path):
    data = make_data(tmp_path, empty={2})
    rows = pipeline.choose_images(data)
    assert rows.tolist() == [0, 1, 3, 4, 6, 7]  # one image is empty and one too small

    def make(**share):
        plan = pipeline.Plan(data, rows, SMALL, 4, seed=3)
        return pipeline.train_batches(plan, epochs=5, **share)

    whole = take(make(), 6)
    parts = [take(make(process_index=i, process_count=2), 6) for i in range(2)]
    for number, batch in enumerate(whole):
        for name, value in batch.items():
            joined = np.concatenate([part[number][name] for part in parts])
            np.testing.assert_array_equal(value, joined)
    continued = iter(make())
    continued.set_state({"batches": 4})
    np.testing.assert_array_equal(next(continued)["image"], whole[4]["image"])
    assert continued.get_state() == {"batches": 5}
    continued.close()


def test_there_is_one_shape_for_each_bucket(tmp_path):
    data = make_data(tmp_path)
    plan = pipeline.Plan(data, np.arange(len(data)), SMALL, 2, seed=0)
    stream = pipeline.train_batches(plan, epochs=8)
    shapes = {batch["image"].shape[1:3] for batch in take(stream, 20)}
    assert shapes == {SMALL.buckets[SMALL.bucket(size)] for size in data.sizes}
    assert len(SMALL.buckets) == 2
    batch = take(stream, 1)[0]
    assert batch["masks"].shape == (2, 4, 28, 28)
    assert batch["valid"].sum() == 2


def test_an_evaluation_counts_every_image_once(tmp_path):
    data = make_data(tmp_path, empty={1, 3})
    batches = list(pipeline.evaluation_batches(data, np.arange(len(data)), SMALL, batch_size=3))
    rows = np.concatenate([batch["row"][batch["counts"]] for batch in batches])
    assert sorted(rows) == list(range(len(data)))
    assert all(len(batch["image"]) == 3 for batch in batches)


def test_too_many_objects_and_none_at_all_are_refused(tmp_path):
    data = make_data(tmp_path)
    few = Preparation(60, 90, "rgb", masks=False, mask_cells=28, max_objects=0)
    with pytest.raises(
        SettingError, match=r"--max-objects 0: image 10\d of .*instances.json has 1"
    ):
        pipeline.check_objects(data, np.arange(len(data)), few)
    with pytest.raises(SettingError, match="no image has an object"):
        pipeline.choose_images(make_data(tmp_path, empty=set(range(len(SIZES)))))


@pytest.mark.parametrize("empty", [False, True])
def test_images_that_are_too_small_are_not_called_empty(tmp_path, empty):
    data = make_data(tmp_path, sizes=[(31, 60), (60, 40), (60, 31)], empty={1})
    if empty:
        assert pipeline.choose_images(data, empty=True).tolist() == [1]
        data = make_data(tmp_path, sizes=[(31, 60), (60, 31)])
    with pytest.raises(SettingError, match=r"a side of fewer than 32 pixels.*: enlarge them"):
        pipeline.choose_images(data, empty=empty)
