"""Draws the paper's figures, and one more, from the results that exist."""

import dataclasses
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.ndimage import uniform_filter1d

from examples.experiments.columns import Scale
from examples.experiments.definitions import EXPERIMENTS
from examples.experiments.outcomes import Outcome, gather
from examples.experiments.statistics import half_width
from examples.experiments.store import Record, ResultsError, Store, results_path
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
_INTERVAL = "Lines are mean differences, paired by seed; the band and the bars are their 95 % intervals by Student's t."
_SPAN = "Lines are medians over seeds; bands around solid lines are the range of all seeds."

# The number of iterations over which the ratios of Figure 4 are averaged.
_SMOOTHED = 9

# By the names of their columns, in the order of the definitions. Some may have no seeds.
Outcomes = dict[str, Outcome]


def figure3(outcomes: Outcomes) -> Figure:
    """|mean| of each weight vector of the convolutions at the start, and how much training changes it."""
    panels = [outcome for outcome in outcomes.values() if outcome.seeds]
    figure = Figure(figsize=(9, 0.8 + 2.6 * len(panels)), layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axes, outcome in zip(grid, panels, strict=True):
        if "after" in next(iter(outcome.arms.values()))[0]:
            _draw_changes(axes, outcome)
        else:
            _draw_means(axes, outcome)
    text = (
        "Dots: the absolute mean of each weight vector of the convolutions; dashed: $e^{-7}$. Lines: by "
        "what factor training changes it, the median over the vectors of a layer and over seeds."
    )
    return _finish(figure, outcomes, text)


def _draw_means(axes: Axes, outcome: Outcome) -> None:
    """Draws the absolute mean of each weight vector of the first seed."""
    (arm, (record, *_)), *_ = outcome.arms.items()
    means = 10 ** np.concatenate(record["before"])
    axes.plot(means, linestyle="", marker="o", markersize=1.5, mew=0, color=STYLES[arm]["color"])
    axes.axhline(np.exp(-7), color="black", linewidth=1.2, linestyle="--")
    share = f"{100 * np.mean(means < np.exp(-7)):.0f} % below $e^{{-7}}$"
    axes.set(title=f"{outcome.column.name}: {share}", yscale="log", xlim=(0, len(means)))
    axes.set(
        ylabel="|mean|", xlabel="weight vector, from shallow to deep; every other stage is shaded"
    )
    # The stem, "conv1", is a stage, and so is all of "stages/0".
    stages = [name.split("/")[:2] for name in record["layers"]]
    sizes = np.cumsum([len(layer) for layer in record["before"]])
    ends = {str(stage): end for stage, end in zip(stages, sizes, strict=True)}
    for low, high in zip([*ends.values()][::2], [*ends.values()][1::2], strict=False):
        axes.axvspan(low, high, color="#f2f2f2", zorder=0)


def _draw_changes(axes: Axes, outcome: Outcome) -> None:
    """Draws by what factor training changes the absolute means of each layer, for each arm."""
    for arm, records in outcome.arms.items():
        factors = [
            [np.median(np.subtract(*layer)) for layer in zip(r["after"], r["before"], strict=True)]
            for r in records
        ]
        axes.plot(10 ** np.median(factors, 0), marker="o", markersize=3, **STYLES[arm])
    axes.axhline(1, color="black", linewidth=0.8, zorder=1)
    axes.set(title=f"{outcome.column.name}: |mean| after training, divided by that at the start")
    axes.set(yscale="log", ylabel="factor", xlabel="convolution, from shallow to deep")


def figure4(outcomes: Outcomes) -> Figure:
    """How GC changes the size of the gradients of the first and the last layer, by iteration."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    (only,) = outcomes.values()
    off, gc = only.arms.values()
    projection = {"label": "GC on the gradients of the run without GC", "color": "#555555"}
    runs = {"label": "run with GC, to the run without", "color": _GC["color"]}
    for row, (layer, name) in zip(
        figure.subplots(2, 2, sharex=True, sharey=True),
        (("conv1", "first convolution"), ("fc", "last layer")),
        strict=True,
    ):
        for axes, key, what in zip(row, ("norm", "max"), ("$L_2$ norm", "max |g|"), strict=True):
            before, after = f"{layer}/kernel/{key}_before", f"{layer}/kernel/{key}_after"
            # The projection's own effect, without the effect that GC had on the course of the run.
            _by_ratio(axes, off, off, (after, before), **projection)
            _by_ratio(axes, gc, off, (after, before), **runs)
            axes.axhline(1, color="black", linewidth=0.8)
            axes.set(title=f"gradient of the {name}, {what}", yscale="log")
    for axes in figure.axes[2:]:
        axes.set_xlabel("iteration")
    for axes in figure.axes[::2]:
        axes.set_ylabel("ratio")
    text = (
        "The size of the gradients that the optimizer gets with GC, divided by the size without: of two "
        "runs with the same seed, and of the same gradient. Thin lines are seeds and thick lines their "
        f"median, as geometric means over {_SMOOTHED} iterations."
    )
    return _finish(figure, outcomes, text)


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
    """The difference of training and test accuracy that GC makes to fine-tuned nets."""
    figure = Figure(figsize=(1 + 4 * len(outcomes), 3.6), layout="constrained")
    panels = figure.subplots(1, len(outcomes), squeeze=False)[0]
    for axes, (name, outcome) in zip(panels, outcomes.items(), strict=True):
        axes.set(title=f"{name}: accuracy, with GC minus without, points", xlabel="epoch")
        if not outcome.seeds:
            axes.set_axis_off()
            axes.text(0.5, 0.5, "no seed", ha="center", transform=axes.transAxes)
            continue
        _by_difference(axes, outcome, "train", label="training", color="#e69f00")
        _by_difference(axes, outcome, "test", label="test", color=_GC["color"])
        axes.axhline(0, color="black", linewidth=0.8)
    return _finish(figure, outcomes, _INTERVAL)


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
    values = values[~np.isnan(values).any(1)]
    # Dots mark the evaluations, since the line between them was not measured.
    marker, mean = "o" if kind == "test" else "", values.mean(0)
    axes.plot(epoch, mean, **{**STYLES[arm], "marker": marker, "markersize": 2.5, **style})
    if len(values) > 1:
        low, high = mean - values.std(0, ddof=1), mean + values.std(0, ddof=1)
        axes.fill_between(epoch, low, high, color=STYLES[arm]["color"], alpha=0.15, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=(1, 2, 5, 10)))


def _by_difference(axes: Axes, outcome: Outcome, kind: str, *, label: str, color: str) -> None:
    """Draws the paired difference of an accuracy by epoch, and its 95 % interval."""
    base, arm = outcome.column.arms
    epoch, off = outcome.curve(base, kind, "accuracy")
    difference = outcome.curve(arm, kind, "accuracy")[1] - off
    difference = difference[~np.isnan(difference).any(1)]
    mean = difference.mean(0)
    half = np.asarray([half_width(values) for values in difference.T])
    if kind == "test":
        axes.errorbar(
            epoch, mean, half, color=color, label=label, marker="o", markersize=3, capsize=3
        )
    else:
        axes.plot(epoch, mean, color=color, label=label)
        axes.fill_between(epoch, mean - half, mean + half, color=color, alpha=0.2, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=(1, 2, 5, 10)))


def _by_ratio(
    axes: Axes,
    arm: list[Record],
    base: list[Record],
    names: tuple[str, str],
    *,
    label: str,
    color: str,
) -> None:
    """Draws the smoothed ratio of a series of one arm to a series of another, seed by seed."""
    pairs = [(own[names[0]], other[names[1]]) for own, other in zip(arm, base, strict=True)]
    logs = np.asarray([np.log(np.divide(*pair)) for pair in pairs])
    smooth = np.exp(uniform_filter1d(logs, _SMOOTHED, axis=1, mode="nearest"))
    for values in smooth:
        axes.plot(values, color=color, linewidth=0.6, alpha=0.4)
    axes.plot(np.exp(np.median(np.log(smooth), 0)), color=color, linewidth=1.8, label=label)


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
    text = f"{text} {_settings(outcomes)}. {_rates(outcomes)}. {_seeds(outcomes)}."
    text += _diverged(outcomes)
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


def _rates(outcomes: Outcomes) -> str:
    """Returns a phrase with the learning rates of the runs, and how they were chosen."""
    found: dict[str, list[str]] = {}
    for name, outcome in outcomes.items():
        chosen = [rate for rates in outcome.rates.values() for rate in rates]
        rates = sorted(set(chosen)) or [outcome.column.config.learning_rate]
        text = " or ".join(f"{rate:g}" for rate in rates)
        if chosen:
            text += " (each arm's own)"
        found.setdefault(text, []).append(name)
    if len(found) == 1:
        return f"Learning rate: {next(iter(found))}"
    return "Learning rates: " + "; ".join(f"{', '.join(v)} {k}" for k, v in found.items())


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
    return f" Diverged runs, which are not drawn: {', '.join(found)}." if found else ""


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
