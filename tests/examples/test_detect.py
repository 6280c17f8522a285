"""The program that draws what a detector finds in a picture."""

import functools
import re
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from examples import detect, detection
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
    (folder / "bytes.txt").write_bytes(b"ant\nb\xff\n")
    state = make_state("maskrcnn_r18")
    (folder / "cut.safetensors").write_bytes((folder / "net.safetensors").read_bytes()[:-1])
    save_file(
        {**state, "roi_heads.keypoint_head.0.weight": np.ones((2, 2), np.float32)},
        folder / "more.safetensors",
    )
    save_file(
        {**state, "rpn.head.cls_logits.bias": np.full(3, np.nan, np.float32)},
        folder / "nan.safetensors",
    )
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
        (". --weights net.safetensors", ".: this is a folder"),
        ("text.png --weights net.safetensors", "text.png: this is not a picture"),
        ("noise.png --weights none.safetensors", "none.safetensors: no such file"),
        ("noise.png --weights names.txt", "names.txt: expected a .safetensors or a .pth file"),
        (
            "noise.png --weights other.safetensors",
            "other.safetensors: these are not the weights of a Faster or Mask R-CNN",
        ),
        ("noise.png --weights cut.safetensors", "cut.safetensors: the .safetensors file cannot"),
        ("noise.png --weights more.safetensors", "unexpected: roi_heads.keypoint_head.0.weight"),
        ("noise.png --weights nan.safetensors", "rpn.head.cls_logits.bias holds numbers that are"),
        ("noise.png --weights net.safetensors --out noise.png", "is the picture itself"),
        ("noise.png --weights net.safetensors --out a/b.png", "there is no folder a"),
        ("noise.png --weights net.safetensors --out folder.png", "folder.png is a folder"),
        ("noise.png --weights net.safetensors --out b.gif", "must end in .png or .jpg"),
        ("noise.png --weights net.safetensors --score-threshold 2", "must be 0 to 1, not 2.0"),
        ("noise.png --weights net.safetensors --norm-epsilon -1", "--norm-epsilon must be"),
        (
            "noise.png --weights net.safetensors --class-names two.txt",
            "two.txt has 2 names, and net.safetensors is for 5 classes",
        ),
        ("noise.png --weights net.safetensors --class-names no.txt", "no.txt: no such file"),
        ("noise.png --weights net.safetensors --class-names bytes.txt", "not text in UTF-8"),
    ],
)
def test_bad_input_is_refused_in_one_line(folder, monkeypatch, arguments, message):
    text = refuse(folder, monkeypatch, *arguments.split())
    assert message in text


def refuse(folder, monkeypatch, *arguments):
    """Returns the only line of a run that ends before anything is compiled or written."""
    monkeypatch.setattr(pretrained, "NAMES", ("resnet18",))
    monkeypatch.setattr("examples.detection.detect", None)
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(SystemExit) as error:
        run(monkeypatch, folder, *arguments)
    text = str(error.value)
    assert text.startswith("stopped: ")
    assert "\n" not in text
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    return text


def test_a_folder_in_which_no_file_can_be_written_is_refused_at_once(folder, monkeypatch):
    def refuse_files(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(detect.tempfile, "TemporaryFile", refuse_files)
    text = refuse(folder, monkeypatch, "noise.png", "--weights", "net.safetensors")
    assert "noise.objects.png: no file can be written in that folder: Permission denied" in text


def test_weights_that_give_no_finite_scores_are_refused(folder, monkeypatch):
    monkeypatch.setattr(pretrained, "NAMES", ("resnet18",))
    places = jnp.zeros((1, 3))
    nothing = detection.Detections(
        jnp.zeros((1, 3, 4)), jnp.full((1, 3), jnp.nan), places.astype(int), places.astype(bool)
    )
    monkeypatch.setattr("examples.detection.detect", lambda *_: nothing)
    with pytest.raises(SystemExit, match=r"net\.safetensors: .* not finite .* --norm-epsilon 1e-5"):
        run(monkeypatch, folder, "noise.png", "--weights", "net.safetensors", "--out", "n.png")
    assert not (folder / "n.png").exists()


def test_names_are_those_of_coco_for_91_classes_and_else_numbers():
    names = detect.choose_names(91)
    assert (names[0], names[89], names[11]) == ("person", "toothbrush", "class 12")
    assert detect.choose_names(3) == ["class 1", "class 2"]


@pytest.mark.parametrize(
    "content", [b"ant\nbee", b"\xef\xbb\xbfant\r\n\r\n bee \r\n", b"ant\rbee\r"]
)
def test_names_are_read_from_files_of_any_system(content, tmp_path):
    (tmp_path / "names.txt").write_bytes(content)
    assert detect.read_names(tmp_path / "names.txt") == ["ant", "bee"]
