"""Tables show what the results hold, and nothing else."""

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest

from examples.classification.presets import PRESETS
from examples.experiments import tables
from examples.experiments.columns import ERROR, Column, Experiment, Metric
from examples.experiments.store import ResultsError, Store

CONFIG = PRESETS["digits"][1]
OFF = np.array([80.0, 81.0, 82.0, 83.0])
# The gain by GC in each column.
GAINS = {
    "up": np.array([1.0, 1.1, 0.9, 1.0]),
    "even": np.array([1.0, -1.0, 0.5, -0.5]),
    "down": np.array([-1.0, -1.1, -0.9, -1.0]),
}
COLUMNS = tuple(
    Column(name, dataclasses.replace(CONFIG, width=8 + i), seeds=4, paper=(70.5, 71.25))
    for i, name in enumerate(GAINS)
)
ACCURACIES = ("test_accuracy", "train_accuracy")


TOY = Experiment("A toy", {"cpu": COLUMNS})


@pytest.fixture
def results(tmp_path):
    return Store(tmp_path / "toy.jsonl")


def fill(results, columns=COLUMNS, skip=()):
    for column in columns:
        for config in column.configs(CONFIG.learning_rate, CONFIG.weight_decay):
            if (column.name, config.seed, config.gc) not in skip:
                gain = GAINS[column.name][config.seed] if config.gc != "off" else 0.0
                test, train = OFF[config.seed] + gain, 90 - gain / 2
                result = dict(zip(ACCURACIES, (test, train), strict=True))
                results.add(config, {**result, "seconds": 2.0})


def rows(results, experiment=TOY):
    (table,) = tables.make_tables(experiment, "toy", "cpu", results)
    columns = [[column.header, *column.cells] for column in table.columns]
    return {row[0].strip(): [*row[1:]] for row in zip(*columns, strict=True)}


def test_the_paper_is_shown_next_to_ours_with_spread_interval_and_p_value(results):
    fill(results)
    seen = rows(results)
    assert seen["accuracy, %"] == ["up", "even", "down"]
    assert seen["the paper's w/o GC"] == ["70.50"] * 3
    assert seen["the paper's w/ GC"] == ["71.25"] * 3
    assert seen["here w/o GC"] == [f"81.50 ± {OFF.std(ddof=1):.2f}"] * 3
    assert seen["here w/ GC"][0] == f"82.50 ± {(OFF + GAINS['up']).std(ddof=1):.2f}"
    assert seen["difference"] == ["+1.00 ± 0.13", "+0.00 ± 1.45", "-1.00 ± 0.13"]
    assert seen["seeds better"] == ["4 of 4", "2 of 4", "0 of 4"]
    assert seen["in training"] == ["-0.50 ± 0.06", "+0.00 ± 0.73", "+0.50 ± 0.06"]
    assert seen["p"][1] == "1"
    assert float(seen["p"][0]) < 1e-3
    assert seen["seeds"] == ["4 of 4"] * 3


def test_a_sentence_names_where_gc_helped_did_nothing_and_hurt(results):
    fill(results)
    assert list(tables.describe_verdicts(TOY, "cpu", results)) == [
        "GC: helped: up; no difference that these seeds can show: even; hurt: down."
    ]
    assert tables.sum_seconds(TOY, "cpu", results) == 3 * 8 * 2.0


def test_an_error_that_falls_counts_as_help(results):
    experiment = dataclasses.replace(TOY, metrics=(ERROR,))
    fill(results)
    seen = rows(results, experiment)
    assert seen["here w/o GC"][0].startswith("18.50 ±")
    assert seen["difference"][0] == "-1.00 ± 0.13"
    assert seen["seeds better"] == ["4 of 4", "2 of 4", "0 of 4"]
    assert next(tables.describe_verdicts(experiment, "cpu", results)).startswith("GC: helped: up;")


def test_an_experiment_with_two_metrics_has_two_tables(results):
    metrics = (Metric("box_AP", "box AP"), Metric("mask_AP", "mask AP"))
    experiment = dataclasses.replace(TOY, columns={"cpu": COLUMNS[:1]}, metrics=metrics)
    for config in COLUMNS[0].configs(CONFIG.learning_rate, CONFIG.weight_decay):
        box = 40.0 + (config.gc != "off")
        results.add(config, {"box_AP": box, "mask_AP": box - 5, "seconds": 1.0})
    boxes, masks = tables.make_tables(experiment, "toy", "cpu", results)
    assert [table.columns[0].header for table in (boxes, masks)] == ["box AP", "mask AP"]
    assert "41.00 ± 0.00" in boxes.columns[1].cells
    assert "36.00 ± 0.00" in masks.columns[1].cells


def test_seeds_that_are_not_done_are_counted(results):
    fill(results, COLUMNS[:1], skip={("up", 3, "conv+fc")})
    seen = rows(results)
    assert seen["seeds"] == ["3 of 4", "0 of 4", "0 of 4"]
    assert seen["here w/ GC"][1:] == ["-", "-"]
    assert seen["difference"][0].startswith("+1.00")
    assert list(tables.describe_verdicts(TOY, "cpu", results)) == ["GC: helped: up."]


def test_runs_that_diverged_are_counted(results):
    for config in COLUMNS[0].configs(CONFIG.learning_rate, CONFIG.weight_decay):
        lost = config.gc == "off" and config.seed < 2
        metrics = dict.fromkeys(ACCURACIES, 80.0)
        result = {"diverged": "step 3"} if lost else metrics
        results.add(config, result | {"seconds": 1.0})
    assert rows(results)["seeds"][0] == "2 of 4; w/o GC: 2 diverged"


def test_a_table_without_results_shows_no_verdict(results):
    assert rows(results)["seeds"] == ["0 of 4"] * 3
    assert list(tables.describe_verdicts(TOY, "cpu", results)) == ["GC: no result yet."]


def test_many_columns_are_split_into_tables_of_similar_width(results):
    columns = tuple(Column(str(i), dataclasses.replace(CONFIG, width=i + 1)) for i in range(10))
    experiment = Experiment("A toy", {"cpu": columns})
    made = list(tables.make_tables(experiment, "toy", "cpu", results))
    assert [len(table.columns) for table in made] == [6, 6]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("table7",), "no table is called 'table7'; there are table1,"),
        (("rates", "--scale", "paper"), "rates is not in the paper"),
    ],
)
def test_unknown_tables_are_an_error(arguments, message):
    command = [sys.executable, "-m", "examples.experiments.tables", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode
    assert re.search(message, " ".join((done.stdout + done.stderr).split()))


def test_a_damaged_file_stops_the_program(results):
    results.path.write_text("{")
    with pytest.raises(ResultsError, match="line 1"):
        Store(results.path)
