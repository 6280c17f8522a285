"""The figures are drawn from made-up results. No net is trained."""

import os
import subprocess
import sys
import zlib
from pathlib import Path

import matplotlib.colors
import numpy as np
import pytest
from matplotlib.figure import Figure

from examples.classification.config import Config
from examples.experiments import figures
from examples.experiments.columns import Column, Scale
from examples.experiments.definitions import EXPERIMENTS
from examples.experiments.figures import FIGURES, Arguments, draw
from examples.experiments.store import Record, ResultsError, Store, results_path
from examples.training.errors import SettingError

OFF, GC, OPTAX = "#555555", "#0072b2", "#d55e00"
LEGENDS = {
    "figure3": {},
    "figure4": {"without GC": OFF, "with GC": GC, "without GC, projected": OFF},
    "figure5": {"BN": OFF, "BN+GC": GC, "BN+WS": OFF, "BN+WS+GC": GC},
    "figure6": {"without GC": OFF, "with GC": GC},
    "figure7": {
        "training without GC": OFF,
        "test without GC": OFF,
        "training with GC": GC,
        "test with GC": GC,
    },
    "curvature": {
        "without GC": OFF,
        "without GC, projected": OFF,
        "with GC": GC,
        "with GC, projected": GC,
    },
    "rates": {"without GC": OFF, "with GC": GC, "optax.centralize": OPTAX},
    "images": {"without GC": OFF, "with GC": GC, "optax.centralize": OPTAX},
}


def add(results: Path, name: str, scale: Scale = "cpu", *, seeds=99, without=(), diverged=()):
    """Makes up the results of a figure, for some seeds and columns. The first seeds may diverge."""
    experiment = FIGURES[name].experiment
    store = Store(results_path(results, experiment, scale))
    store.path.parent.mkdir(parents=True, exist_ok=True)
    for column in EXPERIMENTS[experiment].columns[scale]:
        if column.name not in without:
            for config in column.grid_configs():
                store.add(config, {"test_accuracy": 50.0, "seconds": 1.0})
            rate = column.rates[0] if column.rates else column.config.learning_rate
            decay = column.decays[0] if column.decays else column.config.weight_decay
            for config in column.configs(rate, decay):
                if config.seed == 0 and config.gc == "off" and column.name in diverged:
                    store.add(config, {"diverged": "epoch 1: the loss is nan", "seconds": 1.0})
                elif config.seed < seeds:
                    store.add(config, {**result(column, config), "seconds": 1.0})


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
    finish = figures._finish
    monkeypatch.setattr(figures, "_finish", lambda *args: kept.append(finish(*args)) or kept[-1])
    return kept


def caption(figure: Figure) -> str:
    return " ".join(figure.get_supxlabel().split())


@pytest.mark.parametrize("seeds", [1, 99])
@pytest.mark.parametrize("name", FIGURES)
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


def test_columns_without_a_seed_and_seeds_that_diverged_are_listed(tmp_path, made):
    add(tmp_path, "figure7", seeds=2, without=["MNIST"], diverged=["digits"])
    add(tmp_path, "rates", seeds=7, without=["BN 1"], diverged=["GN 1"])
    for name in ("figure7", "rates"):
        draw(name, "cpu", tmp_path / "out", results=tmp_path)
    tuned, rates = made
    assert (
        "0 of 10 seeds: MNIST; 1 of 10 seeds: digits; 2 of 10 seeds: Fashion 5-9, Fashion 0-4. "
        "Diverged runs, whose seeds are missing from all arms: digits without GC 1."
    ) in caption(tuned)
    assert "no seed" in [text.get_text() for text in tuned.axes[0].texts]
    assert "0 of 10 seeds: BN 1." in caption(rates)
    assert "6 of 10 seeds: GN 1;" in caption(rates)
    assert caption(rates).endswith("GN 1 without GC 1.")


def test_it_is_reported_if_all_seeds_diverged(tmp_path):
    add(tmp_path, "figure6", seeds=1, diverged=["R50GN"])
    said = draw("figure6", "cpu", tmp_path / "out", results=tmp_path)
    assert "Diverged" in str(said)
    assert "R50GN without GC 1" in str(said)


def test_an_arm_that_fails_does_not_hide_the_others(tmp_path, made):
    add(tmp_path, "images", seeds=3, without=["GN 100"])
    column = EXPERIMENTS["images"].columns["cpu"][0]
    store = Store(results_path(tmp_path, "images", "cpu"))
    for config in column.configs(column.config.learning_rate, column.config.weight_decay):
        store.add(config, {"test_accuracy": 10.0 if config.gc == "off" else 80.0, "seconds": 1.0})
    draw("images", "cpu", tmp_path / "out", results=tmp_path)
    assert made[0].axes[2].get_yscale() == made[0].axes[3].get_yscale() == "symlog"
    assert "Their axis is logarithmic beyond 5 points." in caption(made[0])


