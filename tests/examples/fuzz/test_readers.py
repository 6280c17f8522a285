"""Whatever is wrong with the files of a data set, it is an error in one line or data that fit."""

import functools
import os
import shutil
import warnings

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from examples import datasets
from examples.datasets import transforms
from examples.datasets.coco import load_coco
from examples.datasets.types import DatasetError
from examples.detection.data import Preparation, prepare_image, prepare_objects
from examples.detection.evaluation import Scorer
from tests.examples.datasets import builders
from tests.examples.fuzz.mutations import check_message, damage, limits, search

BUILDERS = {
    "aircraft": builders.aircraft,
    "cars": builders.cars,
    "cifar100": builders.cifar100,
    "coco": builders.coco,
    "cub": builders.cub,
    "dogs": builders.dogs,
    "fashion_mnist": builders.fashion_mnist,
    "fashion_mnist, unpacked": functools.partial(builders.fashion_mnist, end=""),
    "imagenet": functools.partial(builders.imagenet, flat=True),
    "imagenet, in folders": functools.partial(builders.imagenet, flat=False),
    "mini_imagenet": builders.mini_imagenet_csv,
}


@pytest.fixture(scope="module", params=BUILDERS)
def data_set(request, tmp_path_factory):
    """The name of a data set, its folder, and its files in a fixed order."""
    folder = tmp_path_factory.mktemp("data")
    BUILDERS[request.param](folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    # Lists are few and images many, but lists decide more.
    lists = [path for path in files if path.suffix.lower() not in (".jpg", ".jpeg")]
    return request.param.partition(",")[0], folder, lists or files, files


def read_all(name, split, folder):
    """Reads a split and every image of it, and checks that they are what a run needs."""
    if name == "coco":
        read_objects(split, folder)
        return
    dataset = datasets.load(name, split, folder, partial=True)
    transform = transforms.recipe(name)[0]
    assert dataset.source.labels.dtype == np.int32
    assert len(set(dataset.class_names)) == len(dataset.class_names)
    shapes = set()
    for index in range(len(dataset)):
        example = dataset.source[index]
        assert 0 <= example["label"] < dataset.num_classes
        assert example["image"].dtype == np.uint8
        made = transform(example["image"], np.random.default_rng(index))
        assert np.isfinite(made).all()
        shapes.add(made.shape)
    assert len(shapes) <= 1, "images of one batch differ in shape"


def read_objects(split, folder):
    """Does the same with a data set of objects in images, and scores it."""
    data = load_coco(folder, split, masks=True)
    preparation = Preparation(32, 48, "rgb", masks=True, mask_cells=8, max_objects=4)
    for index in range(len(data)):
        image, size = prepare_image(data.read_image(index), preparation)
        assert np.isfinite(image).all()
        objects = prepare_objects(data, index, preparation)
        assert (objects["boxes"][:, :2] < objects["boxes"][:, 2:]).all()
        assert ((objects["boxes"] >= 0) & (objects["boxes"] <= np.tile(size[::-1], 2))).all()
        assert ((objects["masks"] >= 0) & (objects["masks"] <= 1)).all()
        assert np.isin(objects["labels"], np.arange(1, 1 + len(set(data.class_names)))).all()
    Scorer(data, np.arange(len(data)), masks=True).score([])


@hypothesis.given(data=st.data())
@search(percent=30)
def test_a_broken_file_is_one_error_or_data_that_fit(data_set, data):
    name, folder, lists, files = data_set
    path = data.draw(st.sampled_from(data.draw(st.sampled_from([lists, files]))))
    split = data.draw(st.sampled_from(["train", "test"]))
    content = path.read_bytes()
    broken = data.draw(damage(content))
    message = None
    try:
        path.write_bytes(broken)
        with limits(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow and SciPy warn of what they find odd
            read_all(name, split, folder)
    except DatasetError as error:
        message = check_message(error)
    finally:
        path.write_bytes(content)
    assert message is None or str(folder) in message or "image of" in message


@pytest.mark.parametrize("put", [lambda path: None, os.mkfifo, os.mkdir])
def test_a_path_that_is_not_a_file_is_one_error_or_not_needed(data_set, put):
    name, folder, lists, files = data_set
    for path in {*lists[:6], *files[:3], *files[-3:]}:
        away = path.with_name(path.name + ".away")
        shutil.move(path, away)
        put(path)
        try:
            with limits():
                read_all(name, "train", folder)
        except DatasetError as error:
            check_message(error)
        finally:
            if path.is_dir():
                path.rmdir()
            path.unlink(missing_ok=True)
            shutil.move(away, path)
    read_all(name, "train", folder)
