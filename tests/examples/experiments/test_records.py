"""Results are kept whole, found by config, paired by seed."""

import dataclasses
import json
import os

import pytest

from examples.experiments import records as module
from examples.experiments.cells import Cell
from examples.experiments.records import Records, RecordsError, alone, choose, outcome
from examples.runs import RUNS

CONFIG = RUNS["digits"][1]
CELL = Cell("toy", CONFIG, seeds=3, rates=(0.1, 0.3), decays=(1e-4, 1e-3))


@pytest.fixture
def records(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    with alone("toy", "cpu"):
        yield Records("toy", "cpu")


def accuracy(records, config):
    record = records.get(config)
    assert record is not None
    return record["test_accuracy"]


def fill_grid(records, best):
    for config in CELL.grid():
        point = config.learning_rate, config.weight_decay
        records.add(config, {"test_accuracy": 90.0 if point == best else 80.0})


def test_a_result_is_found_again_by_its_config(records):
    assert records.get(CONFIG) is None
    records.add(CONFIG, {"test_accuracy": 1.5})
    for seen in (records, Records("toy", "cpu")):
        assert accuracy(seen, CONFIG) == 1.5
        assert seen.get(dataclasses.replace(CONFIG, seed=1)) is None


def test_a_setting_that_came_later_has_its_default_in_older_results(records):
    records.add(CONFIG, {"test_accuracy": 1.5})
    line = json.loads(records.path.read_text())
    del line["config"]["pad"]
    records.path.write_text(json.dumps(line) + "\n")
    assert accuracy(Records("toy", "cpu"), CONFIG) == 1.5


@pytest.mark.parametrize(
    "damage", ["{", "{}\n", '{"config": {"nonsense": 1}}\n', "[]\n", '{"a": 1}']
)
def test_a_damaged_line_is_named(records, damage):
    records.add(CONFIG, {"test_accuracy": 1.5})
    with records.path.open("a") as file:
        file.write(damage)
    with pytest.raises(RecordsError, match=r"toy\.jsonl, line 2: .*delete it"):
        Records("toy", "cpu")


def test_a_full_disk_leaves_the_lines_before(records, monkeypatch):
    records.add(CONFIG, {"test_accuracy": 1.5})
    before = records.path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    other = dataclasses.replace(CONFIG, seed=1)
    with pytest.raises(RecordsError, match=r"no result can be added: .*No space left"):
        records.add(other, {"test_accuracy": 2.5})
    assert records.path.read_bytes() == before
    assert records.get(other) is None


def test_a_number_that_json_does_not_have_is_no_result(records):
    with pytest.raises(ValueError, match="JSON"):
        records.add(CONFIG, {"test_accuracy": float("nan")})
    assert records.path.read_bytes() == b""


def test_a_second_process_is_held_off(records):
    with pytest.raises(RecordsError, match="another process"), alone("toy", "cpu"):
        pass


def test_the_grid_chooses_when_it_is_done(records):
    *all_but_one, last = CELL.grid()
    for config in all_but_one:
        records.add(config, {"test_accuracy": 50.0})
    assert choose(CELL, records) is None
    assert outcome(CELL, records).chosen is None
    assert outcome(CELL, records).seeds == 0
    records.add(last, {"test_accuracy": 51.0})
    assert choose(CELL, records) == (0.3, 1e-3)


def test_of_equals_the_lower_rate_is_chosen_and_never_one_that_diverged(records):
    for config in CELL.grid():
        diverged = config.learning_rate == 0.1 and config.weight_decay == 1e-4
        records.add(config, {"diverged": "step 3"} if diverged else {"test_accuracy": 80.0})
    assert choose(CELL, records) == (0.1, 1e-3)


def test_a_cell_without_a_grid_keeps_its_settings(records):
    cell = dataclasses.replace(CELL, rates=(), decays=())
    assert choose(cell, records) == (CONFIG.learning_rate, CONFIG.weight_decay)


def test_seeds_are_paired_and_a_seed_that_lacks_an_arm_is_left_out(records):
    fill_grid(records, (0.3, 1e-4))
    for config in CELL.runs(0.3, 1e-4):
        if (config.seed, config.gc) == (1, "conv+fc"):
            records.add(config, {"diverged": "step 3"})
        elif (config.seed, config.gc) != (0, "off"):
            records.add(config, {"test_accuracy": 10.0 * config.seed + (config.gc == "off")})
    found = outcome(CELL, records)
    assert found.seeds == 1
    assert found.values("off", "test_accuracy").tolist() == [21.0]
    assert found.values("conv+fc", "test_accuracy").tolist() == [20.0]
    assert found.diverged == {"off": 0, "conv+fc": 1}


def test_results_of_another_rate_are_not_reported(records):
    """Those of an earlier choice stay in the file and count for nothing."""
    fill_grid(records, (0.3, 1e-4))
    for config in CELL.runs(0.1, 1e-4):
        records.add(config, {"test_accuracy": 99.0})
    assert outcome(CELL, records).seeds == 0
