"""Draws the paper's figures, and some more, from the results that exist. Nothing is trained.

    python -m examples.experiments.figures --help
    python -m examples.experiments.figures figure5 rates

The runs are made by `examples.experiments.run`.
"""

import dataclasses
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from examples.experiments.columns import Scale
from examples.experiments.definitions import EXPERIMENTS
from examples.experiments.outcomes import Outcome, gather
from examples.experiments.statistics import half_width, paired_difference
from examples.experiments.store import RESULTS, Record, ResultsError, Store, results_path
from examples.training.errors import SettingError, report_errors
from examples.training.files import replacing

# A colour has the same meaning in all figures. Colour-blind readers can tell these apart.
_GC: dict[str, Any] = {"label": "with GC", "color": "#0072b2"}
STYLES: dict[str, dict[str, Any]] = {
    "off": {"label": "without GC", "color": "#555555"},
    "conv": _GC,
    "conv+fc": _GC,
    "optax.centralize": {"label": "optax.centralize", "color": "#d55e00"},
}
_BAND = "Lines are means over seeds; bands are one standard deviation around them."
_SPAN = "Lines are medians over seeds; bands around solid lines are the range of all seeds."

# By the names of their columns, in the order of the definitions. Some may have no seeds.
Outcomes = dict[str, Outcome]


def figure3(outcomes: Outcomes) -> Figure:
    """|mean| of each weight vector of the convolutions, at the start and after training."""
    panels = [*_arms(outcomes)]
    figure = Figure(figsize=(9, 0.6 + 2.1 * len(panels)), layout="constrained")
    grid = figure.subplots(len(panels), 1, sharey=True, squeeze=False)[:, 0]
    for axes, (outcome, arm) in zip(grid, panels, strict=True):
        # Several seeds in one panel would hide one another.
        record, title = outcome.arms[arm][0], outcome.column.name
        dots: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 1.5, "mew": 0}
        means = 10 ** np.concatenate(record["before"])
        if "after" in record:
            title += f" {STYLES[arm]['label']}"
            axes.plot(means, color="#aaaaaa", **dots)
            means = 10 ** np.concatenate(record["after"])
        axes.plot(means, color=STYLES[arm]["color"], **dots)
        axes.axhline(np.exp(-7), color="black", linewidth=1.2, linestyle="--")
        share = f"{100 * np.mean(means < np.exp(-7)):.0f} % below $e^{{-7}}$"
        axes.set(title=f"{title}: {share}", ylabel="|mean|", yscale="log", xlim=(0, len(means)))
        # The stem, "conv1", is a stage, and so is all of "stages/0".
        stages = [name.split("/")[:2] for name in record["layers"]]
        sizes = np.cumsum([len(layer) for layer in record["before"]])
        ends = {str(stage): end for stage, end in zip(stages, sizes, strict=True)}
        for start, end in zip([*ends.values()][::2], [*ends.values()][1::2], strict=False):
            axes.axvspan(start, end, color="#f2f2f2", zorder=0)
    grid[-1].set_xlabel("weight vector index, from shallow to deep; every other stage is shaded")
    text = (
        "Absolute mean of each weight vector of the convolutions, for the first seed. The dashed line "
        "is $e^{-7}$. Light grey shows the same net at its start."
    )
    return _finish(figure, outcomes, text)


def figure4(outcomes: Outcomes) -> Figure:
    """Norm and largest value of the gradients of the first and the last layer, by iteration."""
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    (only,) = outcomes.values()
    off, gc = only.arms.values()
    projected = {**STYLES["off"], "label": "without GC, projected", "linestyle": "--", "alpha": 0.6}
    for row, (layer, name) in zip(
        figure.subplots(2, 2), (("conv1", "first convolution"), ("fc", "last layer")), strict=True
    ):
        for axes, key, what in zip(row, ("norm", "max"), ("$L_2$ norm", "max |g|"), strict=True):
            _by_iteration(axes, off, f"{layer}/kernel/{key}_before", **STYLES["off"])
            _by_iteration(axes, gc, f"{layer}/kernel/{key}_after", **_GC)
            # The projection's own effect, without the effect that GC had on the course of the run.
            _by_iteration(axes, off, f"{layer}/kernel/{key}_after", **projected)
            axes.set(title=f"gradient of the {name}, {what}", xlabel="iteration", yscale="log")
    text = "The gradients that the optimizer gets. Dashed: what GC would leave of the gradients without GC."
    return _finish(figure, outcomes, f"{text} {_SPAN}")


