"""Tables and a picture of compiled update steps; nothing is compiled here."""

import io
import json
import math
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich import box
from rich.console import Console
from rich.table import Table

from examples.benchmarks.compiled.cards import CARDS

Record = dict[str, Any]

_KEYS = ("card", "chips", "tree", "optimizer", "layout")
_CAPTION = (
    "No GC → optax_gc. Gradient reads: how often each byte of the gradients is read from the card's "
    "memory. Means: what one chip's share of the means takes. Collectives: number (bytes, over which "
    "axes of the mesh) that the arm without GC does not have."
)
_COLORS = {"v5e": "#0072b2", "v5p": "#56b4e9", "v6e": "#009e73", "h100": "#d55e00"}
_LINES = {
    "replicated": "dashdot",
    "fsdp": "solid",
    "outputs": "dotted",
    "inputs": (0, (3, 1, 1, 1, 1, 1)),
    "both": "dashed",
}


def read_records(path: Path) -> list[Record]:
    """Reads what an earlier run wrote; a last line that was cut off is left out.

    Raises:
      ValueError: a line that is not a record. The file and the line are named.
    """
    if not path.exists():
        return []
    records = []
    lines = path.read_text().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except ValueError:
            if number == len(lines) and not line.endswith("\n"):
                break
            raise ValueError(f"{path}, line {number}: not a JSON record") from None
    return records


def make_tables(records: list[Record]) -> list[Table]:
    """Makes one table for each card of which there is a record."""
    tables = []
    for card, cases in group_by_card(records).items():
        table = _make_table(cases, box.SIMPLE_HEAD)
        table.title, table.caption = f"Update step compiled for {card}", _CAPTION
        tables.append(table)
    return tables


def group_by_card(records: list[Record]) -> dict[str, list[dict[str, Record]]]:
    """The cases of each card, by arm, in the order of `CARDS`."""
    cases = group_by_case(records)
    found = {card: [rows for key, rows in cases.items() if key[0] == card] for card in CARDS}
    return {card: its for card, its in found.items() if its}


def group_by_case(records: list[Record]) -> dict[tuple, dict[str, Record]]:
    """The records of each case by arm, smaller trees first."""
    cases: dict[tuple, dict[str, Record]] = {}
    for record in records:
        cases.setdefault(tuple(record[key] for key in _KEYS), {})[record["arm"]] = record
    order = ("card", "parameters", "optimizer", "chips", "layout")

    def place(case):
        (record, *_) = case[1].values()
        return tuple(record[key] for key in order)

    return dict(sorted(cases.items(), key=place))


def _make_table(cases: list[dict[str, Record]], kind: box.Box) -> Table:
    table = Table(
        *("tree", "optimizer", "chips", "layout"),
        *("fusions", "gradient reads", "temporaries, kB", "means, kB"),
        *("collectives of GC", "of optax.centralize", "compile, s"),
        caption_justify="left",
        box=kind,
    )
    for arms in cases:
        none, ours = arms.get("none"), arms.get("ours")
        if none is None or ours is None:
            continue
        row = (none["tree"], none["optimizer"], str(none["chips"]), none["layout"])
        if refused := none["refused"] or ours["refused"]:
            table.add_row(*row, f"refused: {refused[:60]}")
            continue
        optax = arms.get("optax")
        table.add_row(
            *row,
            f"{none['fusions']} → {ours['fusions']}",
            _change(none, ours, "gradient_reads", 1, ".2f"),
            _change(none, ours, "temporary_bytes", 1e-3, ",.0f"),
            f"{ours['chip_means_bytes'] / 1e3:,.0f}",
            describe_collectives(none, ours),
            describe_collectives(none, optax) if optax and not optax["refused"] else "-",
            f"{none['compile_seconds']:.1f} → {ours['compile_seconds']:.1f}",
        )
    return table


def _change(none, ours, key, scale, form) -> str:
    if none[key] is None or ours[key] is None:
        return "-"
    return f"{scale * none[key]:{form}} → {scale * ours[key]:{form}}"


def describe_collectives(none: Record, arm: Record) -> str:
    """The collectives that an arm has more than the arm without GC, by the axes they cross."""
    before = {_crossing(it): it for it in none["collectives"]}
    parts = []
    for its in arm["collectives"]:
        old = before.get(_crossing(its), {"number": 0, "bytes": 0})
        number, size = its["number"] - old["number"], its["bytes"] - old["bytes"]
        if number or size:
            parts.append(f"{number} ({_in_units(size)}, {'+'.join(its['axes']) or 'none'})")
    return "; ".join(parts) or "0"


