"""The committed results belong to runs that are defined, and the tables show them as they are."""

import pytest

from examples.experiments import tables
from examples.experiments.definitions import EXPERIMENTS
from examples.experiments.outcomes import choose
from examples.experiments.store import RESULTS, Store, results_path


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
    assert set(store) <= defined


def test_the_committed_tables_are_those_of_the_committed_results():
    committed = (RESULTS / "cpu" / "report.md").read_text(encoding="utf-8")
    assert committed == tables.write_tables("cpu"), "run python -m examples.experiments.tables"
