"""Tables and a picture of compiled update steps; nothing is compiled here."""

import math
from typing import Any

from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from examples.benchmarks.compiled.targets import CARDS

Record = dict[str, Any]

_KEYS = ("card", "chips", "tree", "optimizer", "layout")
_COLORS = {"v5e": "#0072b2", "v5p": "#56b4e9", "v6e": "#009e73", "h100": "#d55e00"}
_MARKERS = {1: "o", 8: "s", 256: "^", 1024: "D"}


def make_tables(records: list[Record]) -> list[Table]:
    """Makes one table for each card of which there is a record."""
    cases = group_by_case(records)
    return [
        _make_table(card, rows)
        for card in CARDS
        if (rows := [rows for key, rows in cases.items() if key[0] == card])
    ]


def group_by_case(records: list[Record]) -> dict[tuple, dict[str, Record]]:
    """The records of each case by arm."""
    cases: dict[tuple, dict[str, Record]] = {}
    for record in records:
        cases.setdefault(tuple(record[key] for key in _KEYS), {})[record["arm"]] = record
    return dict(sorted(cases.items(), key=lambda item: (item[0][0], item[0][1:])))


def _make_table(card: str, cases: list[dict[str, Record]]) -> Table:
    table = Table(
        *("tree", "optimizer", "chips", "layout"),
        *("fusions", "gradient reads", "temporaries, kB", "means, kB"),
        *("collectives of GC", "of optax.centralize", "compile, s"),
        title=f"Update step compiled for {card}",
        caption="No GC → optax_gc. Gradient reads: how often each byte of the gradients is read from "
        "the card's memory. Means: what one chip's share of the means takes. Collectives: number "
        "(bytes, over which axes of the mesh) that the arm without GC does not have.",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
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


def make_picture(records: list[Record]) -> Figure:
    """Draws what GC adds, by the number of parameters, for each card and number of chips."""
    figure = Figure(figsize=(15, 5), layout="constrained")
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
    for axes, (title, measure) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for card, color in _COLORS.items():
            for chips, marker in _MARKERS.items():
                its = [
                    pair for pair in pairs if (pair[0]["card"], pair[0]["chips"]) == (card, chips)
                ]
                axes.scatter(
                    [none["parameters"] for none, _ in its],
                    [measure(none, ours) for none, ours in its],
                    color=color,
                    marker=marker,
                    s=18,
                    alpha=0.7,
                    label=f"{card}, {chips}" if its else None,
                )
        axes.set(title=title, xlabel="parameters")
        if not pairs:
            continue
        axes.set_xscale("log")
        # A linear part holds zero: many programs have no collective at all.
        threshold = 1 if "fusions" in title else 1e3
        axes.set_yscale("symlog", linthresh=threshold)
        top = 3 * max(threshold, *(measure(*pair) for pair in pairs))
        axes.set_ylim(-threshold / 2, top)
        # The scale's own ticks inside of the linear part would lie on each other.
        decades = math.ceil(math.log10(top / threshold))
        axes.set_yticks([0, *(threshold * 10**decade for decade in range(decades))])
    if pairs:
        figure.axes[0].legend(title="card, chips", fontsize=7)
    return figure
