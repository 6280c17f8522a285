"""Results are kept whole, found by their settings, and paired by seed."""

import dataclasses
import json
import os

import pytest

from examples.classification.presets import PRESETS
from examples.experiments.columns import Column
from examples.experiments.outcomes import choose, gather
from examples.experiments.store import ResultsError, Store, locked

CONFIG = PRESETS["digits"][1]
COLUMN = Column("toy", CONFIG, seeds=3, rates=(0.1, 0.3), decays=(1e-4, 1e-3), validation=500)


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "cpu" / "toy.jsonl"
    with locked(path):
        yield Store(path)


def accuracy(store, config):
    record = store.get(config)
    assert record is not None
    return record["test_accuracy"]


def fill_grid(store, best):
    for config in COLUMN.grid_configs():
        point = config.learning_rate, config.weight_decay
        store.add(config, {"test_accuracy": 90.0 if point == best else 80.0, "seconds": 1.0})


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


def test_the_grid_chooses_when_it_is_done(store):
    *all_but_one, last = COLUMN.grid_configs()
    for config in all_but_one:
        store.add(config, {"test_accuracy": 50.0, "seconds": 1.0})
    assert choose(COLUMN, store) is None
    assert gather(COLUMN, store).chosen is None
    assert gather(COLUMN, store).seeds == 0
    store.add(last, {"test_accuracy": 51.0, "seconds": 1.0})
    assert choose(COLUMN, store) == (0.3, 1e-3)


def test_the_lower_of_equal_rates_is_chosen_and_never_one_that_diverged(store):
    for config in COLUMN.grid_configs():
        diverged = config.learning_rate == 0.1 and config.weight_decay == 1e-4
        store.add(
            config, {"diverged": "step 3"} if diverged else {"test_accuracy": 80.0, "seconds": 1.0}
        )
    assert choose(COLUMN, store) == (0.1, 1e-3)


def test_a_column_without_a_grid_keeps_its_settings(store):
    column = dataclasses.replace(COLUMN, rates=(), decays=())
    assert choose(column, store) == (CONFIG.learning_rate, CONFIG.weight_decay)


def test_seeds_are_paired_and_a_seed_that_lacks_an_arm_is_left_out(store):
    fill_grid(store, (0.3, 1e-4))
    for config in COLUMN.configs(0.3, 1e-4):
        if (config.seed, config.gc) == (1, "conv+fc"):
            store.add(config, {"diverged": "step 3"})
        elif (config.seed, config.gc) != (0, "off"):
            store.add(
                config, {"test_accuracy": 10.0 * config.seed + (config.gc == "off"), "seconds": 1.0}
            )
    found = gather(COLUMN, store)
    assert found.seeds == 1
    assert found.values("off", "test_accuracy").tolist() == [21.0]
    assert found.values("conv+fc", "test_accuracy").tolist() == [20.0]
    assert found.diverged == {"off": 0, "conv+fc": 1}


def test_results_of_another_rate_are_not_reported(store):
    """Results of an earlier choice stay in the file, but are not used."""
    fill_grid(store, (0.3, 1e-4))
    for config in COLUMN.configs(0.1, 1e-4):
        store.add(config, {"test_accuracy": 99.0, "seconds": 1.0})
    assert gather(COLUMN, store).seeds == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_accuracy": 101.0}, "test_accuracy is 101.0, which is not a percentage"),
        ({"test_accuracy": float("nan")}, "test_accuracy is nan, which is not a finite number"),
        ({"test_accuracy": "90"}, "test_accuracy is '90', which is not a finite number"),
        ({"train_loss": -1.0}, "train_loss is -1.0, which is negative"),
        ({"seconds": None}, "seconds is None"),
    ],
)
def test_an_impossible_result_is_named(store, changes, message):
    line = {"config": dataclasses.asdict(CONFIG), "test_accuracy": 90.0, "seconds": 1.0} | changes
    store.path.write_text(json.dumps(line) + "\n")
    with pytest.raises(ResultsError, match=rf"toy\.jsonl, line 1: .*{message}"):
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


def test_a_result_without_its_metric_is_not_a_diverged_run(store):
    """Otherwise it would change which learning rate is chosen."""
    for config in COLUMN.grid_configs():
        store.add(config, {"seconds": 1.0})
    with pytest.raises(
        ResultsError, match=r"toy\.jsonl: the result of gc off.* lacks test_accuracy"
    ):
        choose(COLUMN, store)