def test_curves_are_means_with_one_standard_deviation(tmp_path, made):
    add(tmp_path, "figure6")
    draw("figure6", "cpu", tmp_path / "out", results=tmp_path)
    store = Store(results_path(tmp_path, "table3", "cpu"))
    column = next(c for c in EXPERIMENTS["table3"].columns["cpu"] if c.name == "R50GN")
    runs = [
        store.get(c) for c in column.configs(column.rates[0], column.decays[0]) if c.gc == "conv"
    ]
    errors = 100 - np.array([run["curves"]["test"]["accuracy"] for run in runs if run])
    axes = made[0].axes[1]
    line = axes.lines[1]
    np.testing.assert_allclose(line.get_xdata(), [2, 4, 6, 8, 10])
    np.testing.assert_allclose(line.get_ydata(), errors.mean(0))
    edges = axes.collections[1].get_paths()[0].vertices[:, 1]
    assert edges.max() == pytest.approx((errors.mean(0) + errors.std(0, ddof=1)).max())


def test_intervals_are_those_of_the_paired_difference(tmp_path, made):
    add(tmp_path, "images", seeds=3)
    draw("images", "cpu", tmp_path / "out", results=tmp_path)
    store = Store(results_path(tmp_path, "images", "cpu"))
    column = EXPERIMENTS["images"].columns["cpu"][0]
    arms = {"off": [], "conv+fc": [], "optax.centralize": []}
    for config in column.configs(column.config.learning_rate, column.config.weight_decay):
        if record := store.get(config):
            arms[config.gc].append(record["test_accuracy"])
    difference = np.subtract(arms["conv+fc"], arms["off"])
    line, _, (bars,) = made[0].axes[2].containers[0].lines
    assert line.get_ydata()[0] == pytest.approx(difference.mean())
    low, high = bars.get_segments()[0][:, 1]
    # Student's t for 2 degrees of freedom.
    assert (high - low) / 2 == pytest.approx(4.3027 * difference.std(ddof=1) / 3**0.5, rel=1e-4)


def test_spectral_norms_that_did_not_converge_are_counted(tmp_path, made):
    add(tmp_path, "curvature", seeds=1)
    draw("curvature", "cpu", tmp_path / "out", results=tmp_path)
    assert "1 of 22 pairs of spectral norms are lower bounds." in caption(made[0])


def test_a_damaged_file_is_named_and_the_old_picture_is_kept(tmp_path):
    add(tmp_path, "images")
    out = tmp_path / "out"
    path = draw("images", "cpu", out, results=tmp_path)
    assert isinstance(path, Path)
    before = path.read_bytes()
    with (tmp_path / "cpu" / "images.jsonl").open("a") as stream:
        stream.write('{"config": {}')
    with pytest.raises(ResultsError, match=r"images\.jsonl, line \d+: .*cut short"):
        draw("images", "cpu", out, results=tmp_path)
    assert [*out.iterdir()] == [path]
    assert path.read_bytes() == before


def test_a_result_without_a_value_that_is_shown_is_named(tmp_path):
    column = EXPERIMENTS["curvature"].columns["cpu"][0]
    add(tmp_path, "curvature", without=[column.name])
    for config in column.configs(column.config.learning_rate, column.config.weight_decay):
        Store(results_path(tmp_path, "curvature", "cpu")).add(config, {"step": [0], "seconds": 1.0})
    with pytest.raises(ResultsError, match=r"curvature\.jsonl: a result lacks 'gradient_norm'"):
        draw("curvature", "cpu", tmp_path / "out", results=tmp_path)


def test_no_half_written_picture_is_left(tmp_path, monkeypatch):
    def fail(self, path, **kwargs):
        path.write_bytes(b"half")
        raise OSError("the disk is full")

    add(tmp_path, "images", seeds=1)
    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="the disk is full"):
        draw("images", "cpu", tmp_path / "out", results=tmp_path)
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
    add(tmp_path, "figure5", seeds=2)
    # The backend does not exist, so everything that needs a device fails.
    program = f"""
import sys, pathlib
from examples.experiments import figures
figures.RESULTS = pathlib.Path({str(tmp_path)!r})
figures.main()
assert "examples.classification.task" not in sys.modules
"""
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, "figure5", "rates"],
        env={**os.environ, "JAX_PLATFORMS": "none"},
        capture_output=True,
        check=False,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    figure5, rates = process.stdout.splitlines()
    assert figure5 == f"figure5: {tmp_path / 'cpu' / 'figures' / 'figure5.png'}"
    assert rates.startswith("rates: no seed has all its runs.")


def test_the_program_stops_with_one_line(tmp_path, monkeypatch):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "images.jsonl").write_text("no json\n")
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["figures", "images"])
    with pytest.raises(SystemExit, match=r"^stopped: .*images\.jsonl, line 1: ") as error:
        figures.main()
    assert "\n" not in str(error.value)
