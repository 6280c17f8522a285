"""The committed results belong to runs that are defined, and the site shows them as they are."""

import re
import sys
from pathlib import Path

import pytest

from examples.experiments import tables
from examples.experiments.definitions import EXPERIMENTS
from examples.experiments.outcomes import choose
from examples.experiments.store import RESULTS, Store, results_path

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_result_is_of_a_run_that_is_defined_now(name):
    """No result is left of a setting that no longer exists, or of a rate that is not chosen."""
    store = Store(results_path(RESULTS, name, "cpu"))
    defined = 0
    for column in EXPERIMENTS[name].columns["cpu"]:
        chosen = choose(column, store)
        configs = [*column.grid_configs(), *(column.configs(*chosen) if chosen else ())]
        defined += sum(store.get(config) is not None for config in configs)
    assert len(store) == defined


def test_the_site_has_the_table_of_these_results(capsys, monkeypatch):
    page = (ROOT / "docs/paper.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- results -->\n(.*?)\n<!-- /results -->", page, re.DOTALL)
    assert block, "docs/paper.md marks no results"
    monkeypatch.setattr(sys, "argv", ["tables", "--readme"])
    tables.main()
    printed = "\n".join(line.rstrip() for line in capsys.readouterr().out.strip().splitlines())
    assert block[1] == printed, "print it again with python -m examples.experiments.tables --readme"