def figure5(outcomes: Outcomes) -> Figure:
    """Training loss and test accuracy with batch normalization and weight standardization."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    for outcome, arm in _arms(outcomes):
        line = "--" if outcome.column.config.weight_standardization else "-"
        style = {"label": outcome.column.name + "+GC" * (arm != "off"), "linestyle": line}
        _by_epoch(loss, outcome, arm, "train", "loss", **style)
        _by_epoch(accuracy, outcome, arm, "test", "accuracy", **style)
    loss.set(title="training loss", xlabel="epoch")
    accuracy.set(title="test accuracy, %", xlabel="epoch")
    return _finish(figure, outcomes, _BAND)


def figure6(outcomes: Outcomes) -> Figure:
    """Training and test error of ResNet-50 with group normalization."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    training, test = figure.subplots(1, 2)
    for outcome, arm in _arms(outcomes):
        _by_epoch(training, outcome, arm, "train", "error")
        _by_epoch(test, outcome, arm, "test", "error")
    training.set(title="training error, %", xlabel="epoch")
    test.set(title="test error, %", xlabel="epoch")
    return _finish(figure, outcomes, _BAND)


def figure7(outcomes: Outcomes) -> Figure:
    """Training and test accuracy of fine-tuned nets."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    grid = dict(zip(outcomes, figure.subplots(1, len(outcomes)), strict=True))
    for outcome, arm in _arms(outcomes):
        axes, name = grid[outcome.column.name], STYLES[arm]["label"]
        _by_epoch(axes, outcome, arm, "train", "accuracy", label=f"training {name}")
        _by_epoch(axes, outcome, arm, "test", "accuracy", label=f"test {name}", linestyle=":")
    for name, axes in grid.items():
        axes.set(title=f"{name}: accuracy, %", xlabel="epoch")
        if not outcomes[name].seeds:
            axes.set_axis_off()
            axes.text(0.5, 0.5, "no seed", ha="center", transform=axes.transAxes)
    return _finish(figure, outcomes, _BAND)


def curvature(outcomes: Outcomes) -> Figure:
    """Both sides of Proposition 4.2 along training, in runs without and with GC."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    gradient, hessian = figure.subplots(1, 2)
    (only,) = outcomes.values()
    for arm, records in only.arms.items():
        name = STYLES[arm]["label"]
        projected = {**STYLES[arm], "label": f"{name}, projected", "linestyle": "--"}
        for axes, side in ((gradient, "gradient_norm"), (hessian, "hessian_norm")):
            _by_iteration(axes, records, side, **STYLES[arm])
            _by_iteration(axes, records, f"{side}_gc", **projected)
    gradient.set(title="gradient, $L_2$ norm", xlabel="iteration", yscale="log")
    hessian.set(title="Hessian, spectral norm", xlabel="iteration", yscale="log")
    text = "Both sides of Proposition 4.2. Dashed: what GC leaves of the gradient and the Hessian."
    found = [each for records in only.arms.values() for r in records for each in r["converged"]]
    if not all(found):
        text += f" {found.count(False)} of {len(found)} pairs of spectral norms are lower bounds."
    return _finish(figure, outcomes, f"{text} {_SPAN}")


def rates(outcomes: Outcomes) -> Figure:
    """Test accuracy by learning rate."""
    return _by_setting(outcomes, "learning_rate")


def images(outcomes: Outcomes) -> Figure:
    """Test accuracy by the number of training images."""
    return _by_setting(outcomes, "train_images")