def _crossing(collective: Record) -> tuple[str, tuple[str, ...]]:
    return collective["kind"], tuple(collective["axes"])


def _in_units(size: float) -> str:
    if abs(size) < 1e3:
        return f"{size} B"
    return f"{size / 1e3:.3g} kB" if abs(size) < 1e6 else f"{size / 1e6:.4g} MB"


def make_page(records: list[Record]) -> str:
    """Returns the tables in Markdown, one under each card's name."""
    page = [
        "# Update steps with and without GC, as their compilers make them",
        _CAPTION,
        "`python -m examples.benchmarks.compiled` wrote this page, and the records to the `.jsonl` beside it.",
    ]
    for card, cases in group_by_card(records).items():
        table = _make_table(cases, box.MARKDOWN)
        if table.row_count:
            text = io.StringIO()
            Console(file=text, width=250).print(table)
            rows = [line.strip() for line in text.getvalue().splitlines() if line.strip()]
            page += [f"## {card}", "\n".join(rows)]
    return "\n\n".join(page) + "\n"


def make_picture(records: list[Record]) -> Figure:
    """Draws what GC adds: by the number of parameters above, and by the number of chips below.

    A line joins the cases that differ only in that number. Muon is left out.
    """
    figure = Figure(figsize=(15, 9), layout="constrained")
    panels = {
        "fusions that GC adds": lambda none, ours: ours["fusions"] - none["fusions"],
        "temporaries that GC adds on a chip, bytes": lambda none, ours: (
            ours["temporary_bytes"] - none["temporary_bytes"]
        ),
        "bytes of collectives that GC adds, by chip": lambda none, ours: (
            ours["collective_bytes"] - none["collective_bytes"]
        ),
    }
    pairs = [
        (arms["none"], arms["ours"])
        for arms in group_by_case(records).values()
        if {"none", "ours"} <= set(arms)
        and not (arms["none"]["refused"] or arms["ours"]["refused"])
        and arms["none"]["optimizer"] != "muon"
    ]
    grid = figure.subplots(2, 3)
    for row, by, fixed in ((grid[0], "parameters", "chips"), (grid[1], "chips", "parameters")):
        lines = _join(pairs, by, fixed)
        for axes, (title, measure) in zip(row, panels.items(), strict=True):
            for its in lines:
                none = its[0][0]
                axes.plot(
                    [none[by] for none, _ in its],
                    [measure(none, ours) for none, ours in its],
                    color=_COLORS[none["card"]],
                    linestyle=_LINES[none["layout"]],
                    marker="o",
                    markersize=4,
                    linewidth=0.8,
                    alpha=0.7,
                )
            axes.set(title=title, xlabel=by)
            if pairs:
                axes.set_xscale("log")
                _scale(axes, 1 if "fusions" in title else 1e3, [measure(*pair) for pair in pairs])
    cards = [Line2D([], [], color=color, marker="o", label=card) for card, color in _COLORS.items()]
    layouts = [
        Line2D([], [], color="black", linestyle=line, label=layout)
        for layout, line in _LINES.items()
    ]
    grid[0, 0].legend(handles=cards + layouts, fontsize=7, ncols=2)
    return figure


def _join(pairs, by, fixed) -> list[list[tuple[Record, Record]]]:
    """Groups pairs that differ only in the number `by`, in its order."""
    lines: dict[tuple, list[tuple[Record, Record]]] = {}
    for pair in sorted(pairs, key=lambda pair: pair[0][by]):
        key = tuple(pair[0][name] for name in ("card", fixed, "optimizer", "layout"))
        lines.setdefault(key, []).append(pair)
    return list(lines.values())


def _scale(axes, threshold, values) -> None:
    """Sets a logarithmic scale with a linear part that holds zero: many programs have no collective."""
    axes.set_yscale("symlog", linthresh=threshold)
    top = 3 * max(threshold, *values)
    axes.set_ylim(-threshold / 2, top)
    # The scale's own ticks inside of the linear part would lie on each other.
    decades = math.ceil(math.log10(top / threshold))
    axes.set_yticks([0, *(threshold * 10**decade for decade in range(decades))])
