"""The picture of what the first batch tells: the share that GC removes, and what GC changes."""

import numpy as np
from matplotlib.figure import Figure

from examples.experiments.statistics import rank_correlation
from examples.experiments.sweep.figure import COLORS, signed
from examples.experiments.sweep.findings import Finding
from examples.experiments.sweep.rates import show_ratio
from examples.experiments.sweep.tasks import NORM_LABELS


def draw_shares(findings: list[Finding]) -> Figure:
    """Draws two panels with a dot for each task: the difference, and the largest stable rate.

    Args:
      findings: those of at least one task.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    effects = [finding.effects for finding in findings]
    known = [one for one in effects if one.stable is not None]
    panels = (
        (left, effects, [one.difference.mean for one in effects]),
        (right, known, [one.stable for one in known if one.stable is not None]),
    )
    for axes, shown, values in panels:
        for norm, label in NORM_LABELS.items():
            chosen = [i for i, one in enumerate(shown) if one.task.norm == norm]
            if chosen:
                axes.plot(
                    [100 * shown[i].share_removed for i in chosen],
                    [values[i] for i in chosen],
                    "o",
                    color=COLORS[norm],
                    markersize=5,
                    label=label,
                )
        axes.set_xlabel("share of the squared norm that GC removes in the first batch, %")
        shares, numbers = np.asarray([one.share_removed for one in shown]), np.asarray(values)
        if len(shown) >= 5 and np.ptp(shares) and np.ptp(numbers):
            value, low, high = rank_correlation(shares, numbers)
            axes.set_title(
                f"rank correlation {value:+.2f} (95 % interval {low:+.2f} to {high:+.2f})",
                fontsize=10,
            )
    left.axhline(0, color="black", linewidth=0.8)
    left.set_yscale("symlog", linthresh=1)
    left.set_yticks([-30, -10, -3, -1, 0, 1, 3, 10], minor=False)
    left.yaxis.set_major_formatter(signed)
    left.margins(y=0.1)
    left.set_ylabel("test error, with GC minus without, points\n(below 0 GC helps)")
    # There is room for it below the lowest ratio.
    right.legend(
        *left.get_legend_handles_labels(), loc="lower center", ncols=2, fontsize=8, frameon=False
    )
    right.axhline(0, color="black", linewidth=0.8)
    ticks = range(-2, 3)
    right.set_yticks(ticks, [show_ratio(tick) for tick in ticks])
    right.set_ylabel("largest stable learning rate, with GC / without")
    return figure
