"""Means and speeds of a run survive a restart, the bar shows them, and the picture draws them."""

import io
import json

import pytest
from rich.console import Console

from examples.training.curves import draw_curves
from examples.training.progress import Bar, Clock, Means


def test_means_continue_from_a_record():
    whole, first = Means(), Means()
    values = [0.1, 0.7, 1 / 3, 1e-9]
    for value in values:
        whole.add({"loss": value})
    for value in values[:2]:
        first.add({"loss": value})
    second = Means(**json.loads(json.dumps(vars(first))))
    for value in values[2:]:
        second.add({"loss": value})
    assert second.means() == whole.means()
    assert whole.means()["loss"] == pytest.approx(sum(values) / 4)


def test_the_clock_measures_speed_and_waiting():
    clock = Clock()
    assert clock.rates() == {}
    clock.add(2.0, 0.5, 100)
    clock.add(2.0, 0.3, 100)
    expected = {"images_per_second": 50.0, "waiting_for_data": pytest.approx(0.2)}
    assert Clock(**vars(clock)).rates() == expected


def test_the_bar_shows_the_metrics_that_it_has_a_format_for():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    with Bar(console, 1, 4, {"box_AP": "box AP {:.1f}"}) as bar:
        bar.show(2, "epoch 1 of 2", {"box_AP": 37.44, "other": 1.0, "images_per_second": 2000.0})
    assert "epoch 1 of 2  box AP 37.4  2,000 images/s" in out.getvalue()


def test_the_picture_has_a_panel_for_each_title_and_skips_what_a_line_lacks(tmp_path):
    lines = [
        {"kind": "train", "epoch": 1, "loss": 1.0},
        {"kind": "test", "epoch": 1, "box_AP": 30.0},
    ]
    draw_curves(lines, {"loss": "loss", "box_AP": "box AP"}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