def _by_setting(outcomes: Outcomes, field: str) -> Figure:
    """Draws the accuracy and, below it, the paired difference, for each kind of normalization."""
    norms = dict.fromkeys(outcome.column.config.norm for outcome in outcomes.values())
    figure = Figure(figsize=(1 + 5 * len(norms), 6.4), layout="constrained")
    grid = figure.subplots(2, len(norms), sharex="col", sharey="row", squeeze=False)
    for (above, below), norm in zip(grid.T, norms, strict=True):
        shown = [outcome for outcome in outcomes.values() if outcome.column.config.norm == norm]
        done = [outcome for outcome in shown if outcome.seeds]
        for place, arm in enumerate(shown[0].column.arms):
            # The points are shifted a little, so that no interval hides another.
            at = [getattr(outcome.column.config, field) * 1.04 ** (place - 1) for outcome in done]
            style = {**STYLES[arm], "marker": "o", "markersize": 4, "capsize": 3}
            values = [outcome.values(arm, "test_accuracy") for outcome in done]
            above.errorbar(at, [v.mean() for v in values], [half_width(v) for v in values], **style)
            if arm != "off":
                base = [outcome.values("off", "test_accuracy") for outcome in done]
                found = [paired_difference(*pair) for pair in zip(values, base, strict=True)]
                means, halves = [d.mean for d in found], [d.half_width for d in found]
                below.errorbar(at, means, halves, **style)
        below.axhline(0, color=STYLES["off"]["color"], linewidth=0.8)
        above.set(title={"gn": "group normalization", "bn": "batch normalization"}[norm])
        below.set(xlabel=_words(field), xscale="log")
        settings = [getattr(outcome.column.config, field) for outcome in shown]
        below.set_xlim(settings[0] / 1.3, settings[-1] * 1.3)  # of all settings, finished or not
        below.set_xticks(settings, [f"{x:g}" for x in settings])
        below.minorticks_off()
    grid[0, 0].set_ylabel("test accuracy, %")
    grid[1, 0].set_ylabel("difference to no GC, points")
    text = "Mean over seeds and its 95 % interval by Student's t; differences are paired by seed."
    if max(np.abs(grid[1, 0].get_ylim())) > 20:
        # A setting at which only one arm fails would press all others onto one line.
        grid[1, 0].set_yscale("symlog", linthresh=5)
        ticks = (-50, -20, -10, -5, -2, 0, 2, 5, 10, 20, 50)
        grid[1, 0].yaxis.set_major_locator(FixedLocator(ticks))
        grid[1, 0].yaxis.set_major_formatter("{x:g}")
        grid[1, 0].minorticks_off()
        grid[1, 0].autoscale(axis="y")
        text += " Their axis is logarithmic beyond 5 points."
    return _finish(figure, outcomes, text)


def _arms(outcomes: Outcomes) -> Iterator[tuple[Outcome, str]]:
    """Yields each outcome and arm that has something to draw."""
    return (
        (outcome, arm) for outcome in outcomes.values() if outcome.seeds for arm in outcome.arms
    )


def _by_epoch(axes: Axes, outcome: Outcome, arm: str, kind: str, name: str, **style: Any) -> None:
    """Draws a metric by epoch: the mean over seeds, and one standard deviation around it."""
    epoch, values = outcome.curve(arm, kind, name.replace("error", "accuracy"))
    if name == "error":
        values = 100 - values
    # Dots mark the evaluations, since the line between them was not measured.
    marker, mean = "o" if kind == "test" else "", values.mean(0)
    axes.plot(epoch, mean, **{**STYLES[arm], "marker": marker, "markersize": 2.5, **style})
    if len(values) > 1:
        low, high = mean - values.std(0, ddof=1), mean + values.std(0, ddof=1)
        axes.fill_between(epoch, low, high, color=STYLES[arm]["color"], alpha=0.15, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=(1, 2, 5, 10)))


