"""A picture of a run's metrics by epoch."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from examples.training.log import Line


def draw_curves(lines: Iterable[Line], titles: Mapping[str, str], path: Path) -> None:
    """Draws metrics by epoch, from the lines of the kinds "train" and "test".

    Args:
      lines: the lines of a run.
      titles: the title of the panel of each metric, such as {"accuracy": "accuracy, %"}. A metric
        that one kind of line lacks has only the curve of the other.
      path: the PNG file to write.
    """
    lines = list(lines)
    figure = Figure(figsize=(4.5 * len(titles), 3.6), layout="constrained")
    panels = figure.subplots(1, len(titles), squeeze=False)[0]
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        for kind, color in (("train", "#555555"), ("test", "#0072b2")):
            points = [
                (line["epoch"], line[name])
                for line in lines
                if line["kind"] == kind and name in line
            ]
            if points:
                axes.plot(*zip(*points, strict=True), ".-", color=color, label=kind)
        axes.set(title=title, xlabel="epoch", yscale="log" if name == "loss" else "linear")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    figure.savefig(path, dpi=120)
