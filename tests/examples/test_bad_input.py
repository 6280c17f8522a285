"""An error in flags, files or data is reported in one line before any work begins."""

import signal

import pytest

from examples.classification.presets import PRESETS
from tests.examples.trainer_program import SMALL, main


def test_a_bug_in_a_net_keeps_its_traceback(monkeypatch, tmp_path):
    """Only errors that a user can cause are one line."""

    def broken(*args, **kwargs):
        raise ValueError("shapes do not fit")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("examples.models.create", broken)
    with pytest.raises(ValueError, match="shapes do not fit"):
        main(monkeypatch, *SMALL)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("table1-vgg11",), "cannot start: .*cifar-100-python"),
        ((*SMALL, "--batch-size", 2000), "--batch-size 2000: there are only 1297 training images"),
        (
            (*SMALL[:-2], "--batch-size", 50),
            "--batch-size 50: it must be a multiple of the 8 devices",
        ),
        ((*SMALL, "--fsdp", 16), "a mesh of 1 x 16 devices: there are 8"),
        ((*SMALL, "--head-learning-rate", 0.1), "for fine-tuning: pass --pretrained FILE"),
        ((*SMALL, "--pretrained", "gone.safetensors"), "cannot start: .*gone.safetensors"),
        ((*SMALL, "--pretrained", "."), "there is no checkpoint of a run here"),
        ((*SMALL, "--validation", 5000), "--validation 5000: there are 1297 training images"),
        ((*SMALL, "--pool", 3), "--pool 3: it must divide the image's sides, which are 8 x 8"),
        ((*SMALL, "--pad", 10**5), "--pad 100000: an image of 8 x 8 would get more than"),
        ((*SMALL, "--pad", 4000), "the images need .* GiB of memory"),
        ((*SMALL, "--width", 10**9), "--width 1000000000: the weights .* GiB of memory"),
        ((*SMALL, "--model", "vgg11", "--pool", 2), "too small for this net"),
        ((*SMALL, "--stem", "imagenet"), "--stem imagenet: resnet8 has only the form cifar"),
        ((*SMALL, "--epochs", 10**9), "--epochs 1000000000: .* fewer than 2"),
    ],
)
def test_bad_input_is_one_error_before_any_work(flags, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        main(monkeypatch, *flags)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_data_are_read_is_one_line(monkeypatch, tmp_path):
    def load(*args, **kwargs):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("examples.datasets.load", load)
    with pytest.raises(SystemExit, match=r"^stopped by Ctrl-C\. The same command"):
        main(monkeypatch, *SMALL)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_pressed_twice_is_one_line(monkeypatch, tmp_path):
    def twice(*args):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("examples.training.loop.put_batch", twice)
    with pytest.raises(SystemExit, match=r"^stopped by Ctrl-C"):
        main(monkeypatch, *SMALL)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("digits", "--learning-rate", -1), r"^cannot start: --learning-rate -1.0: it must be a"),
        (("digits", "--checkpoint-every", 0), r"^cannot start: --checkpoint-every 0: it must be"),
        (("digit",), "^cannot start: no run is called 'digit'; there are .*digits"),
        ((), "^cannot start: name a run; there are .*digits"),
    ],
)
def test_a_wrong_value_or_run_is_one_line(flags, message, monkeypatch):
    with pytest.raises(SystemExit, match=message) as stopped:
        main(monkeypatch, *flags)
    assert "\n" not in str(stopped.value)


def test_a_wrong_flag_is_answered_for_its_run(monkeypatch, capsys):
    for flags, known in ((("--lerning-rate", 1), "--learning-rate"), (("--seed", "x"), "--seed")):
        with pytest.raises(SystemExit):
            main(monkeypatch, "digits", *flags)
        seen = capsys.readouterr().err
        assert known in seen
        assert "train_classifier digits --help" in seen
        assert "tyro" not in seen
        assert "figure5" not in seen


def test_the_help_lists_all_runs(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        main(monkeypatch, "--help")
    shown = capsys.readouterr().out
    assert all(name in shown for name in PRESETS)
