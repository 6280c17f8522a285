"""Pictures are read, resized and drawn correctly."""

import numpy as np
import pytest
from PIL import Image

from examples.detection.drawing import draw_objects
from examples.detection.picture import (
    PictureError,
    prepare,
    read_picture,
    restore_boxes,
    save_picture,
)


def test_resizing_equals_torchvisions():
    # torchvision's GeneralizedRCNNTransform(20, 24, mean, std) made these numbers.
    picture = (np.arange(5 * 7 * 3).reshape(5, 7, 3) * 2).astype(np.uint8)
    images, sizes = prepare(picture, shortest=20, longest=24)
    assert sizes.tolist() == [[17, 24]]
    assert images.shape == (1, 32, 32, 3)
    np.testing.assert_allclose(images[0, 3, 5], [-1.6237, -1.4954, -1.2317], atol=1e-4)
    np.testing.assert_allclose(images[0, 0, :4, 0], [-2.1179, -2.1179, -2.0944, -2.0644], atol=1e-4)
    assert not images[0, 17:].any()
    assert not images[0, :, 24:].any()


@pytest.mark.parametrize(
    ("size", "resized", "padded"),
    [
        ((480, 640), (800, 1066), (800, 1088)),
        ((427, 640), (800, 1199), (800, 1216)),
        ((500, 375), (1066, 800), (1088, 800)),
        ((1, 1), (800, 800), (800, 800)),
        ((3000, 200), (1333, 88), (1344, 96)),
        ((1, 5000), (1, 1333), (32, 1344)),
    ],
)
def test_sizes_equal_torchvisions(size, resized, padded):
    images, sizes = prepare(np.zeros((*size, 3), np.uint8))
    assert tuple(sizes[0].tolist()) == resized
    assert images.shape == (1, *padded, 3)


def test_boxes_return_to_the_picture():
    picture = np.zeros((50, 200, 3), np.uint8)
    boxes = restore_boxes(np.array([[0.0, 0.0, 400.0, 150.0]]), np.array([150, 400]), picture)
    np.testing.assert_allclose(boxes, [[0, 0, 200, 50]])


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "P", "CMYK", "1"])
def test_pictures_of_any_mode_are_read(mode, tmp_path):
    path = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    Image.new(mode, (5, 3)).save(path)
    assert read_picture(path).shape == (3, 5, 3)


def test_of_an_animated_picture_the_first_frame_is_read(tmp_path):
    frames = [Image.new("RGB", (5, 3), colour) for colour in ("white", "black")]
    for name in ("moving.gif", "moving.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert (read_picture(tmp_path / name) == 255).all()


def test_turned_pictures_are_read_as_they_are_seen(tmp_path):
    image = Image.new("RGB", (5, 3))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_picture(tmp_path / "turned.jpg").shape == (5, 3, 3)


def test_what_is_not_a_picture_is_refused_by_name(tmp_path):
    with pytest.raises(PictureError, match=r"none\.png: no such file; name one picture"):
        read_picture(tmp_path / "none.png")
    with pytest.raises(PictureError, match="this is a folder; name one picture"):
        read_picture(tmp_path)
    path = tmp_path / "bad.png"
    path.write_text("no picture")
    with pytest.raises(PictureError, match=r"bad\.png: this is not a picture"):
        read_picture(path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "tiff", "webp", "tga", "ico", "dds"])
def test_a_damaged_picture_is_read_or_refused_by_name(kind, tmp_path):
    """Pillow raises many kinds of errors for damaged files, and a warning for some."""
    path, rng = tmp_path / "picture", np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(path, kind)
    content = path.read_bytes()
    refused = []
    for start in range(0, len(content), max(1, len(content) // 60)):
        changed = bytearray(content)
        changed[start] ^= 255
        for damaged in (content[:start], bytes(changed)):
            path.write_bytes(damaged)
            try:
                assert read_picture(path).ndim == 3
            except PictureError as error:
                refused.append(str(error))
    assert len(refused) > 5
    assert all(message.startswith(f"{path}: ") for message in refused)
    assert not any("\n" in message for message in refused)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_pictures_of_more_than_eight_bits_are_refused(mode, tmp_path):
    Image.new(mode, (5, 3)).save(tmp_path / "deep.tif")
    with pytest.raises(PictureError, match=r"deep\.tif: the picture has more than 8 bits"):
        read_picture(tmp_path / "deep.tif")


@pytest.mark.parametrize("side", [11, 15])
def test_pictures_that_are_too_large_are_refused_before_they_are_read(side, tmp_path, monkeypatch):
    # Pillow warns of the first, and refuses the second itself.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("RGB", (side, side)).save(tmp_path / "large.png")
    with pytest.raises(PictureError, match=r"large\.png: .* more than 100 pixels: make it smaller"):
        read_picture(tmp_path / "large.png")


def test_objects_are_drawn_where_they_are():
    picture = np.full((60, 80, 3), 100, np.uint8)
    masks = np.zeros((1, 60, 80), bool)
    masks[0, 40:50, 20:30] = True
    boxes = np.array([[10.0, 30.0, 40.0, 55.0]])
    drawn = np.asarray(draw_objects(picture, boxes, ["cat"], np.array([0.9]), masks))
    changed = (drawn != picture).any(-1)
    assert changed[30, 10:41].all()
    assert changed[30:56, 40].all()
    assert changed[40:50, 20:30].all()
    assert not changed[31:39, 20:30].any()
    assert not changed[56:].any()
    # There are pictures without objects, and boxes that are thinner than a pixel.
    assert draw_objects(picture, np.zeros((0, 4)), [], np.zeros(0)).size == (80, 60)
    draw_objects(picture, np.array([[5.0, 5.0, 5.0, 4.9]]), ["dog"], np.array([0.5]))


def test_picture_is_saved_whole_or_not_at_all(tmp_path):
    path = tmp_path / "out.png"
    path.write_text("old")
    save_picture(Image.new("RGB", (5, 3)), path)
    assert read_picture(path).shape == (3, 5, 3)
    with pytest.raises(ValueError, match="unknown file extension"):
        save_picture(Image.new("RGB", (5, 3)), tmp_path / "out.unknown")
    assert [x.name for x in tmp_path.iterdir()] == ["out.png"]
