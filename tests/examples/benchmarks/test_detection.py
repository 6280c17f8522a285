"""The comparison with torchvision: inputs, the check of results, the table, the errors."""

import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from examples.benchmarks import detection, detection_operations
from examples.detection.box_nms import nms
from examples.training.errors import SettingError


def make_operation(theirs, tolerance=0.0):
    """An operation whose first side returns 1, 2, 3."""
    return detection_operations.Operation(
        "counting", lambda: np.arange(1, 4), lambda: np.array(theirs), 0.5, tolerance
    )


def test_sides_that_differ_are_not_timed():
    with pytest.raises(ValueError, match="counting: results differ by 1"):
        detection_operations.compare(make_operation([1, 2, 4]), rounds=6)
    with pytest.raises(ValueError, match="counting: results differ by inf"):
        detection_operations.compare(make_operation([1, 2]), rounds=6)
    with pytest.raises(ValueError, match="counting: results differ by nan"):
        detection_operations.compare(make_operation([1, 2, np.nan], tolerance=1.0), rounds=6)


def test_sides_within_the_tolerance_are_timed_and_listed():
    operation = make_operation([1, 2, 3.5], tolerance=1.0)._replace(bar=1e9)
    record = detection_operations.compare(operation, rounds=6)
    assert record["difference"] == 0.5
    low, high = record["ratio"]["interval"]
    assert 0 < low <= record["ratio"]["median"] <= high
    table = detection.make_table([record, record | {"bar": 0.0}])
    assert [str(cell) for cell in table.columns[-1].cells] == ["1000000000.00", "0.00, missed"]


def test_proposals_overlap_as_those_of_a_net_do():
    boxes, scores = detection_operations.make_proposals(np.random.default_rng(0), 1000)
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert len(set(scores.tolist())) == 1000
    indices, number = nms(jnp.asarray(boxes), jnp.asarray(scores), 0.7)
    assert indices.size == 1000
    assert 100 < number < 900


def test_missing_torch_is_an_error_that_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SettingError, match=r"torch is missing.* pip install torch torchvision"):
        detection.main(detection.Config())


def test_unsuitable_settings_are_errors(tmp_path):
    with pytest.raises(SettingError, match="--rounds must be at least 6, not 5"):
        detection.Config(rounds=5)
    with pytest.raises(SettingError, match=r"--out .*: no file can be written there"):
        detection.Config(out=tmp_path / "missing" / "records.jsonl")


@pytest.mark.parametrize("name", ["nms 1000", "detections", "matching", "roi_align 7"])
def test_operations_equal_those_of_torchvision_where_it_is_installed(name, tmp_path):
    pytest.importorskip("torchvision")
    out = tmp_path / "records.jsonl"
    detection.main(detection.Config(rounds=6, only=name, out=out))
    machine, *records = map(json.loads, out.read_text().splitlines())
    assert {"torch", "torchvision", "jax"} <= machine["versions"].keys()
    assert all(record["milliseconds"]["ours"] > 0 for record in records)
