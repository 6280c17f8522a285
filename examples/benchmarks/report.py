"""Makes tables and a picture of the records that `examples.benchmarks.overhead` wrote."""

from typing import Any

from matplotlib.figure import Figure
from rich import box
from rich.table import Table

Record = dict[str, Any]

_COLORS = {"ours": "#0072b2", "naive": "#009e73", "optax": "#d55e00", "control": "#999999"}
_LABELS = {
    "ours": "optax_gc",
    "naive": "naive one-liner",
    "optax": "optax.centralize",
    "control": "A/A: no GC twice",
}


def make_tables(records: list[Record]) -> list[Table]:
    """Makes the tables of times, counts, the whole step and collectives, if they have a record."""
    makers = (_time_table, _count_table, _step_table, _collectives_table)
    return [table for table in (make(records) for make in makers) if table.row_count]


def make_picture(records: list[Record]) -> Figure:
    """Draws the relative time by tree, the extra time by parameters, and compilation by leaves."""
    figure = Figure(figsize=(15, 5), layout="constrained")
    ratios, extra, compilation = figure.subplots(1, 3, width_ratios=(2, 1, 1))
    _draw_ratios(ratios, [rows for rows in by_unit(records) if "ratio" in rows["none"]])
    units = by_unit(records)
    for arm, color in {"ours": _COLORS["ours"], "optax": _COLORS["optax"]}.items():
        timed = [rows[arm] for rows in units if "ratio" in rows[arm]]
        extra.scatter(
            [row["parameters"] for row in timed],
            [row["extra_milliseconds"] for row in timed],
            color=color,
            label=_LABELS[arm],
            s=16,
        )
    extra.set(title="extra time of an update, ms", xlabel="parameters", xscale="log")
    extra.set_yscale("symlog", linthresh=0.1)
    for arm, color in {"none": "#555555", "ours": _COLORS["ours"]}.items():
        rows = [unit[arm] for unit in units]
        compilation.scatter(
            [row["leaves"] for row in rows],
            [row["trace_seconds"] + row["compile_seconds"] for row in rows],
            color=color,
            label=_LABELS.get(arm, "no GC"),
            s=16,
        )
    compilation.set(title="trace and compile, s", xlabel="leaves", xscale="log", yscale="log")
    for axes in (extra, compilation):
        axes.legend()
    return figure


def by_unit(records: list[Record]) -> list[dict[str, Record]]:
    """Returns the records of update steps: for each tree and optimizer, a dictionary by arm."""
    units = {}
    for record in records:
        if record["kind"] == "update":
            units.setdefault((record["tree"], record["optimizer"]), {})[record["arm"]] = record
    return list(units.values())


def _draw_ratios(axes, units):
    for place, (arm, color) in enumerate(_COLORS.items()):
        rows = [unit[arm]["ratio"] for unit in units]
        medians = [row["median"] for row in rows]
        low, high = zip(*(row["interval"] for row in rows), strict=True) if rows else ((), ())
        at = [i + 0.16 * (place - 1.5) for i in range(len(rows))]
        axes.vlines(at, low, high, color=color)
        axes.scatter(at, medians, color=color, s=12, label=_LABELS[arm])
    for i, unit in enumerate(units):
        axes.hlines(unit["none"]["bound"], i - 0.4, i + 0.4, color="black", linewidth=0.8)
    axes.axhline(1, color="#cccccc", linewidth=0.8, zorder=0)
    names = [f"{unit['none']['tree']}, {unit['none']['optimizer']}" for unit in units]
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    axes.set_title("update step relative to no GC (95 % interval; black: memory bound)")
    axes.legend()


def _time_table(records):
    table = _table(
        "Update step, time",
        ("tree", "optimizer", "no GC, ms", "bound", "optax_gc", "naive", "optax", "A/A"),
        "Ratios to no GC: the median of the paired ratios and its 95 % interval. Bound: the memory "
        "traffic with one more read of the gradients. A/A: no GC relative to itself. Where naive and "
        "optax_gc are the same StableHLO, as for float32, both columns are the same program.",
    )
    for rows in by_unit(records):
        none = rows["none"]
        cells = [_cell(rows[arm]) for arm in ("ours", "naive", "optax", "control")]
        table.add_row(
            none["tree"],
            none["optimizer"],
            f"{none['milliseconds']:.3g}" if "ratio" in none else "-",
            f"{none['bound']:.3f}",
            *cells,
        )
    return table


def _count_table(records):
    table = _table(
        "Update step, counted",
        ("tree", "optimizer", "params", "leaves", "bytes", "temp, kB", "trace, s", "compile, s"),
        "Bytes: what the program reads and writes with optax_gc, relative to no GC. On CPU, XLA counts too "
        "few for dense kernels of more than 8e6 parameters, as in VGG (see measure.Program). Temp: the "
        "temporaries of optax_gc, and in brackets the means. Seconds: no GC → optax_gc, measured once.",
    )
    for rows in by_unit(records):
        none, ours = rows["none"], rows["ours"]
        table.add_row(
            none["tree"],
            none["optimizer"],
            f"{none['parameters'] / 1e6:.1f} M",
            str(none["leaves"]),
            f"{ours['bytes_ratio']:.4f}",
            f"{ours['temporary_bytes'] / 1e3:.1f} ({ours['means_bytes'] / 1e3:.1f})",
            *(f"{none[key]:.2f} → {ours[key]:.2f}" for key in ("trace_seconds", "compile_seconds")),
        )
    return table


def _step_table(records):
    table = _table(
        "Whole training step",
        ("net", "optimizer", "arm", "step, ms", "Δupdate, ms", "Δupdate ÷ step", "step ratio"),
        "The step is forward pass, backward pass and update. Δupdate: the median paired difference of only "
        "the update. Step ratio: measured directly, median and 95 % interval. Control: no GC twice.",
    )
    for row in (record for record in records if record["kind"] == "step"):
        if "ratio" in row:
            table.add_row(
                row["net"],
                row["optimizer"],
                row["arm"],
                f"{row['milliseconds']:.1f}",
                f"{row['update_extra_milliseconds']:.4f}",
                f"{100 * row['share']:.4f} %",
                _cell(row),
            )
    return table


def _collectives_table(records):
    table = _table(
        "Collectives of an update step on 8 devices",
        ("tree", "layout", "no GC", "optax_gc", "optax"),
        "The number of collectives, and the bytes of their results in brackets. Kernels are split over "
        "their inputs (fsdp) or over their outputs (outputs).",
    )
    found = {}
    for row in (record for record in records if record["kind"] == "collectives"):
        cells = found.setdefault((row["tree"], row["layout"]), [])
        cells.append(f"{row['collectives']} ({row['bytes']})" if row["collectives"] else "0")
    for key, cells in found.items():
        table.add_row(*key, *cells)
    return table


def _table(title, columns, caption):
    return Table(
        *columns, title=title, caption=caption, box=box.SIMPLE_HEAD, caption_justify="left"
    )


def _cell(row):
    if "ratio" not in row:
        return "-"
    low, high = row["ratio"]["interval"]
    return f"{row['ratio']['median']:.3f} ({low:.3f}, {high:.3f})"
