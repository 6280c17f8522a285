"""The picture of the sweep: where GC helps, by the learning rate, and by how much when tuned."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from examples.experiments.statistics import MARGIN, combine
from examples.experiments.sweep.arms import CONTROLS
from examples.experiments.sweep.findings import Finding
from examples.experiments.sweep.rates import show_ratio
from examples.experiments.sweep.tasks import NORM_LABELS

# Colors that color-blind readers can tell apart (Okabe and Ito).
COLORS = {
    "none": "#D55E00",
    "layer": "#0072B2",
    "rms": "#56B4E9",
    "batch": "#009E73",
    "groups of two": "#CC79A7",
    "one group": "#E69F00",
}
# The share of the tasks that must have a rate for a mean to be shown at it.
_MOST = 0.8
_MARKS = {"random_direction": "D", "scaled_length": "s", "optax_centralize": "^"}
_CONTROL_LABELS = {
    "random_direction": "random direction",
    "scaled_length": "scaled length",
    "optax_centralize": "optax.centralize",
}


def signed(value: float, _position: object) -> str:
    """Returns the text of a tick: a number with its sign, and 0 without one."""
    return f"{value:+g}" if value else "0"


def draw(findings: list[Finding]) -> Figure:
    """Draws the picture.

    Left: the difference of the test error at each rate, a line for each task, and the random-effects
    mean over the tasks with its 95 % interval, at the rates that most tasks have. Right: the difference when both arms are tuned, a row
    for each task, with its 95 % interval, the controls, and the prediction for a new task.

    Args:
      findings: those of at least one task.
    """
    height = max(4.5, 1.8 + 0.26 * len(findings))
    figure = Figure(figsize=(13, height), layout="constrained")
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": (1, 1.15)})
    _draw_rates(left, findings)
    _draw_tuned(right, findings)
    return figure


def _draw_rates(axes: Axes, findings: list[Finding]) -> None:
    for finding in findings:
        points = finding.effects.by_rate
        axes.plot(
            [point.offset for point in points],
            [point.difference.mean for point in points],
            color=COLORS[finding.effects.task.norm],
            linewidth=1,
            alpha=0.6,
        )
    offsets, means, lows, highs = [], [], [], []
    for offset in sorted({point.offset for one in findings for point in one.effects.by_rate}):
        differences = [
            one.effects.seeds_by_rate[i]
            for one in findings
            for i, point in enumerate(one.effects.by_rate)
            if point.offset == offset
        ]
        # Elsewhere the mean would be one over other tasks.
        if len(differences) >= max(3, _MOST * len(findings)):
            mean = combine(differences)
            offsets.append(offset)
            means.append(mean.mean)
            lows.append(mean.low)
            highs.append(mean.high)
    axes.fill_between(offsets, lows, highs, color="black", alpha=0.15, linewidth=0)
    axes.plot(offsets, means, color="black", linewidth=2)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.axvline(0, color="black", linewidth=0.8, linestyle=":")
    axes.set_yscale("symlog", linthresh=1)
    axes.yaxis.set_major_formatter(signed)
    ticks = sorted({point.offset for one in findings for point in one.effects.by_rate})
    axes.set_xticks(ticks, [show_ratio(tick) for tick in ticks])
    axes.set_xlabel("learning rate, divided by the best rate without GC")
    axes.set_ylabel("test error, with GC minus without, points (below 0 GC helps)")
    axes.set_title("The same rate for both")
    norms = [norm for norm in COLORS if any(one.effects.task.norm == norm for one in findings)]
    handles = [Line2D([], [], color=COLORS[norm], label=NORM_LABELS[norm]) for norm in norms]
    handles.append(Line2D([], [], color="black", linewidth=2, label="mean over tasks, 95 %"))
    axes.legend(handles=handles, fontsize=8, frameon=False, loc="lower left")


def _draw_tuned(axes: Axes, findings: list[Finding]) -> None:
    rows = sorted(findings, key=lambda one: one.effects.difference.mean, reverse=True)
    spans = []
    if len(findings) >= 3:
        mean = combine([one.effects.differences for one in findings])
        spans = [
            axes.axvspan(low, high, color="black", alpha=alpha, linewidth=0, label=label)
            for low, high, alpha, label in (
                (mean.low, mean.high, 0.15, "mean over tasks, 95 %"),
                (mean.new_low, mean.new_high, 0.06, "prediction for a new task, 95 %"),
            )
        ]
    for edge in (-MARGIN, MARGIN):
        axes.axvline(edge, color="black", linewidth=0.6, linestyle=":")
    axes.axvline(0, color="black", linewidth=0.8)
    for row, one in enumerate(rows):
        difference, color = one.effects.difference, COLORS[one.effects.task.norm]
        axes.errorbar(
            difference.mean, row, xerr=difference.half_width, color=color, fmt="o", markersize=5
        )
        for arm in CONTROLS:
            axes.plot(
                one.effects.controls[arm][0].mean,
                row,
                _MARKS[arm],
                color="gray",
                fillstyle="none",
                markersize=4,
                markeredgewidth=0.8,
            )
    names = [
        f"{one.effects.task.name} {'*' if one.verdict in ('helps', 'hurts') else ' '}"
        for one in rows
    ]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.set_xscale("symlog", linthresh=1)
    axes.xaxis.set_major_formatter(signed)
    axes.set_xlabel("test error, with GC minus without, points (below 0 GC helps)")
    axes.set_title("Both tuned in the same way (* p < 0.05 after Holm's correction)")
    handles = [Line2D([], [], color="black", marker="o", label="GC, 95 % interval")]
    handles += [
        Line2D(
            [], [], color="gray", marker=_MARKS[arm], fillstyle="none", linestyle="", label=label
        )
        for arm, label in _CONTROL_LABELS.items()
    ]
    # Below the panel, because every corner has results.
    axes.legend(
        handles=[*handles, *spans],
        fontsize=8,
        frameon=False,
        ncols=3,
        loc="upper center",
        bbox_to_anchor=(0.4, -0.045),
    )
