"""Results are kept whole, found by their settings, and paired by seed."""

import dataclasses
import json
import os

import pytest

from examples.classification.presets import PRESETS
from examples.experiments.columns import Column
from examples.experiments.outcomes import choose, estimate_seconds, gather
from examples.experiments.store import ResultsError, Store, locked

CONFIG = PRESETS["digits"][1]
COLUMN = Column("toy", CONFIG, seeds=3, rates=(0.1, 0.3), validation=500)


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "cpu" / "toy.jsonl"
    with locked(path):
        yield Store(path)


def accuracy(store, config):
    record = store.get(config)
    assert record is not None
    return record["test_accuracy"]


def fill_grid(store, bests):
    """Writes the grid of both arms, each best at its own rate."""
    for config in COLUMN.grid_configs():
        value = 90.0 if config.learning_rate == bests[config.gc] else 80.0
        store.add(config, {"test_accuracy": value, "seconds": 1.0})


def add_all(store, configs):
    for config in configs:
        value = 50.0 + config.seed % 10 + 2 * (config.gc != "off")
        store.add(config, {"test_accuracy": value, "seconds": 1.0})


def test_a_result_is_found_again_by_its_config(store):
    assert store.get(CONFIG) is None
    store.add(CONFIG, {"test_accuracy": 1.5, "seconds": 1.0})
    for seen in (store, Store(store.path)):
        assert accuracy(seen, CONFIG) == 1.5
        assert seen.get(dataclasses.replace(CONFIG, seed=1)) is None


def test_a_newer_setting_has_its_default_in_older_results(store):
    store.add(CONFIG, {"test_accuracy": 1.5, "seconds": 1.0})
    line = json.loads(store.path.read_text())
    del line["config"]["pad"]
    store.path.write_text(json.dumps(line) + "\n")
    assert accuracy(Store(store.path), CONFIG) == 1.5


@pytest.mark.parametrize(
    "damage",
    [
        "{",
        "{}\n",
        '{"config": {"nonsense": 1}}\n',
        "[]\n",
        '{"config": 3}\n',
        '{"a": 1}',
        "\0\n",
        "3\n",
    ],
)
def test_a_damaged_line_is_named(store, damage):
    store.add(CONFIG, {"test_accuracy": 1.5, "seconds": 1.0})
    with store.path.open("a") as file:
        file.write(damage)
    with pytest.raises(ResultsError, match=r"toy\.jsonl, line 2: .*Delete the line"):
        Store(store.path)


def test_a_full_disk_leaves_the_earlier_lines(store, monkeypatch):
    store.add(CONFIG, {"test_accuracy": 1.5, "seconds": 1.0})
    before = store.path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    other = dataclasses.replace(CONFIG, seed=1)
    with pytest.raises(ResultsError, match=r"no result can be added: .*No space left"):
        store.add(other, {"test_accuracy": 2.5, "seconds": 1.0})
    assert store.path.read_bytes() == before
    assert store.get(other) is None


def test_a_number_that_json_does_not_have_is_refused(store):
    with pytest.raises(ValueError, match="JSON"):
        store.add(CONFIG, {"test_accuracy": float("nan"), "seconds": 1.0})
    assert store.path.read_bytes() == b""


def test_a_second_process_is_kept_out(store):
    with pytest.raises(ResultsError, match="another process"), locked(store.path):
        pass


def test_each_arm_has_its_own_rate_when_the_grid_is_done(store):
    *all_but_one, last = COLUMN.grid_configs()
    bests = {"off": 0.1, "conv+fc": 0.3}
    for config in [*all_but_one, last]:
        assert choose(COLUMN, store) is None
        value = 90.0 if config.learning_rate == bests[config.gc] else 80.0
        store.add(config, {"test_accuracy": value, "seconds": 1.0})
    assert choose(COLUMN, store) == {"off": [0.1] * 3, "conv+fc": [0.3] * 3}


def test_a_seed_has_no_part_in_the_choice_of_its_rate(store):
    for config in COLUMN.grid_configs():
        # Only seed 101 likes 0.3, and so much that it is best in the mean.
        value = 80.0 if config.learning_rate == 0.1 else 100.0 if config.seed == 101 else 75.0
        store.add(config, {"test_accuracy": value, "seconds": 1.0})
    assert choose(COLUMN, store) == {arm: [0.3, 0.1, 0.3] for arm in COLUMN.arms}


