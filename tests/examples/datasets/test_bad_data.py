"""Impossible data of any format is refused when it is read."""

import gzip
import os
import resource
import signal
import struct

import numpy as np
import pytest
from PIL import Image

from examples import datasets
from examples.datasets import files, matlab, small, transforms
from examples.datasets.files import ImageFiles, check_names, decode, read_pairs, whole_numbers
from examples.datasets.types import Arrays, DatasetError
from examples.training.errors import SettingError


def load(monkeypatch, labels, names=("a", "b")):
    """Loads a data set whose reader returns these labels and class names."""
    source = Arrays(np.zeros((len(labels), 2, 2, 1), np.uint8), np.asarray(labels))
    reader = (lambda split, folder: (source, names), (len(labels), 1, len(names)))
    monkeypatch.setitem(datasets._SETS, "digits", reader)
    return datasets.load("digits", "train")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2], "expected class numbers from 0 to 1, counted from 0, found 2 .*number 2"),
        ([0, -1], "found -1 for the image number 1"),
        ([0.0, 1.5], "expected a whole number as the label of each of 2 images, found float64"),
        ([True, False], "found bool"),
    ],
)
def test_a_label_that_is_not_a_class_is_named(monkeypatch, labels, message):
    with pytest.raises(DatasetError, match=message):
        load(monkeypatch, labels)


def test_classes_need_names_that_differ(monkeypatch):
    with pytest.raises(DatasetError, match="expected different class names, found twice: a"):
        load(monkeypatch, [0, 1], names=("a", "a"))
    with pytest.raises(DatasetError, match="expected the names of its classes, found none"):
        load(monkeypatch, [0], names=())


def test_labels_of_every_integer_type_become_int32(monkeypatch):
    assert load(monkeypatch, np.array([0, 1], np.uint8)).source.labels.dtype == np.int32


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/a.jpg", "a/../../b.jpg", "", "a\0.jpg"])
def test_a_list_cannot_name_files_outside_of_the_data_folder(tmp_path, name):
    with pytest.raises(DatasetError, match=r"images\.txt, entry 2: expected a path inside"):
        check_names(tmp_path / "images.txt", ["good.jpg", name])


def test_an_image_that_is_listed_twice_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"entry 3: .*'a\.jpg', which is entry 1 too"):
        check_names(tmp_path / "images.txt", ["a.jpg", "b.jpg", "a.jpg"])


@pytest.mark.parametrize("number", [1.9, "1.5", "x", None, float("nan")])
def test_a_class_that_is_not_a_whole_number_is_named(tmp_path, number):
    with pytest.raises(DatasetError, match=r"list\.mat, entry 2: expected the whole number"):
        whole_numbers(tmp_path / "list.mat", [1, number])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a 1\nb\n", "line 2: expected pairs, found 'b'"),
        (b"a 1\na 2\n", "line 2: expected each name once, found 'a' again"),
        ("a ä\n".encode("utf-16"), "expected pairs, but reading it failed: 'utf-8' codec"),
    ],
)
def test_a_broken_list_names_the_line_and_not_the_whole_file(tmp_path, text, message):
    path = tmp_path / "list.txt"
    path.write_bytes(text)
    with pytest.raises(DatasetError, match=message) as error:
        read_pairs(path, "pairs")
    assert len(str(error.value)) < 300 + len(str(path))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_images_of_more_than_8_bits_are_refused_by_their_mode(tmp_path, dtype):
    path = tmp_path / ("a.png" if dtype == np.uint16 else "a.tiff")
    values = np.linspace(0, 65535, 64).reshape(8, 8)
    Image.fromarray(values.astype(dtype)).save(path)
    with pytest.raises(DatasetError, match=r"a\.(png|tiff): the image has the mode (I|F).*8 bits"):
        decode(str(path))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_images_of_8_bits_are_read_as_rgb(tmp_path, mode):
    Image.new("RGB", (5, 4), (200, 200, 200)).convert(mode).save(tmp_path / "a.png")
    image = decode(str(tmp_path / "a.png"))
    assert (image.shape, image.dtype) == ((4, 5, 3), np.uint8)


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    Image.new("1", (9000, 9000)).save(tmp_path / "a.png")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DatasetError, match=r"a\.png: the image has 9000 x 9000 pixels, which is"):
        decode(str(tmp_path / "a.png"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_pipe_in_place_of_an_image_is_refused_before_it_is_opened(tmp_path, monkeypatch):
    def wait_for_a_writer(*args, **kwargs):
        pytest.fail("the pipe was opened")

    os.mkfifo(tmp_path / "a.jpg")
    monkeypatch.setattr(files, "open", wait_for_a_writer, raising=False)
    monkeypatch.setattr(Image, "open", wait_for_a_writer)
    with pytest.raises(
        DatasetError, match=r"a\.jpg: expected an image, found something that is not"
    ):
        files.check_images(tmp_path, ["a.jpg"])


def test_an_image_that_is_only_a_banner_is_refused(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    images = ImageFiles(str(tmp_path), ["a.png"], np.zeros(1, np.int32), cut_bottom=20)
    with pytest.raises(DatasetError, match=r"a\.png: the image has 20 rows, and the last 20"):
        images[0]


def test_a_small_file_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path):
    path = tmp_path / "train.gz"
    header = struct.pack(">4I", 0x0803, 10, 28, 28)
    path.write_bytes(gzip.compress(header + bytes(50_000_000), 1))
    with pytest.raises(DatasetError, match="promises 7840 bytes, and more than 7840 follow"):
        small.read_idx(path, 3)
    path.write_bytes(gzip.compress(struct.pack(">4I", 0x0803, 2**31, 28, 28)))
    with pytest.raises(DatasetError, match="its header promises 1683627180032 bytes"):
        small.read_idx(path, 3)


def test_an_image_that_is_too_long_for_its_width_is_refused_before_it_is_enlarged(tmp_path):
    Image.new("RGB", (10000, 11)).save(tmp_path / "a.png")
    images = ImageFiles(str(tmp_path), ["a.png"], np.zeros(1, np.int32), cut_bottom=10)
    with pytest.raises(
        DatasetError, match=r"a\.png: an image of 1 x 10000 pixels is more than 100 times as long"
    ):
        images[0]


def test_squares_that_do_not_divide_the_image_name_the_flag():
    with pytest.raises(SettingError, match=r"--pool 3: it must divide .* 8 x 8"):
        transforms.mean_pool(np.zeros((8, 8, 1), np.uint8), None, factor=3)


def test_a_matlab_file_that_makes_the_reader_crash_is_one_error(tmp_path, monkeypatch):
    """SciPy's reader runs in its own process, which here ends as after a segmentation fault."""
    (tmp_path / "a.mat").write_bytes(b"")
    monkeypatch.setattr(matlab, "_read", crash)
    with pytest.raises(DatasetError, match=r"a\.mat: expected a list, .* made the reader crash"):
        matlab.read_mat(tmp_path / "a.mat", "x", "a list")


def crash(path, variable, sender):
    os.kill(os.getpid(), signal.SIGSEGV)
