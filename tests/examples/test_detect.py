"""The program that draws what a detector finds in a picture."""

import functools
import re
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from examples import detect
from examples.detection import picture, pretrained
from tests.examples.detection.nets import make_state


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a picture and the weights of a small Mask R-CNN for five classes."""
    folder = tmp_path_factory.mktemp("detect")
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    save_file(make_state("maskrcnn_r18"), folder / "net.safetensors")
    (folder / "names.txt").write_text("ant\nbee\ncow\ndog\n\nelk\n")
    (folder / "text.png").write_text("no picture")
    (folder / "two.txt").write_text("ant\nbee\n")
    (folder / "folder.png").mkdir()
    save_file({"fc.weight": np.ones((2, 2), np.float32)}, folder / "other.safetensors")
    return folder


def run(monkeypatch, folder, *arguments):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["detect", *arguments])
    detect.main()


def test_objects_are_printed_and_drawn(folder, monkeypatch, capsys):
    # The program enlarges pictures to 800 pixels, which takes long.
    monkeypatch.setattr(picture, "prepare", functools.partial(picture.prepare, shortest=64))
    monkeypatch.setattr(pretrained, "NAMES", ("resnet18",))
    run(
        monkeypatch,
        folder,
        *("noise.png", "--weights", "net.safetensors", "--class-names", "names.txt"),
        *("--score-threshold", "0.3", "--norm-epsilon", "1e-5"),
    )
    lines = capsys.readouterr().out.splitlines()
    found = re.fullmatch(r"(\d+) objects; picture: noise\.objects\.png", lines[-1])
    assert found
    assert int(found[1]) == len(lines) - 2 > 0
    for line in lines[1:-1]:
        match = re.fullmatch(
            r"(ant|bee|cow|dog|elk) (0\.\d+) at x (\d+) to (\d+), y (\d+) to (\d+)", line
        )
        assert match, line
        assert float(match[2]) > 0.3
        x1, x2, y1, y2 = map(int, match.groups()[2:])
        assert 0 <= x1 <= x2 <= 64
        assert 0 <= y1 <= y2 <= 48
    drawn = picture.read_picture(folder / "noise.objects.png")
    original = picture.read_picture(folder / "noise.png")
    assert drawn.shape == original.shape
    assert (drawn != original).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("none.png --weights net.safetensors", "none.png: no such file"),
        ("text.png --weights net.safetensors", "text.png: this is not a picture"),
        ("noise.png --weights none.safetensors", "none.safetensors: no such file"),
        ("noise.png --weights names.txt", "names.txt: expected a .safetensors or a .pth file"),
        (
            "noise.png --weights other.safetensors",
            "other.safetensors: these are not the weights of a Faster or Mask R-CNN",
        ),
        ("noise.png --weights net.safetensors --out noise.png", "is the picture itself"),
        ("noise.png --weights net.safetensors --out a/b.png", "there is no folder a"),
        ("noise.png --weights net.safetensors --out folder.png", "folder.png is a folder"),
        ("noise.png --weights net.safetensors --out b.gif", "must end in .png or .jpg"),
        ("noise.png --weights net.safetensors --score-threshold 2", "must be 0 to 1, not 2.0"),
        ("noise.png --weights net.safetensors --norm-epsilon -1", "--norm-epsilon must be"),
        (
            "noise.png --weights net.safetensors --class-names two.txt",
            "two.txt has 2 names, and the weights are for 5 classes",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(folder, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(pretrained, "NAMES", ("resnet18",))
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(SystemExit) as error:
        run(monkeypatch, folder, *arguments.split())
    text = str(error.value)
    assert text.startswith("stopped: ")
    assert message in text
    assert "\n" not in text
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_coco_names_belong_to_91_classes():
    names = detect.read_class_names(None, 91)
    assert (names[1], names[90], names[12]) == ("person", "toothbrush", "class 12")
    assert detect.read_class_names(None, 3) == {1: "class 1", 2: "class 2"}
