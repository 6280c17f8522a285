"""Each format is read as its authors write it, and damaged files are refused."""

import gzip
import pickle
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from examples import datasets
from tests.examples.datasets import builders
from tests.examples.datasets.builders import WNIDS, grey


def greys(dataset) -> list[int]:
    """Returns the numbers of a data set's images, which are found by their only colour."""
    numbers = []
    for i in range(len(dataset)):
        image = dataset.source[i]["image"]
        assert image.dtype == np.uint8
        assert np.ptp(image) <= 2  # JPEG's rounding
        numbers.append(round((image.mean() - grey(0)) / (grey(1) - grey(0))))
    return numbers


def labels(dataset) -> list[int]:
    seen = [dataset.source[i]["label"] for i in range(len(dataset))]
    assert seen == list(dataset.source.labels)
    assert dataset.source.labels.dtype == np.int32
    return seen


@pytest.mark.parametrize("dump", [builders.python2_pickle, pickle.dumps])
@pytest.mark.parametrize("nested", [True, False])
def test_cifar100_is_read(tmp_path, monkeypatch, dump, nested):
    builders.published(monkeypatch, "cifar100", 12, 6, 3)
    folder = builders.cifar100(tmp_path, dump)
    for split, size in {"train": 12, "test": 6}.items():
        data = datasets.load("cifar100", split, tmp_path if nested else folder)
        assert labels(data) == [k % 3 for k in range(size)]
        assert data.class_names == ("apple", "bear", "cloud")
        assert data.image_shape == (32, 32, 3)
        image = data.source[5]["image"]
        assert image[3, 7, 2] == 5 + 2 + 3 + 2 * 7
        assert image.shape == data.image_shape


@pytest.mark.parametrize("end", ["", ".gz"])
def test_fashion_mnist_is_read(tmp_path, monkeypatch, end):
    builders.published(monkeypatch, "fashion_mnist", 20, 10, 10)
    builders.fashion_mnist(tmp_path, end)
    data = datasets.load("fashion_mnist", "train", tmp_path)
    assert labels(data) == [k % 10 for k in range(20)]
    assert data.class_names[9] == "ankle boot"
    np.testing.assert_array_equal(data.source[13]["image"], np.full((28, 28, 1), 13))
    assert len(datasets.load("fashion_mnist", "test", str(tmp_path))) == 10


@pytest.mark.parametrize("flat", [True, False])
def test_imagenet_is_read(tmp_path, monkeypatch, flat):
    builders.published(monkeypatch, "imagenet", 12, 6, 3)
    builders.imagenet(tmp_path, flat)
    train = datasets.load("imagenet", "train", tmp_path)
    assert train.class_names == WNIDS
    assert train.image_shape is None
    assert labels(train) == [0] * 4 + [1] * 4 + [2] * 4
    assert greys(train) == list(range(12))
    test = datasets.load("imagenet", "test", tmp_path)
    assert test.class_names == WNIDS
    assert labels(test) == ([2, 0, 1, 2, 0, 1] if flat else [0, 0, 1, 1, 2, 2])
    assert greys(test) == list(range(6))


def test_mini_imagenet_in_folders_is_read(tmp_path, monkeypatch):
    builders.published(monkeypatch, "mini_imagenet", 15, 3, 3)
    for split, per_class in {"train": 5, "test": 1}.items():
        builders.class_folders(tmp_path / "miniimagenet" / split, per_class, (84, 84))
    train = datasets.load("mini_imagenet", "train", tmp_path)
    assert labels(train) == [0] * 5 + [1] * 5 + [2] * 5
    assert train.source[0]["image"].shape == (84, 84, 3)
    assert labels(datasets.load("mini_imagenet", "test", tmp_path)) == [0, 1, 2]


def test_mini_imagenet_of_ravi_and_larochelle_is_read(tmp_path, monkeypatch):
    builders.published(monkeypatch, "mini_imagenet", 15, 3, 3)
    builders.mini_imagenet_csv(tmp_path)
    train = datasets.load("mini_imagenet", "train", tmp_path)
    test = datasets.load("mini_imagenet", "test", tmp_path)
    assert greys(train) == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16]
    assert labels(train) == [0] * 5 + [1] * 5 + [2] * 5
    assert (greys(test), labels(test)) == ([5, 11, 17], [0, 1, 2])
    assert test.class_names == WNIDS


def test_aircraft_is_read_without_its_banner(tmp_path, monkeypatch):
    builders.published(monkeypatch, "aircraft", 4, 1, 3)
    builders.aircraft(tmp_path)
    train = datasets.load("aircraft", "train", tmp_path)
    assert train.class_names == ("707-320", "BAE 146-200", "DHC-8-100")
    assert labels(train) == [0, 1, 0, 2]
    assert train.source[0]["image"].shape == (40, 40, 3)
    assert greys(train) == [0, 1, 2, 3]  # no white row is left
    assert labels(datasets.load("aircraft", "test", tmp_path)) == [2]


