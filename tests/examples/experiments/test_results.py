"""The committed results belong to runs that are defined, and the tables show them as they are."""

import collections
import re
from pathlib import Path

import pytest

from examples.experiments import tables
from examples.experiments.definitions import EXPERIMENTS
from examples.experiments.earlier import find_earlier
from examples.experiments.outcomes import choose
from examples.experiments.store import RESULTS, Store, results_path

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_result_is_of_a_run_that_is_defined_now(name):
    """No result is left of a setting that no longer exists, or of a rate that is not chosen."""
    experiment = EXPERIMENTS[name]
    store = Store(results_path(RESULTS, name, "cpu"), experiment.config_type)
    defined = set()
    for column in experiment.columns["cpu"]:
        chosen = choose(column, store, experiment.metrics[0])
        defined |= {*column.grid_configs()}
        if chosen is not None or not column.rates:
            defined |= {*column.configs(chosen)}
        if column.earlier is not None:
            runs = find_earlier(column, column.earlier, store, experiment.metrics[0])
            defined |= {*runs.grid, *runs.configs}
    assert set(store) <= defined


def test_the_committed_tables_are_those_of_the_committed_results():
    committed = (RESULTS / "cpu" / "report.md").read_text(encoding="utf-8")
    assert committed == tables.write_tables("cpu"), "run python -m examples.experiments.tables"


def test_the_pages_say_of_the_detectors_what_the_tables_say():
    report = (RESULTS / "cpu" / "report.md").read_text(encoding="utf-8").splitlines()
    rows = [row for row in report if row.startswith(("| table5", "| table6"))]
    rows = [row.split(" | ") for row in rows if "both tuned" in row]
    page = (ROOT / "docs" / "training_detectors.md").read_text(encoding="utf-8")
    quoted = [line for line in page.splitlines() if line.startswith(("| table5", "| table6"))]
    assert quoted == [" | ".join(row[:9]) + " |" for row in rows]

    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    said = re.findall(r"(box|mask) AP (\S+) to (\S+) points \((.+?)\)", readme)
    assert [kind for kind, *_ in said] == ["box", "mask"]
    for kind, low, high, verdicts in said:
        own = [row for row in rows if row[0].endswith(f"{kind} AP")]
        values = sorted((row[5].split()[0] for row in own), key=float)
        assert (low, high) == (values[0], values[-1])
        count = collections.Counter(row[8] for row in own)
        assert {*verdicts.split(", ")} == {f"{word}: {number}" for word, number in count.items()}
