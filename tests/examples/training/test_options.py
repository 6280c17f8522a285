"""Options that cannot be met name their flag."""

import pytest

from examples.training.errors import SettingError
from examples.training.options import Options


@pytest.mark.parametrize(
    ("name", "value"), [("workers", -1), ("checkpoint_every", 0), ("log_every", 0)]
)
def test_options_that_make_no_sense(name, value):
    with pytest.raises(
        SettingError, match=f"--{name.replace('_', '-')} {value}: it must be at least"
    ):
        Options(**{name: value})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"workers": 10**6}, "--workers 1000000: it must be at most"),
        ({"coordinator": "nonsense"}, "--coordinator nonsense: it must be HOST:PORT"),
        ({"coordinator": "host:99999"}, "--coordinator host:99999: it must be HOST:PORT"),
        ({"processes": 2, "process": 2}, "--process 2: it must be below --processes 2"),
    ],
)
def test_options_that_cannot_be_met_name_their_flag(values, message):
    with pytest.raises(SettingError, match=message):
        Options(**{"distributed": True} | values)


@pytest.mark.parametrize("name", ["coordinator", "processes", "process"])
def test_an_option_without_the_one_that_it_needs(name):
    with pytest.raises(SettingError, match=f"--{name} needs --distributed"):
        Options(**{"distributed": False, name: 1})  # pyright: ignore[reportArgumentType]