def _by_iteration(axes: Axes, records: list[Record], name: str, **style: Any) -> None:
    """Draws a series of each result: the median over seeds, and the range of all seeds."""
    values = np.asarray([record[name] for record in records])
    steps = np.asarray(records[0].get("step", range(values.shape[1])))
    # A picture cannot show more than about 1000 points.
    every = -(-len(steps) // 1000)
    steps, values = steps[::every], values[:, ::every]
    axes.plot(steps, np.median(values, 0), linewidth=1.2, **style)
    # Two bands on top of each other would hide both.
    if "linestyle" not in style:
        span = values.min(0), values.max(0)
        axes.fill_between(steps, *span, color=style["color"], alpha=0.2, linewidth=0)


def _finish(figure: Figure, outcomes: Outcomes, text: str) -> Figure:
    """Adds a legend above, and a caption below that says what is drawn, from which runs and seeds."""
    found = [axes.get_legend_handles_labels() for axes in figure.axes]
    handles = {name: handle for pair in found for handle, name in zip(*pair, strict=True)}
    if handles:
        place: dict[str, Any] = {"loc": "outside upper center", "ncols": 4, "frameon": False}
        figure.legend([*handles.values()], [*handles], **place)
    text = f"{text} {_settings(outcomes)}. {_seeds(outcomes)}.{_diverged(outcomes)}"
    lines = textwrap.wrap(text, int(17 * figure.get_figwidth()))
    figure.supxlabel("\n".join(lines), fontsize=8, x=0.01, ha="left")
    return figure


def _words(field: str) -> str:
    return field.replace("train_", "training_").replace("_", " ")


def _settings(outcomes: Outcomes) -> str:
    """Returns a phrase with the settings that all columns share."""
    configs = [dataclasses.asdict(outcome.column.config) for outcome in outcomes.values()]
    fields = ("model", "width", "dataset", "train_images", "batch_size", "epochs")
    shared = [field for field in fields if len({config[field] for config in configs}) == 1]
    named = (f"{_words(f)} {configs[0][f]}" for f in shared if configs[0][f] is not None)
    return "Runs: " + ", ".join(named)


def _seeds(outcomes: Outcomes) -> str:
    """Returns a phrase with the number of seeds, such as "7 of 10 seeds" if some are missing."""
    columns: dict[str, list[str]] = {}
    for name, outcome in outcomes.items():
        total = outcome.column.seeds
        text = (
            f"{outcome.seeds} of " * (outcome.seeds < total) + f"{total} seed" + "s" * (total > 1)
        )
        columns.setdefault(text, []).append(name)
    if len(columns) == 1:
        return next(iter(columns))
    return "; ".join(f"{text}: {', '.join(names)}" for text, names in columns.items())


def _diverged(outcomes: Outcomes) -> str:
    found = [
        f"{name} {STYLES[arm]['label']} {count}"
        for name, outcome in outcomes.items()
        for arm, count in outcome.diverged.items()
        if count
    ]
    return (
        f" Diverged runs, whose seeds are missing from all arms: {', '.join(found)}."
        if found
        else ""
    )


class _Picture(NamedTuple):
    """The experiment, or the one column of it, from which a figure is drawn."""

    make: Callable[[Outcomes], Figure]
    experiment: str
    column: str | None = None


FIGURES = {
    "figure3": _Picture(figure3, "figure3"),
    "figure4": _Picture(figure4, "figure4"),
    "figure5": _Picture(figure5, "figure5"),
    "figure6": _Picture(figure6, "table3", "R50GN"),
    "figure7": _Picture(figure7, "table4"),
    "curvature": _Picture(curvature, "curvature"),
    "rates": _Picture(rates, "rates"),
    "images": _Picture(images, "images"),
}


def draw(name: str, scale: Scale, out: Path, *, results: Path) -> Path | str:
    """Draws a figure into a folder; returns its path, or the reason why there is none.

    Raises:
      ResultsError: results cannot be read, or lack what the figure shows.
      OSError: the picture cannot be written; an old one is unchanged.
    """
    make, experiment, only = FIGURES[name]
    store = Store(results_path(results, experiment, scale))
    columns = EXPERIMENTS[experiment].columns[scale]
    outcomes = {c.name: gather(c, store) for c in columns if only in (None, c.name)}
    if not any(outcome.seeds for outcome in outcomes.values()):
        command = f"python -m examples.experiments.run {experiment} --scale {scale}"
        return f"no seed has all its runs.{_diverged(outcomes)} Make them with {command}"
    try:
        figure = make(outcomes)
    except KeyError as error:
        raise ResultsError(f"{store.path}: a result lacks {error}, which {name} shows") from error
    path = out / f"{name}.png"
    out.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        figure.savefig(part, dpi=120)
    return path


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Draws figures from the results that exist."""

    figures: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Any of figure3 to figure7, curvature, rates and images. By default, all that the scale has."""
    scale: Scale = "cpu"
    """The scale of the runs."""
    out: Path | None = None
    """The folder of the pictures. By default, it is examples/experiments/results/SCALE/figures."""

    def __post_init__(self):
        for name in self.figures:
            if name not in self.known:
                known = ", ".join(self.known)
                raise SettingError(f"no figure {name!r} at --scale {self.scale}; there are {known}")

    @property
    def known(self) -> list[str]:
        """The figures of the scale."""
        return [n for n, p in FIGURES.items() if self.scale in EXPERIMENTS[p.experiment].columns]


def main() -> None:
    command = "python -m examples.experiments.figures"
    with report_errors("stopped"):
        arguments = tyro.cli(Arguments, prog=command, description=__doc__)
        out = arguments.out or RESULTS / arguments.scale / "figures"
        for name in arguments.figures or arguments.known:
            print(f"{name}: {draw(name, arguments.scale, out, results=RESULTS)}")


if __name__ == "__main__":
    main()
