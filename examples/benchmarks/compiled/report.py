"""Tables of compiled update steps. Nothing is compiled here."""

import io

from rich import box
from rich.console import Console
from rich.table import Table

from examples.benchmarks.compiled.cards import CARDS
from examples.benchmarks.compiled.records import Record

_KEYS = ("card", "chips", "tree", "optimizer", "layout")
_CAPTION = (
    "No GC → optax_gc. Gradient reads: how often each byte of the gradients is read from the card's "
    "memory. Means: what one chip's share of the means takes. Collectives: number (bytes, over which "
    "axes of the mesh) that the arm without GC does not have."
)


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
