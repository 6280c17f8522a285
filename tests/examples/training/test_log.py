"""The log continues after a restart, and so does TensorBoard's file."""

import json
import struct

import pytest
from tensorboardX.proto import event_pb2

from examples.training.errors import StoppedError
from examples.training.log import Log, non_finite


def write(log, step):
    log.write({"kind": "train", "step": step, "epoch": 1, "loss": 0.1 * step}, {"speed": 3.0})


def events(folder):
    """Reads TFRecords, which consist of a length, a checksum, bytes and a checksum."""
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
        place = log.place()
        write(log, 2)
    with Log(tmp_path, step=1, place=place) as log:
        write(log, 2)
        write(log, 3)
        assert [line["step"] for line in log.lines()] == [1, 2, 3]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


def test_lines_that_no_checkpoint_covers_are_moved_and_not_dropped(tmp_path):
    for start in (1, 2, 3):
        with Log(tmp_path) as log:
            write(log, start)
        moved = tmp_path / f"metrics.{start - 1}.jsonl"
        assert log.moved == (None if start == 1 else moved)
        if log.moved:
            assert json.loads(moved.read_text())["step"] == start - 1
    with Log(tmp_path) as log:
        place = log.place()  # a checkpoint before the first line
        write(log, 5)
    with Log(tmp_path, step=4, place=place) as log:
        assert log.lines() == []
    assert json.loads((tmp_path / "metrics.4.jsonl").read_text())["step"] == 5


def test_the_file_holds_no_times(tmp_path):
    with Log(tmp_path) as log:
        write(log, 1)
        assert log.lines() == [{"kind": "train", "step": 1, "epoch": 1, "loss": 0.1}]


def test_tensorboard_has_the_values_and_times_and_notices_a_restart(tmp_path):
    with Log(tmp_path) as log:
        write(log, 7)
    _, start, event = events(tmp_path)
    assert start.session_log.status == start.session_log.START
    assert start.step == 1
    assert event.step == 7
    values = {value.tag: value.simple_value for value in event.summary.value}
    assert values == {"train/loss": pytest.approx(0.7), "train/speed": 3.0}


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content.replace(b"0.1", b"0.2"),
        lambda content: b"\0" + content,
    ],
)
def test_a_file_that_changed_since_its_checkpoint_is_left_as_it_is(tmp_path, change):
    path = tmp_path / "metrics.jsonl"
    with Log(tmp_path) as log:
        write(log, 1)
        place = log.place()
    changed = change(path.read_bytes())
    path.write_bytes(changed)
    with pytest.raises(
        StoppedError, match=r"metrics.jsonl does not begin .* step 5.*delete the folder"
    ):
        Log(tmp_path, step=5, place=place)
    assert path.read_bytes() == changed


def test_a_file_that_is_changed_while_it_is_written_is_noticed(tmp_path):
    with Log(tmp_path) as log:
        write(log, 1)
        (tmp_path / "metrics.jsonl").write_text("{}\n")
        with pytest.raises(StoppedError, match=r"metrics.jsonl was changed by another program"):
            log.lines()


def test_a_process_that_keeps_no_log_writes_nothing(tmp_path):
    with Log(tmp_path, writes=False) as log:
        write(log, 1)
        assert log.place()["bytes"] == 0
        assert log.lines() == []
    assert list(tmp_path.iterdir()) == []


def test_the_first_number_that_is_not_finite_is_named():
    assert non_finite({"accuracy": 1.0, "loss": float("nan")}) == "loss is nan"
    values = {"loss": float("nan"), "loss_mask": 1.0, "loss_box_reg": float("inf")}
    assert non_finite(values) == "loss is nan, loss_box_reg is inf"
    assert non_finite({"accuracy": 1.0, "loss": 2.0}) is None
