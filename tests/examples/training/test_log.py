"""The log after a restart, and TensorBoard's file."""

import json
import struct

import pytest
from tensorboardX.proto import event_pb2

from examples.training.errors import StoppedError
from examples.training.log import Log, non_finite


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
    with Log(tmp_path) as log:
        write(log, 1)
        offset = log.offset()
        write(log, 2)
    with Log(tmp_path, step=1, offset=offset) as log:
        write(log, 2)
        write(log, 3)
        assert [line["step"] for line in log.lines()] == [1, 2, 3]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


def test_the_file_holds_no_times(tmp_path):
    with Log(tmp_path) as log:
        write(log, 1)
        assert log.lines() == [{"kind": "train", "step": 1, "epoch": 1, "loss": 0.1}]


def test_tensorboard_has_the_values_and_the_times_and_is_told_of_a_restart(tmp_path):
    with Log(tmp_path) as log:
        write(log, 7)
    _, start, event = events(tmp_path)
    assert start.session_log.status == start.session_log.START
    assert start.step == 1
    assert event.step == 7
    values = {value.tag: value.simple_value for value in event.summary.value}
    assert values == {"train/loss": pytest.approx(0.7), "train/speed": 3.0}


def test_a_file_shorter_than_its_checkpoint_says(tmp_path):
    with pytest.raises(StoppedError, match=r"metrics.jsonl is shorter than it was at step 5"):
        Log(tmp_path, step=5, offset=10)


def test_a_process_that_keeps_no_log_writes_nothing(tmp_path):
    with Log(tmp_path, writes=False) as log:
        write(log, 1)
        assert log.offset() == 0
        assert log.lines() == []
    assert list(tmp_path.iterdir()) == []


def test_the_first_number_that_is_not_finite_is_named():
    assert non_finite({"accuracy": 1.0, "loss": float("nan")}) == "loss is nan"
    assert non_finite({"accuracy": 1.0, "loss": 2.0}) is None