def test_a_run_that_diverged_counts_as_guessing(store):
    fill_grid(store, {"off": 0.1, "conv+fc": 0.1})
    chosen = choose(COLUMN, store)
    first, *others = COLUMN.configs(chosen)
    store.add(first, {"diverged": "step 3", "test_accuracy": 10.0, "seconds": 1.0})
    add_all(store, others)
    found = gather(COLUMN, store)
    assert found.seeds == 3
    assert found.values("off", "test_accuracy").tolist() == [10.0, 51.0, 52.0]
    assert found.diverged == {"off": 1, "conv+fc": 0}
    assert found.rates == chosen


def test_a_column_without_a_grid_keeps_its_settings(store):
    column = dataclasses.replace(COLUMN, rates=())
    assert choose(column, store) is None
    assert {config.learning_rate for config in column.configs(None)} == {CONFIG.learning_rate}
    # A seed that lacks an arm is left out, and so is nothing else.
    add_all(store, [*column.configs(None)][:-1])
    found = gather(column, store)
    assert found.seeds == 2
    assert found.values("conv+fc", "test_accuracy").tolist() == [52.0, 53.0]


def test_a_column_has_no_outcome_before_all_of_its_runs_are_made(store):
    fill_grid(store, {"off": 0.1, "conv+fc": 0.1})
    *others, last = COLUMN.configs(choose(COLUMN, store))
    add_all(store, others)
    assert gather(COLUMN, store).seeds == 0
    add_all(store, [last])
    assert gather(COLUMN, store).seeds == 3


def test_what_a_run_measured_before_it_diverged_is_left_out_with_its_seed(store):
    column = dataclasses.replace(COLUMN, rates=(), observe="gradients")
    first, *others = column.configs(None)
    store.add(first, {"diverged": "step 3", "seconds": 1.0})
    for config in others:
        store.add(config, {"seconds": 1.0})
    found = gather(column, store)
    assert found.seeds == 2
    assert found.diverged == {"off": 1, "conv+fc": 0}


def test_the_time_left_is_that_of_the_missing_runs(store):
    # 12 runs of the grid, and 6 that are reported.
    assert estimate_seconds(COLUMN, store) is None
    fill_grid(store, {"off": 0.1, "conv+fc": 0.1})
    assert estimate_seconds(COLUMN, store) == 6 * 1.0
    first, *_ = COLUMN.configs(choose(COLUMN, store))
    add_all(store, [first])
    assert estimate_seconds(COLUMN, store) == 5 * 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_accuracy": 101.0}, "test_accuracy is 101.0, which is not a percentage"),
        ({"test_accuracy": float("nan")}, "test_accuracy is nan, which is not a finite number"),
        ({"test_accuracy": "90"}, "test_accuracy is '90', which is not a finite number"),
        ({"train_loss": -1.0}, "train_loss is -1.0, which is negative"),
        ({"seconds": None}, "seconds is None"),
        ({"test_box_AP": 40.0}, "test_box_AP is 40.0, which is not from 0 to 1"),
        ({"validation_mask_AP50": -1.0}, "validation_mask_AP50 is -1.0, which is not from 0 to 1"),
        ({"test_loss": 10**400}, "too large"),
        ({"test_loss": True}, "test_loss is True"),
    ],
)
def test_an_impossible_result_is_named(store, changes, message):
    line = {"config": dataclasses.asdict(CONFIG), "test_accuracy": 90.0, "seconds": 1.0} | changes
    store.path.write_text(json.dumps(line) + "\n")
    with pytest.raises(ResultsError, match=rf"toy\.jsonl, line 1: .*{message}"):
        Store(store.path)


def test_a_line_that_is_nested_too_deeply_is_named(store):
    store.path.write_text("[" * 100_000 + "\n")
    with pytest.raises(ResultsError, match=r"toy\.jsonl, line 1: "):
        Store(store.path)


def test_a_line_of_random_bytes_is_named(store):
    store.path.write_bytes(b"\xff\xfe\x00\n")
    with pytest.raises(ResultsError, match=r"toy\.jsonl, line 1: "):
        Store(store.path)


def test_two_results_of_one_run_are_an_error(store):
    store.add(CONFIG, {"test_accuracy": 1.5, "seconds": 1.0})
    store.path.write_text(2 * store.path.read_text())
    with pytest.raises(ResultsError, match=r"line 2: .*an earlier line has the result of the same"):
        Store(store.path)


@pytest.mark.parametrize("bad", [{}, {"test_accuracy": "90"}, {"test_accuracy": 900.0}])
def test_a_result_without_its_metric_is_named_with_its_line(store, bad):
    """Otherwise it would change which learning rate is chosen."""
    for place, config in enumerate(COLUMN.grid_configs()):
        store.add(config, {**({"test_accuracy": 80.0} if place != 4 else bad), "seconds": 1.0})
    with pytest.raises(ResultsError, match=r"toy\.jsonl, line 5: .*test_accuracy.*Delete the line"):
        choose(COLUMN, store)
