"""The results that are kept here: all are of the definitions, and the README says what they say."""

import re
from pathlib import Path

import pytest

from examples.experiments import tables
from examples.experiments.definitions import EXPERIMENTS
from examples.experiments.records import Records, choose

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_result_is_of_a_run_that_is_defined_now(name):
    """None is left of a setting that was given up, and none was made at another rate than chosen."""
    records = Records(name, "cpu")
    defined = 0
    for cell in EXPERIMENTS[name].cells["cpu"]:
        chosen = choose(cell, records)
        configs = [*cell.grid(), *(cell.runs(*chosen) if chosen else ())]
        defined += sum(records.get(config) is not None for config in configs)
    assert len(records) == defined


def test_the_readme_has_the_table_of_these_results(capsys):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- results -->\n(.*?)\n<!-- /results -->", readme, re.DOTALL)
    assert block, "README.md marks no results"
    tables.main(tables.Settings(readme=True))
    printed = "\n".join(line.rstrip() for line in capsys.readouterr().out.strip().splitlines())
    assert block[1] == printed, "make it anew by python -m examples.experiments.tables --readme"
