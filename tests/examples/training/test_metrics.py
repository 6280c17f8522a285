"""The log after a restart, TensorBoard's file, means and the picture."""

import json
import struct

import pytest
from tensorboardX.proto import event_pb2

from examples.training import metrics


def write(log, step):
    log.write({"kind": "train", "step": step, "epoch": 1, "loss": 0.1 * step}, {"speed": 3.0})


def events(folder):
    """Reads TFRecords: length, checksum, bytes, checksum."""
    seen = []
    for file in sorted((folder / "tensorboard").iterdir()):
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            # pyright does not see classes that are made on import.
            seen.append(event_pb2.Event.FromString(content[12 : 12 + length]))  # pyright: ignore[reportAttributeAccessIssue]
            content = content[16 + length :]
    return seen


def test_lines_after_the_checkpoint_are_dropped(tmp_path):
    with metrics.Log(tmp_path) as log:
        write(log, 1)
        offset = log.offset()
        write(log, 2)
    with metrics.Log(tmp_path, step=1, offset=offset) as log:
        write(log, 2)
        write(log, 3)
        assert [line["step"] for line in log.lines()] == [1, 2, 3]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


def test_the_file_holds_no_times(tmp_path):
    with metrics.Log(tmp_path) as log:
        write(log, 1)
        assert log.lines() == [{"kind": "train", "step": 1, "epoch": 1, "loss": 0.1}]


def test_tensorboard_has_the_values_and_the_times_and_is_told_of_a_restart(tmp_path):
    with metrics.Log(tmp_path) as log:
        write(log, 7)
    _, start, event = events(tmp_path)
    assert start.session_log.status == start.session_log.START
    assert start.step == 1
    assert event.step == 7
    values = {value.tag: value.simple_value for value in event.summary.value}
    assert values == {"train/loss": pytest.approx(0.7), "train/speed": 3.0}


def test_a_file_shorter_than_its_checkpoint_says(tmp_path):
    with pytest.raises(ValueError, match=r"metrics.jsonl is shorter than it was at step 5"):
        metrics.Log(tmp_path, step=5, offset=10)


def test_a_process_that_keeps_no_log_writes_nothing(tmp_path):
    with metrics.Log(tmp_path, writes=False) as log:
        write(log, 1)
        assert log.offset() == 0
        assert log.lines() == []
    assert list(tmp_path.iterdir()) == []


def test_means_go_on_from_a_record():
    whole, first = metrics.Means(), metrics.Means()
    values = [0.1, 0.7, 1 / 3, 1e-9]
    for value in values:
        whole.add({"loss": value})
    for value in values[:2]:
        first.add({"loss": value})
    second = metrics.Means(**json.loads(json.dumps(vars(first))))
    for value in values[2:]:
        second.add({"loss": value})
    assert second.means() == whole.means()
    assert whole.means()["loss"] == pytest.approx(sum(values) / 4)


def test_the_clock_gives_rates():
    clock = metrics.Clock()
    assert clock.rates() == {}
    clock.add(2.0, 0.5, 100)
    clock.add(2.0, 0.3, 100)
    expected = {"images_per_second": 50.0, "waiting_for_data": pytest.approx(0.2)}
    assert metrics.Clock(**vars(clock)).rates() == expected


def test_the_first_number_that_is_not_finite_is_named():
    assert metrics.non_finite({"accuracy": 1.0, "loss": float("nan")}) == "loss is nan"
    assert metrics.non_finite({"accuracy": 1.0, "loss": 2.0}) is None


def test_the_picture(tmp_path):
    lines = [
        {"kind": kind, "epoch": epoch, "loss": 1.0 / epoch, "accuracy": 50.0}
        for kind in ("train", "test")
        for epoch in (1, 2)
    ]
    metrics.draw_curves(lines, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
