"""Tables show what the results hold, and nothing else."""

import dataclasses
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from examples.classification.presets import PRESETS
from examples.experiments import tables
from examples.experiments.columns import ERROR, Column, Experiment, Metric
from examples.experiments.definitions import EXPERIMENTS
from examples.experiments.store import Store, results_path

CONFIG = PRESETS["digits"][1]
NOISE = np.array([0.2, -0.2, 0.1, -0.1])
# The gain by GC in each column, and the paper's.
GAINS = {"up": (1.0, 1.0), "even": (0.0, 1.0), "down": (-1.0, 1.0), "unclear": (0.1, 0.01)}
COLUMNS = tuple(
    Column(
        name,
        dataclasses.replace(CONFIG, width=8 + i),
        seeds=4,
        rates=(0.03, 0.1),
        validation=500,
        paper=(70.0, 70.0 + paper),
    )
    for i, (name, (_, paper)) in enumerate(GAINS.items())
)


@pytest.fixture
def store(tmp_path):
    path = results_path(tmp_path, "table1", "cpu")
    path.parent.mkdir(parents=True)
    return Store(path)


@pytest.fixture
def show(tmp_path, monkeypatch, store):
    """Returns a function that shows the tables of some columns whose results were made up."""

    def show(columns=COLUMNS, fill=True, **changes):
        experiment = Experiment("A toy", {"cpu": columns}, **changes)
        monkeypatch.setattr(tables, "TABLES", ("table1",))
        monkeypatch.setitem(EXPERIMENTS, "table1", experiment)
        for column in columns if fill else ():
            add(store, column, [*column.grid_configs()])
            add(store, column, column.configs({arm: [0.03] * 4 for arm in column.arms}))
        return tables.write_tables("cpu", tmp_path)

    return show


def add(store, column, configs):
    for config in configs:
        seed = config.seed % 10
        gain = GAINS[column.name][0] + NOISE[seed] if config.gc != "off" else 0.0
        # All rates are equally good, so the lowest is chosen.
        test = 80.0 + (seed + gain) * (config.validation == 0)
        result = {"test_accuracy": test, "train_accuracy": 90 - gain / 2, "test_loss": 1.0}
        store.add(config, {**result, "seconds": 2.0})


def rows(text, part=0):
    """Returns the cells of each row of one of the tables, by its column's name and their titles."""
    header, _, *lines = [block for block in re.split(r"\n\n", text) if block.startswith("| table")][
        part
    ].splitlines()
    titles = [cell.strip() for cell in header.strip("|").split("|")]
    found = [
        dict(zip(titles, map(str.strip, line.strip("|").split("|")), strict=True)) for line in lines
    ]
    return {row["column"]: row for row in found}


def test_the_paper_is_shown_next_to_ours_with_interval_p_value_and_verdict(show):
    seen = rows(show())
    base, noise = np.arange(4.0), NOISE
    found = stats.ttest_rel(base + 1 + noise, base)
    half = np.ptp(found.confidence_interval()) / 2
    up = seen["up"]
    assert up["paper: without → with GC"] == "70.00 → 71.00"
    assert up["here: without GC"] == f"81.50 ± {base.std(ddof=1):.2f}"
    assert up["difference"] == f"+1.00 ± {half:.2f}"
    assert up["p"] == f"{found.pvalue:.3f}"
    # The lowest rate of the grid was chosen.
    assert (
        up["learning rates, without / with GC"] == "0.03 (end of the grid) / 0.03 (end of the grid)"
    )
    # Holm: the first of four.
    assert float(up["p (Holm)"]) == pytest.approx(4 * found.pvalue, abs=1e-3)
    assert up["seeds"] == "4 of 4"
    verdicts = {name: row["verdict"] for name, row in seen.items()}
    assert verdicts == {
        "up": "helps",
        "even": "no difference",
        "down": "hurts",
        "unclear": "cannot tell",
    }
    assert "Verdicts of the 4 rows: helps: 1, hurts: 1, no difference: 1, cannot tell: 1." in show(
        fill=False
    )


def test_a_row_without_power_for_the_papers_gain_cannot_tell_and_says_how_many_seeds_could(show):
    seen = rows(show())
    # Equivalence within half a point holds, and still the paper's 0.01 could be there.
    assert float(seen["unclear"]["power"]) < 0.1
    assert int(seen["unclear"]["seeds for power 0.8"]) > 1000
    assert float(seen["even"]["power"]) > 0.9
    assert int(seen["even"]["seeds for power 0.8"]) <= 4


