"""The quickstart's table, conclusion and picture."""

from collections import defaultdict

import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.table import Table
from scipy import stats

from examples.quickstart.training import Measured


def paired_difference(arm, base) -> np.ndarray:
    """Returns the difference in final test accuracy to `base`, in points, one for each seed."""
    return arm["accuracy"][:, -1] - base["accuracy"][:, -1]


def interval(sample: np.ndarray) -> float:
    """Returns half the width of the mean's 95 % interval, by Student's t."""
    if np.ptp(sample) == 0:
        return 0.0
    return sample.mean() - stats.ttest_1samp(sample, 0).confidence_interval(0.95).low


def make_table(measured: Measured) -> Table:
    base = next(iter(measured.values()))
    rows = defaultdict(list)
    for arm in measured.values():
        accuracy, difference = arm["accuracy"][:, -1], paired_difference(arm, base)
        ratio = np.percentile(arm["seconds"] / base["seconds"], (50, 25, 75))
        drift = arm["drift"][:, -1].mean()
        rows["test accuracy, %"].append(f"{accuracy.mean():.2f} ± {accuracy.std(ddof=1):.2f}")
        rows["  difference"].append(f"{difference.mean():+.2f} ± {interval(difference):.2f}")
        rows["  seeds better"].append(f"{(difference > 0).sum()} of {len(difference)}")
        rows["training loss"].append(f"{arm['loss'][:, -1].mean():.4f}")
        rows["drift |eᵀ(w - w⁰)|"].append(f"{drift:.0e}" if drift < 1e-3 else f"{drift:.3f}")
        rows["energy removed, %"].append(f"{100 * arm['removed'].mean():.1f}")
        rows["step time, ratio"].append("{:.2f} ({:.2f}, {:.2f})".format(*ratio))
    table = Table("", *measured, box=box.SIMPLE_HEAD, caption_justify="left")
    for label, cells in rows.items():
        if label in ("  difference", "  seeds better", "step time, ratio"):
            cells[0] = "-"  # the arm with which the others are compared
        table.add_row(label, *cells)
    table.caption = (
        f"{len(base['loss'])} seeds. Accuracy: mean ± standard deviation over seeds. Difference: to the first "
        "arm, paired by seed, ± its 95 % interval. Drift: of the weight vector that moved most. Energy: share "
        "of the gradient's squared norm. Step time: relative to the first arm in the same epoch, median "
        "(quartiles)."
    )
    return table


def conclude(measured: Measured) -> str:
    """Returns a sentence that says whether the interval of GC's difference includes 0."""
    base, gc, _ = measured.values()
    difference = paired_difference(gc, base)
    if abs(difference.mean()) <= interval(difference):
        return (
            f"These {len(difference)} seeds show no effect of GC on the accuracy: "
            "the interval includes 0."
        )
    return (
        f"Here GC {'helped' if difference.mean() > 0 else 'hurt'}: the interval does not include 0."
    )


def make_picture(measured: Measured, steps_per_epoch: int) -> Figure:
    """Draws loss, accuracy and drift by step: mean and one standard deviation over seeds."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    titles = {
        "loss": "training loss",
        "accuracy": "test accuracy, %",
        "drift": "drift, max |eᵀ(w - w⁰)|",
    }
    for axes, (key, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        for (name, arm), color in zip(
            measured.items(), ("#555555", "#0072b2", "#d55e00"), strict=True
        ):
            seen = ~np.isnan(arm[key][0])
            step = (np.flatnonzero(seen) + 1) * steps_per_epoch
            mean, std = arm[key][:, seen].mean(0), arm[key][:, seen].std(0, ddof=1)
            axes.plot(step, mean, color=color, label=name)
            # A logarithmic axis cannot show a lower edge of 0 or less.
            axes.fill_between(
                step, np.maximum(mean - std, mean / 10), mean + std, color=color, alpha=0.2
            )
        axes.set(title=title, xlabel="step", yscale="linear" if key == "accuracy" else "log")
    figure.axes[0].legend()
    return figure
