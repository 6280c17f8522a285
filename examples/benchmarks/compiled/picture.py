"""A picture of what GC adds to compiled update steps of Llama-shaped trees, by size and by chips."""

from matplotlib.figure import Figure

from examples.benchmarks.compiled.records import Record
from examples.benchmarks.compiled.report import group_by_case

Pair = tuple[Record, Record]

_COLORS = {"v5e": "#0072b2", "v5p": "#56b4e9", "v6e": "#009e73", "h100": "#d55e00"}
_MARKERS = {"v5e": "s", "v5p": "o", "v6e": "^", "h100": "x"}
_STYLES = ("solid", "dashed", "dotted", "dashdot", (0, (3, 1, 1, 1, 1, 1)))
_PANELS = {
    "fusions": "fusions that GC adds",
    "temporary_bytes": "temporaries that GC adds on a chip, bytes",
    "collective_bytes": "collectives that GC adds on a chip, bytes",
}


def make(records: list[Record]) -> Figure | None:
    """Draws what GC adds, by parameters above and by chips below, or returns None.

    Only Llama-shaped trees without experts are drawn, because no other trees differ only in size. A
    line joins cases that differ in one number. Above, all cases have the number of chips that most of
    them have; below, they have the layout that most of them have. Without two such cases there is
    nothing to draw.
    """
    pairs = [
        (arms["none"], arms["ours"])
        for arms in group_by_case(records).values()
        if {"none", "ours"} <= set(arms)
        and not (arms["none"]["refused"] or arms["ours"]["refused"])
        and arms["none"]["tree"].startswith("llama")
        and arms["none"]["optimizer"] != "muon"
    ]
    above = _join(pairs, "parameters", "chips", ("layout", "optimizer"))
    below = _join(pairs, "chips", "layout", ("tree", "optimizer"))
    if not above and not below:
        return None
    figure = Figure(figsize=(15, 9), layout="constrained")
    grid = figure.subplots(2, 3)
    _draw_row(grid[0], above, "parameters", "chips")
    _draw_row(grid[1], below, "chips", "layout")
    return figure


def _join(pairs: list[Pair], by: str, fixed: str, names: tuple[str, ...]) -> dict[tuple, list]:
    """Returns the lines along `by`, named by card and `names`, where `fixed` has its most common value."""
    lines: dict[tuple, dict[tuple, list[Pair]]] = {}
    for pair in sorted(pairs, key=lambda pair: pair[0][by]):
        key = tuple(pair[0][name] for name in ("card", *names))
        lines.setdefault(pair[0][fixed], {}).setdefault(key, []).append(pair)
    joined = {
        value: {key: its for key, its in groups.items() if len(its) > 1}
        for value, groups in lines.items()
    }
    return max(joined.values(), key=lambda groups: sum(map(len, groups.values())), default={})


def _draw_row(row, lines: dict[tuple, list[Pair]], by: str, fixed: str) -> None:
    kinds = list(dict.fromkeys(key[1:] for key in lines))
    for axes, (measure, title) in zip(row, _PANELS.items(), strict=True):
        axes.set(title=title, xlabel=by)
        for (card, *kind), its in lines.items():
            axes.plot(
                [none[by] for none, _ in its],
                [ours[measure] - none[measure] for none, ours in its],
                color=_COLORS[card],
                marker=_MARKERS[card],
                fillstyle="none",
                linestyle=_STYLES[kinds.index(tuple(kind)) % len(_STYLES)],
                linewidth=1,
                label=f"{card}, {', '.join(kind)}",
            )
        if not lines:
            continue
        (first, *_) = lines.values()
        axes.set_title(f"{title}\n{_describe(fixed, first[0][0][fixed])}")
        axes.set_xscale("log")
        if by == "chips":
            chips = sorted({none["chips"] for its in lines.values() for none, _ in its})
            axes.set_xticks(chips, [str(number) for number in chips])
            axes.minorticks_off()
        if measure == "fusions":
            axes.set_ylim(bottom=0)
        else:  # its linear part holds zero, which many programs have
            axes.set_yscale("symlog", linthresh=1e5)
            axes.set_ylim(-2e4, 1e8)
    if lines:
        row[0].legend(fontsize=7, ncols=2, handlelength=4)


def _describe(name: str, value) -> str:
    return f"{value} chips" if name == "chips" else f"layout {value}"