@pytest.mark.parametrize("in_kit", [True, False])
def test_cars_are_read(tmp_path, monkeypatch, in_kit):
    builders.published(monkeypatch, "cars", 4, 2, 3)
    folder = builders.cars(tmp_path)
    if in_kit:
        shutil.move(folder / "cars_test_annos_withlabels.mat", folder / "devkit")
    train, test = (datasets.load("cars", split, tmp_path) for split in ("train", "test"))
    assert train.class_names == ("AM General Hummer", "Acura RL", "Acura TL")
    assert (greys(train), labels(train)) == ([0, 1, 2, 3], [2, 0, 1, 0])
    assert (greys(test), labels(test)) == ([4, 5], [1, 2])


def test_dogs_are_read(tmp_path, monkeypatch):
    builders.published(monkeypatch, "dogs", 3, 2, 2)
    builders.dogs(tmp_path)
    train, test = (datasets.load("dogs", split, tmp_path) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("Chihuahua", "Japanese_spaniel")
    assert (greys(train), labels(train)) == ([0, 1, 2], [0, 0, 1])
    assert (greys(test), labels(test)) == ([3, 4], [0, 1])


def test_cub_is_read(tmp_path, monkeypatch):
    builders.published(monkeypatch, "cub", 3, 2, 2)
    builders.cub(tmp_path)
    train, test = (datasets.load("cub", split, tmp_path) for split in ("train", "test"))
    assert train.class_names == ("Black_footed_Albatross", "Laysan_Albatross")
    assert (greys(train), labels(train)) == ([1, 2, 4], [0, 1, 1])
    assert (greys(test), labels(test)) == ([0, 3], [0, 1])


@pytest.mark.parametrize("kind", ["PNG", "CMYK", "grey", "bytes after the end"])
def test_images_that_are_not_what_their_name_says_are_read(tmp_path, monkeypatch, kind):
    """ImageNet has PNG and CMYK files, Caltech has grey ones, and some JPEG files have extra bytes."""
    builders.published(monkeypatch, "cub", 3, 2, 2)
    path = next((builders.cub(tmp_path) / "images").rglob("*_1.jpg"))
    if kind == "PNG":
        builders.write_image(path, 1, format="PNG")
    elif kind == "CMYK":
        Image.new("CMYK", (40, 30), (255 - grey(1),) * 3 + (0,)).save(path, quality=100)
    elif kind == "grey":
        Image.new("L", (40, 30), grey(1)).save(path)
    else:
        path.write_bytes(path.read_bytes() + b"made with a camera")
    assert greys(datasets.load("cub", "train", tmp_path)) == [1, 2, 4]


# Every file that a reader needs, and the folder that the reader is given.
NEEDED = {
    "cifar100": (builders.cifar100, ["cifar-100-python/train", "cifar-100-python/meta"]),
    "fashion_mnist": (
        builders.fashion_mnist,
        ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"],
    ),
    "aircraft": (
        builders.aircraft,
        [
            f"fgvc-aircraft-2013b/data/{name}"
            for name in ("variants.txt", "images_variant_trainval.txt", "images/0001001.jpg")
        ],
    ),
    "cars": (
        builders.cars,
        [
            f"stanford_cars/{name}"
            for name in (
                "devkit/cars_meta.mat",
                "devkit/cars_train_annos.mat",
                "cars_train/00002.jpg",
            )
        ],
    ),
    "dogs": (
        builders.dogs,
        [
            f"stanford_dogs/{name}"
            for name in ("train_list.mat", "Images/n02085620-Chihuahua/n02085620_1.jpg")
        ],
    ),
    "cub": (
        builders.cub,
        [
            f"CUB_200_2011/{name}"
            for name in (
                "images.txt",
                "classes.txt",
                "image_class_labels.txt",
                "train_test_split.txt",
                "images/001.Black_footed_Albatross/Black_footed_Albatross_1.jpg",
            )
        ],
    ),
    "mini_imagenet": (
        builders.mini_imagenet_csv,
        ["train.csv", "val.csv", "test.csv", f"images/{WNIDS[0]}00000001.jpg"],
    ),
    "imagenet": (
        lambda folder: builders.imagenet(folder, flat=True),
        [
            "val/ILSVRC2012_val_00000001.JPEG",
            "ILSVRC2012_devkit_t12/data/meta.mat",
            "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
        ],
    ),
}
SIZES = {
    "cifar100": (12, 6, 3),
    "fashion_mnist": (20, 10, 10),
    "aircraft": (4, 1, 3),
    "cars": (4, 2, 3),
    "dogs": (3, 2, 2),
    "cub": (3, 2, 2),
    "mini_imagenet": (15, 3, 3),
    "imagenet": (12, 6, 3),
}
CASES = [(name, path) for name, (_, paths) in NEEDED.items() for path in paths]


@pytest.mark.parametrize("harm", ["missing", "truncated", "empty", "foreign"])
@pytest.mark.parametrize(("name", "path"), CASES)
def test_a_missing_truncated_or_foreign_file_is_named(tmp_path, monkeypatch, name, path, harm):
    builders.published(monkeypatch, name, *SIZES[name])
    NEEDED[name][0](tmp_path)
    split = "test" if name == "imagenet" else "train"
    datasets.load(name, split, tmp_path)  # whole, it is read
    file = tmp_path / path
    content = file.read_bytes()
    if harm == "missing":
        file.unlink()
    else:
        harmed = {
            "truncated": content[: len(content) * 2 // 3],
            "empty": b"",
            "foreign": b"<html><body>404 Not Found</body></html>\n" * 40,
        }
        file.write_bytes(harmed[harm])
    with pytest.raises(datasets.DatasetError, match="expected") as error:
        datasets.load(name, split, tmp_path)
    assert str(tmp_path) in str(error.value)
    # If a list is cut at the end of a line, only its consequences may show it.
    if not path.endswith((".txt", ".csv")):
        assert file.name.removesuffix(".gz") in str(error.value) or harm == "missing"


@pytest.mark.parametrize("name", SIZES)
def test_a_folder_that_does_not_exist_is_named_and_so_is_the_source(tmp_path, name):
    with pytest.raises(datasets.DatasetError, match=r"nowhere.*(\.org|\.edu|\.ac\.uk|\.com)"):
        datasets.load(name, "train", tmp_path / "nowhere")


@pytest.mark.parametrize("name", [name for name in SIZES if name != "fashion_mnist"])
def test_a_missing_data_dir_is_an_error_that_names_the_archives(name):
    with pytest.raises(datasets.DatasetError, match="pass --data-dir") as error:
        datasets.load(name, "train")
    # Mini-ImageNet is made of files of ImageNet, and has no archive of its own.
    archive = r"\w\.(tar|tgz|tar\.gz) \(MD5 [0-9a-f]{32}\)"
    assert name == "mini_imagenet" or re.search(archive, str(error.value))


@pytest.mark.parametrize("name", SIZES)
def test_a_part_of_a_data_set_is_refused(tmp_path, name):
    NEEDED[name][0](tmp_path)  # far smaller than what was published
    with pytest.raises(datasets.DatasetError, match=rf"expected all of {name}, .*; found"):
        datasets.load(name, "train", tmp_path)


@pytest.mark.parametrize("name", SIZES)
def test_a_part_of_a_data_set_is_accepted_on_request(tmp_path, name):
    NEEDED[name][0](tmp_path)
    part = datasets.load(name, "train", tmp_path, partial=True)
    assert len(part) == SIZES[name][0]
    assert part.source[len(part) - 1]["image"].dtype == np.uint8


def test_an_image_cut_short_after_loading_is_named_when_it_is_read(tmp_path, monkeypatch):
    builders.published(monkeypatch, "imagenet", 12, 6, 3)
    builders.imagenet(tmp_path, flat=False)
    path = tmp_path / "train" / WNIDS[1] / f"{WNIDS[1]}_2.JPEG"
    path.write_bytes(path.read_bytes()[:-100])
    source = datasets.load("imagenet", "train", tmp_path).source
    assert source[5]["label"] == 1
    with pytest.raises(datasets.DatasetError, match=rf"{path.name}: expected an image"):
        source[6]


def test_a_class_that_only_one_side_has_is_named(tmp_path, monkeypatch):
    builders.published(monkeypatch, "imagenet", 12, 4, 2)
    builders.imagenet(tmp_path, flat=False)
    shutil.rmtree(tmp_path / "val" / WNIDS[1])
    with pytest.raises(datasets.DatasetError, match=rf"{tmp_path / 'val'}.*differ in .*{WNIDS[1]}"):
        datasets.load("imagenet", "test", tmp_path)


def test_an_idx_file_with_more_bytes_than_its_header_states_is_refused(tmp_path, monkeypatch):
    builders.published(monkeypatch, "fashion_mnist", 20, 10, 10)
    path = builders.fashion_mnist(tmp_path) / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"1"))
    with pytest.raises(datasets.DatasetError, match=rf"{path.name}: expected an IDX file"):
        datasets.load("fashion_mnist", "train", tmp_path)


def test_different_numbers_of_images_and_labels_are_refused(tmp_path, monkeypatch):
    builders.published(monkeypatch, "fashion_mnist", 20, 10, 10)
    path = builders.fashion_mnist(tmp_path) / "train-labels-idx1-ubyte.gz"
    builders.write_idx(path, np.zeros(19, np.uint8))
    with pytest.raises(
        datasets.DatasetError, match=r"expected 20 labels, one for each image, found 19"
    ):
        datasets.load("fashion_mnist", "train", tmp_path)


@pytest.mark.parametrize("labels", [[0] * 11, [0] * 11 + [3], [-1] + [0] * 11])
def test_impossible_cifar_labels_are_refused(tmp_path, monkeypatch, labels):
    builders.published(monkeypatch, "cifar100", 12, 6, 3)
    path = builders.cifar100(tmp_path) / "train"
    batch = {"data": np.zeros((12, 3072), np.uint8), "fine_labels": labels}
    path.write_bytes(builders.python2_pickle(batch))
    with pytest.raises(datasets.DatasetError, match=r"cifar.*: .*expected"):
        datasets.load("cifar100", "train", tmp_path)