def test_training_and_test_loss_are_shown_too(show):
    seen = rows(show(), part=1)
    assert seen["up"]["seeds better with GC"] == "4 of 4"
    assert seen["up"]["training accuracy, points"].startswith("-0.50 ± ")
    assert seen["up"]["test loss, nats"] == "+0.00 ± 0.00"


def test_an_error_that_falls_counts_as_help(show):
    seen = rows(show(metrics=(ERROR,)))
    assert seen["up"]["here: without GC"].startswith("18.50 ±")
    assert seen["up"]["difference"].startswith("-1.00 ±")
    assert seen["up"]["verdict"] == "helps"


def test_an_experiment_with_two_metrics_has_a_row_for_each(show, store):
    metrics = (Metric("box_AP", "box AP", factor=100), Metric("mask_AP", "mask AP", factor=100))
    column = dataclasses.replace(COLUMNS[0], rates=())
    for config in column.configs(None):
        box = 0.4 + 0.01 * (config.gc != "off") + 0.001 * config.seed
        store.add(config, {"box_AP": box, "mask_AP": box - 0.05, "seconds": 1.0})
    text = show((column,), fill=False, metrics=metrics)
    assert "| table1, box AP | up | 70.00 → 71.00 | 40.15 ±" in text
    assert "| table1, mask AP | up | 70.00 → 71.00 | 35.15 ±" in text


def test_rows_without_a_grid_are_not_called_tuned(show, store):
    column = dataclasses.replace(COLUMNS[0], rates=())
    add(store, column, column.configs(None))
    text = show((column,), fill=False)
    assert text.startswith("The learning rates are the paper's, for both arms. None was tuned.")
    assert rows(text)["up"]["learning rates, without / with GC"] == ""


def test_a_column_has_a_row_when_all_of_its_runs_are_made(show, store):
    column, other = COLUMNS[:2]
    add(store, column, column.grid_configs())
    add(store, column, column.configs({arm: [0.03] * 4 for arm in column.arms}))
    add(store, other, other.grid_configs())
    text = show((column, other), fill=False)
    assert "both arms are tuned in the same way" in text
    assert [*rows(text)] == ["up"]
    # 8 runs that are reported, at 2 seconds.
    assert "are still missing take about 0 hours" in text
    add(store, other, other.configs({arm: [0.03] * 4 for arm in other.arms}))
    text = show((column, other), fill=False)
    assert [*rows(text)] == ["up", "even"]
    assert "still missing" not in text


def test_runs_that_diverged_stay_in_and_are_counted(show, store):
    column = COLUMNS[0]
    add(store, column, column.grid_configs())
    first, *others = column.configs({arm: [0.03] * 4 for arm in column.arms})
    store.add(
        first, {"diverged": "step 3", "test_accuracy": 10.0, "train_accuracy": 10.0, "seconds": 1.0}
    )
    add(store, column, others)
    row = rows(show((column,), fill=False))["up"]
    assert row["seeds"] == "4 of 4; 1 diverged (off)"
    assert row["here: without GC"].startswith(f"{(10 + 81 + 82 + 83) / 4:.2f} ±")


def test_without_results_the_command_that_makes_them_is_named(show):
    assert "python -m examples.experiments.run --scale cpu" in show(fill=False)


def test_a_bad_line_stops_the_tables_and_the_old_report_is_kept(tmp_path, monkeypatch):
    path = results_path(tmp_path, "table2", "cpu")
    path.parent.mkdir()
    path.write_text("{}\n")
    (path.parent / "report.md").write_text("old")
    monkeypatch.setattr(sys, "argv", ["tables", "--results", str(tmp_path)])
    with pytest.raises(
        SystemExit, match=r"^stopped: .*table2\.jsonl, line 1: .*'config' is missing"
    ):
        tables.main()
    assert (path.parent / "report.md").read_text() == "old"


def test_the_program_trains_nothing_and_needs_no_device(tmp_path):
    command = [sys.executable, "-W", "error", "-m", "examples.experiments.tables"]
    done = subprocess.run(
        [*command, "--results", str(tmp_path), "--scale", "paper"],
        env={**os.environ, "JAX_PLATFORMS": "none"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("No column has all of its runs")
