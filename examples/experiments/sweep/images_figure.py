"""The picture of E2: the difference that GC makes, by the numbers of images and of steps."""

import matplotlib
from matplotlib.figure import Figure

from examples.experiments.statistics import MARGIN
from examples.experiments.sweep.followups import NORM_TITLES, Compared
from examples.experiments.sweep.tasks import IMAGES, STEPS


def draw_images_and_steps(cells: list[Compared]) -> Figure:
    """Draws a panel for each normalization, with a line for each number of steps.

    The error bars are the 95 % intervals of the tables. The lines are moved apart a little so that
    the bars can be told from each other.

    Args:
      cells: those that are complete, at least one.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, len(NORM_TITLES), sharey=True)
    colors = matplotlib.colormaps["viridis"].resampled(len(STEPS) + 1)
    for axes, (norm, title) in zip(panels, NORM_TITLES.items(), strict=True):
        at = {
            (cell.task.images, cell.task.steps): cell.difference
            for cell in cells
            if cell.task.norm == norm
        }
        for place, steps in enumerate(STEPS):
            images = [count for count in IMAGES if (count, steps) in at]
            axes.errorbar(
                [count * 1.06 ** (place - 1.5) for count in images],
                [at[count, steps].mean for count in images],
                yerr=[at[count, steps].half_width for count in images],
                color=colors(place),
                marker="o",
                markersize=4,
                label=f"{steps} steps",
            )
        for edge in (-MARGIN, MARGIN):
            axes.axhline(edge, color="black", linewidth=0.6, linestyle=":")
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_xlim(IMAGES[0] / 1.3, IMAGES[-1] * 1.3)
        axes.set_xticks(IMAGES, [str(count) for count in IMAGES])
        axes.minorticks_off()
        axes.set_xlabel("training images")
        axes.set_title(title)
    panels[0].set_ylabel("test error, with GC minus without, points\n(below 0 GC helps)")
    panels[0].legend(fontsize=8, frameon=False)
    return figure
