"""The figures are drawn from made-up results. No net is trained."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import matplotlib.colors
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from examples.classification.config import Config
from examples.experiments import drawing, figures
from examples.experiments.columns import Column, Scale
from examples.experiments.definitions import EXPERIMENTS
from examples.experiments.drawing import FIGURES, draw
from examples.experiments.figures import Arguments
from examples.experiments.store import RESULTS, Record, ResultsError, Store, results_path
from examples.training.errors import SettingError

COLUMNS = EXPERIMENTS["table4"].columns["cpu"]
OFF, GC, TRAINING = "#555555", "#0072b2", "#e69f00"
LEGENDS = {
    "figure3": {"without GC": OFF, "with GC": GC},
    "figure4": {
        "GC on the gradients of the run without GC": OFF,
        "run with GC, to the run without": GC,
    },
    "figure5": {"BN": OFF, "BN+GC": GC, "BN+WS": OFF, "BN+WS+GC": GC},
    "figure6": {"without GC": OFF, "with GC": GC},
    "figure7": {"training": TRAINING, "test": GC},
    "curvature": {
        "without GC": OFF,
        "without GC, projected": OFF,
        "with GC": GC,
        "with GC, projected": GC,
    },
}


def add(results: Path, name: str, scale: Scale = "cpu", *, seeds=99, without=(), diverged=()):
    """Makes up the results of a figure, for some seeds and columns. The first seeds may diverge."""
    experiment = FIGURES[name].experiment
    store = Store(results_path(results, experiment, scale))
    store.path.parent.mkdir(parents=True, exist_ok=True)
    lines = []

    def keep(config, record):
        lines.append(json.dumps({"config": dataclasses.asdict(config), "seconds": 1.0, **record}))

    for column in EXPERIMENTS[experiment].columns[scale]:
        if column.name not in without:
            for config in column.grid_configs():
                keep(config, {"test_accuracy": 50.0})
            lowest = {arm: column.rates[:1] * column.seeds for arm in column.arms}
            for config in column.configs(lowest if column.rates else None):
                first = config.seed == column.seed_numbers[0]
                if first and config.gc == "off" and column.name in diverged:
                    guess = {"test_accuracy": 10.0, "train_accuracy": 10.0}
                    keep(config, {"diverged": "epoch 1: the loss is nan", **guess})
                elif config.seed < column.seed_numbers[0] + seeds:
                    keep(config, result(column, config))
    store.path.write_text("".join(f"{line}\n" for line in lines))


def result(column: Column, config: Config) -> Record:
    """Makes up a result with the keys of a real one."""
    rng = np.random.default_rng(zlib.crc32(str(config).encode()))
    gain = 2.0 * (config.gc != "off")
    if column.observe in ("start", "weights"):
        layers = {"conv1": 60, "stages/0/0/conv1": 400, "stages/0/1/conv1": 300, "stages/1/0/a": 90}
        means = [rng.normal(-4, 1, count).round(2).tolist() for count in layers.values()]
        after = {"after": [[x + 1 - gain / 2 for x in layer] for layer in means]}
        return {"layers": list(layers), "before": means} | (
            after if column.observe != "start" else {}
        )
    if column.observe == "gradients":
        found = {"loss": np.exp(-np.arange(200) / 100).tolist()}
        for layer in ("conv1", "fc"):
            for key in ("norm", "max"):
                before = np.exp(-np.arange(200) / 60 - gain / 2 + rng.normal(0, 0.3, 200))
                found[f"{layer}/kernel/{key}_before"] = before.tolist()
                found[f"{layer}/kernel/{key}_after"] = (0.7 * before).tolist()
        return found
    if column.observe == "curvature":
        found = {"step": [*range(0, 220, 20)], "converged": [True] * 10 + [config.gc == "off"]}
        for key in ("gradient_norm", "hessian_norm"):
            norms = np.exp(np.linspace(3, -gain / 2, 11) + rng.normal(0, 0.3, 11))
            found |= {key: norms.tolist(), f"{key}_gc": (0.7 * norms).tolist()}
        return found
    shift, curves = rng.normal(gain, 1), {}
    for kind, every in (("train", 1), ("test", config.evaluate_every)):
        epoch = np.arange(every, config.epochs + 1, every)
        loss, accuracy = (gain + 1) / epoch, 90 - 60 / epoch + shift - 3 * (kind == "test")
        curves[kind] = {"epoch": epoch, "loss": loss, "accuracy": accuracy}
        curves[kind] = {name: values.tolist() for name, values in curves[kind].items()}
    return {"test_accuracy": curves["test"]["accuracy"][-1], "curves": curves}


@pytest.fixture
def made(monkeypatch) -> list[Figure]:
    """Returns a list of the figures that are drawn."""
    kept: list[Figure] = []
    finish = drawing._finish
    monkeypatch.setattr(drawing, "_finish", lambda *args: kept.append(finish(*args)) or kept[-1])
    return kept


def caption(figure: Figure) -> str:
    return " ".join(figure.get_supxlabel().split())


@pytest.mark.parametrize(
    ("name", "seeds"), [*((name, 99) for name in FIGURES), ("figure3", 1), ("curvature", 1)]
)
def test_a_figure_is_a_small_png_in_the_colors_of_all_figures(tmp_path, made, name, seeds):
    add(tmp_path, name, seeds=seeds)
    path = draw(name, "cpu", tmp_path / "out", results=tmp_path)
    assert isinstance(path, Path)
    assert [*path.parent.iterdir()] == [path]
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    assert path.stat().st_size < 250_000
    colors = {}
    for legend in made[0].legends:
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
            line = getattr(handle, "lines", [handle])[0]
            colors[text.get_text()] = matplotlib.colors.to_hex(line.get_color())
    assert colors == LEGENDS[name]
    total = EXPERIMENTS[FIGURES[name].experiment].columns["cpu"][-1].seeds
    expected = f"{total} seeds" if seeds > total else f"{seeds} of {total} seeds"
    assert expected in caption(made[0])
    assert (" of " in caption(made[0]).partition(" Runs: ")[2]) == (seeds < total)


@pytest.mark.parametrize("name", ["figure3", "figure4", "curvature", "figure5", "figure7"])
def test_a_figure_can_be_drawn_at_the_scale_of_the_paper(tmp_path, name):
    add(tmp_path, name, "paper", seeds=2)
    path = draw(name, "paper", tmp_path / "out", results=tmp_path)
    assert isinstance(path, Path)


@pytest.mark.parametrize("name", FIGURES)
def test_without_results_the_command_that_makes_them_is_named(tmp_path, name):
    experiment = FIGURES[name].experiment
    said = draw(name, "cpu", tmp_path / "out", results=tmp_path)
    assert str(said).endswith(f"python -m examples.experiments.run {experiment} --scale cpu")
    assert not (tmp_path / "out").exists()


def test_columns_without_results_and_runs_that_diverged_are_listed(tmp_path, made):
    add(tmp_path, "figure7", without=["MNIST"], diverged=["digits"])
    draw("figure7", "cpu", tmp_path / "out", results=tmp_path)
    text = caption(made[0])
    assert "0 of 12 seeds: MNIST; 12 seeds: digits." in text
    assert text.endswith("Diverged runs, which are not drawn: digits without GC 1.")
    assert "no seed" in [text.get_text() for text in made[0].axes[0].texts]


def test_captions_name_the_learning_rate_and_how_it_was_chosen(tmp_path, made):
    add(tmp_path, "figure7")
    add(tmp_path, "figure4")
    for name in ("figure7", "figure4"):
        draw(name, "cpu", tmp_path / "out", results=tmp_path)
    draw("figure7", "cpu", tmp_path / "out", results=RESULTS)
    new, observed, committed = map(caption, made)
    # The made-up validation accuracy is the same at every rate, so the lowest is chosen.
    assert "Learning rate: 0.01 (each arm's own)." in new
    assert "Learning rate: 0.1." in observed
    assert re.search(r"Learning rates?: .*\(each arm's own\)", committed)


def test_figure_7_shows_differences_that_are_paired_by_seed(tmp_path, made):
    add(tmp_path, "figure7", diverged=["digits"])
    draw("figure7", "cpu", tmp_path / "out", results=tmp_path)
    store = Store(results_path(tmp_path, "table4", "cpu"))
    for axes, column, seeds in zip(made[0].axes, COLUMNS, (12, 11), strict=True):
        arms = {"off": {}, "conv+fc": {}}
        for config in column.configs({arm: [0.01] * 12 for arm in column.arms}):
            if "curves" in (record := store.get(config) or {}):
                arms[config.gc][config.seed] = record["curves"]["test"]["accuracy"]
        both = arms["off"].keys() & arms["conv+fc"].keys()
        assert len(both) == seeds
        off, gc = ([arms[arm][seed] for seed in sorted(both)] for arm in column.arms)
        found: Any = stats.ttest_rel(gc, off)
        line, _, (bars,) = axes.containers[0].lines
        low, high = found.confidence_interval()
        np.testing.assert_allclose(line.get_ydata(), (low + high) / 2)
        np.testing.assert_allclose([bar[:, 1] for bar in bars.get_segments()], np.c_[low, high])


def test_figure_4_shows_ratios_of_runs_of_the_same_seed(tmp_path, made):
    add(tmp_path, "figure4")
    draw("figure4", "cpu", tmp_path / "out", results=tmp_path)
    for axes in made[0].axes:
        projection = [line for line in axes.lines if line.get_color() == OFF]
        # GC leaves 0.7 of each made-up gradient.
        assert len(projection) == 4
        for line in projection:
            np.testing.assert_allclose(line.get_ydata(), 0.7)
        (median,) = [line for line in axes.lines if line.get_label() in LEGENDS["figure4"]][1:]
        # Of the runs with GC, they are also smaller by a factor of e on average.
        assert np.median(np.log(median.get_ydata())) == pytest.approx(np.log(0.7) - 1, abs=0.1)


def test_figure_3_shows_by_what_factor_training_changes_the_means_of_each_layer(tmp_path, made):
    add(tmp_path, "figure3")
    draw("figure3", "cpu", tmp_path / "out", results=tmp_path)
    off, gc, _ = made[0].axes[1].lines
    # The made-up logarithms grow by 1 without GC, and not at all with it.
    np.testing.assert_allclose(off.get_ydata(), [10] * 4)
    np.testing.assert_allclose(gc.get_ydata(), [1] * 4)


def test_curves_are_means_with_one_standard_deviation(tmp_path, made):
    add(tmp_path, "figure6")
    draw("figure6", "cpu", tmp_path / "out", results=tmp_path)
    store = Store(results_path(tmp_path, "table3", "cpu"))
    column = next(c for c in EXPERIMENTS["table3"].columns["cpu"] if c.name == "R50GN")
    runs = [
        store.get(c)
        for c in column.configs({arm: column.rates[:1] * column.seeds for arm in column.arms})
        if c.gc == "conv"
    ]
    errors = 100 - np.array([run["curves"]["test"]["accuracy"] for run in runs if run])
    axes = made[0].axes[1]
    line = axes.lines[1]
    np.testing.assert_allclose(line.get_xdata(), [2, 4, 6, 8, 10])
    np.testing.assert_allclose(line.get_ydata(), errors.mean(0))
    edges = axes.collections[1].get_paths()[0].vertices[:, 1]
    assert edges.max() == pytest.approx((errors.mean(0) + errors.std(0, ddof=1)).max())


def test_spectral_norms_that_did_not_converge_are_counted(tmp_path, made):
    add(tmp_path, "curvature", seeds=1)
    draw("curvature", "cpu", tmp_path / "out", results=tmp_path)
    assert "1 of 22 pairs of spectral norms are lower bounds." in caption(made[0])


def test_a_damaged_file_is_named_and_the_old_picture_is_kept(tmp_path):
    add(tmp_path, "figure5")
    out = tmp_path / "out"
    path = draw("figure5", "cpu", out, results=tmp_path)
    assert isinstance(path, Path)
    before = path.read_bytes()
    with (tmp_path / "cpu" / "figure5.jsonl").open("a") as stream:
        stream.write('{"config": {}')
    with pytest.raises(ResultsError, match=r"figure5\.jsonl, line \d+: .*cut short"):
        draw("figure5", "cpu", out, results=tmp_path)
    assert [*out.iterdir()] == [path]
    assert path.read_bytes() == before


def test_a_result_without_a_value_that_is_shown_is_named(tmp_path):
    column = EXPERIMENTS["curvature"].columns["cpu"][0]
    add(tmp_path, "curvature", without=[column.name])
    for config in column.configs(None):
        Store(results_path(tmp_path, "curvature", "cpu")).add(config, {"step": [0], "seconds": 1.0})
    with pytest.raises(ResultsError, match=r"curvature\.jsonl: a result lacks 'gradient_norm'"):
        draw("curvature", "cpu", tmp_path / "out", results=tmp_path)


def test_no_half_written_picture_is_left(tmp_path, monkeypatch):
    def fail(self, path, **kwargs):
        path.write_bytes(b"half")
        raise OSError("the disk is full")

    add(tmp_path, "figure5")
    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="the disk is full"):
        draw("figure5", "cpu", tmp_path / "out", results=tmp_path)
    assert not [*(tmp_path / "out").iterdir()]


def test_the_error_for_an_unknown_figure_lists_the_known_ones():
    with pytest.raises(
        SettingError, match="no figure 'figure8' at --scale cpu; there are figure3, "
    ):
        Arguments(("figure8",))
    with pytest.raises(
        SettingError, match="no figure 'rates' at --scale paper; there are figure3, "
    ):
        Arguments(("rates",), scale="paper")
    assert set(Arguments().known) == FIGURES.keys()


def test_the_program_trains_nothing_and_needs_no_device(tmp_path):
    add(tmp_path, "figure5")
    # The backend does not exist, so everything that needs a device fails.
    program = f"""
import sys, pathlib
from examples.experiments import drawing, figures
figures.RESULTS = pathlib.Path({str(tmp_path)!r})
figures.main()
assert "examples.classification.task" not in sys.modules
"""
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, "figure5", "figure6"],
        env={**os.environ, "JAX_PLATFORMS": "none"},
        capture_output=True,
        check=False,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    figure5, figure6 = process.stdout.splitlines()
    assert figure5 == f"figure5: {tmp_path / 'cpu' / 'figures' / 'figure5.png'}"
    assert figure6.startswith("figure6: no seed has all its runs.")


def test_the_program_stops_with_one_line(tmp_path, monkeypatch):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "figure5.jsonl").write_text("no json\n")
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["figures", "figure5"])
    with pytest.raises(SystemExit, match=r"^stopped: .*figure5\.jsonl, line 1: ") as error:
        figures.main()
    assert "\n" not in str(error.value)
