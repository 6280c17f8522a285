"""Records of compiled programs: which are made, how they are read, the pages that show them, bad input."""

import io
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from examples.benchmarks.compiled import (
    cards,
    forms,
    names,
    picture,
    records,
    report,
    roofline,
    run,
    steps,
    targets,
    update,
)
from examples.benchmarks.compiled.config import Config

ROOT = Path(run.__file__).parents[3]
PAGE = ROOT / "docs/accelerators.md"
RESULTS = ROOT / "examples/benchmarks/results/compiled"
RECORD = {
    "kind": "update",
    "card": "v5e",
    "optimizer": "sgdm",
    "chips": 8,
    "layout": "fsdp",
    "refused": None,
    "same_program_as": None,
    "gradient_reads": 1.0,
    "temporary_bytes": 0,
    "chip_means_bytes": 5000,
    "fusions": 7,
    "compile_seconds": 1.0,
    "collectives": [],
    "collective_bytes": 0,
    "versions": {},
}
SENT = {"kind": "all-reduce", "axes": ["fsdp"], "number": 1, "bytes": 2_500_000}


def make_records():
    """No GC and GC for two trees, of which the larger comes first."""
    for tree, parameters in {"llama_70g": 70, "llama_7g": 7}.items():
        its = RECORD | {"tree": tree, "parameters": parameters * 10**9}
        ours = {"fusions": 9, "collectives": [SENT], "collective_bytes": 2_500_000}
        yield its | {"arm": "none"}
        yield its | ours | {"arm": "ours", "gradient_reads": None}


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (Config, {"cards": ("v9",)}, "--cards v9: unknown; there are v5e, v5p, v6e, h100"),
        (
            Config,
            {"chips": (0,)},
            r"no topology of 0 chips is known for v5e; there are 1 \(1x1\), 8",
        ),
        (Config, {"chips": ()}, "--chips needs at least one number; there are 1, 8, 256, 1024"),
        (Config, {"trees": ("resnet5",)}, "--trees resnet5: unknown; there are resnet50, vit_b16"),
        (Config, {"layouts": ("rows",)}, "--layouts rows: unknown; there are replicated, fsdp"),
        (Config, {"optimizers": ("lion",)}, "--optimizers lion: unknown; there are sgdm, adamw"),
        (Config, {"arms": ()}, "--arms needs at least one name; there are none, ours"),
        (Config, {"out": Path("x.txt")}, r"--out x\.txt: the name must end in \.jsonl"),
        (Config, {"out": Path("no/x.jsonl")}, r"--out no/x\.jsonl: no file can be written there"),
        (roofline.Config, {"cards": ("v9",)}, "no card is called 'v9'; there are v"),
        (roofline.Config, {"cards": ()}, "--cards needs at least one name; there are v5e"),
        (roofline.Config, {"images": -3}, "--images -3: at least 2 is needed"),
        (forms.Config, {"layout": "rows"}, "--layout rows: unknown; there are replicated"),
    ],
)
def test_bad_settings_are_one_clear_line(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_pages_of_somebody_else_are_not_replaced(tmp_path):
    (tmp_path / "README.md").touch()
    with pytest.raises(ValueError, match=r"README\.md is there already and would be replaced"):
        Config(out=tmp_path / "README.jsonl")
    (tmp_path / "README.jsonl").touch()
    Config(out=tmp_path / "README.jsonl")


def test_a_machine_without_the_compiler_is_told_what_it_lacks(monkeypatch):
    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(targets.platform, "system", lambda: "Linux")
    monkeypatch.setattr(targets.platform, "machine", lambda: "x86_64")
    missing = targets.find_missing(cards.CARDS["h100"])
    assert missing == (
        'the compiler for h100 is not installed: python -m pip install ".[examples,cuda-compiler]"'
    )
    monkeypatch.setattr(targets.platform, "machine", lambda: "arm64")
    assert "for Linux on x86-64 only" in (targets.find_missing(cards.CARDS["v5e"]) or "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\x00", r"x\.jsonl: not text"),
        (b'{"kind": "update"}\nnot json\n', "line 1: the record has no arm, card"),
        (b"not json\n{}\n", "line 1: not a JSON record"),
        (b"[]\n", "line 1: not a record of this program, which has the kind 'update'"),
        (b'{"kind": "roofline"}\n', "line 1: not a record of this program"),
    ],
)
def test_a_file_of_other_things_is_refused_and_left_as_it_is(tmp_path, content, message):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        run.run(Config(out=path), Console(quiet=True))
    assert path.read_bytes() == content


def test_a_cut_off_end_is_left_out_and_other_versions_are_refused(tmp_path):
    path, (none, *_) = tmp_path / "x.jsonl", make_records()
    path.write_text(json.dumps(none) + "\n" + json.dumps(none)[:40])
    assert records.read_updates(path) == [none]
    for missing in ("optimizer", "fusions"):
        path.write_text(json.dumps({key: its for key, its in none.items() if key != missing}))
        with pytest.raises(ValueError, match=f"line 1: the record has no {missing}"):
            records.read_updates(path)
    records.check_versions(path, [none | {"versions": {"unknown": "1"}}])
    with pytest.raises(ValueError, match=r"line 2: made with jax 0\.1, but .* is installed"):
        records.check_versions(path, [none, none | {"versions": {"jax": "0.1"}}])


def test_one_chip_has_the_replicated_layout_only():
    cases = list(run.list_cases(Config(cards=("v5e",), trees=("vgg11",))))
    assert {case.layout for case in cases if case.chips == 1} == {"replicated"}
    assert {case.layout for case in cases if case.chips == 8} == set(names.LAYOUTS)


def test_a_card_is_left_out_where_it_has_no_topology_of_so_many_chips(tmp_path):
    config = Config(cards=("v5e", "v5p"), chips=(256, 4096), trees=("llama_1g",))
    found = {(case.card, case.chips) for case in run.list_cases(config)}
    assert found == {("v5e", 256), ("v5p", 256), ("v5p", 4096)}
    nothing = Config(cards=("v5e",), chips=(1024,), out=tmp_path / "compiled.jsonl")
    printed = io.StringIO()
    with pytest.raises(ValueError, match="nothing is left to compile"):
        run.run(nothing, Console(file=printed, width=200))
    expected = "left out: v5e 1024: no topology of 1024 chips is known for v5e; there are 1 (1x1)"
    assert expected in printed.getvalue()


def test_too_little_memory_to_compile_is_told_before_it_begins(tmp_path, monkeypatch):
    def compile_arms(*args):
        raise AssertionError("compiled")

    monkeypatch.setattr(update, "compile_arms", compile_arms)
    monkeypatch.setattr(targets.measure, "available_host_bytes", lambda: 1_500_000_000)
    config = Config(("v5e",), (1,), ("vgg11",), ("sgdm",), out=tmp_path / "compiled.jsonl")
    expected = "takes up to 2 GB of this machine's memory, and 1.5 GB are free"
    with pytest.raises(ValueError, match=expected):
        run.run(config, Console(quiet=True))


def test_the_page_has_a_row_for_each_case_and_the_picture_its_lines():
    found = list(make_records())
    lines = report.make_page(found).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "sgdm" in line]
    assert [row[0] for row in cells] == ["llama_7g", "llama_70g"]
    assert cells[0][1:] == [
        *("sgdm", "8", "fsdp", "7 → 9", "-", "0 → 0", "5", "1 (2.5 MB, fsdp)", "-", "1.0 → 1.0")
    ]
    figure = picture.make(found)
    assert figure is not None
    (line,) = figure.axes[0].lines
    assert np.array(line.get_xydata()).tolist() == [[7e9, 2], [7e10, 2]]
    assert not figure.axes[3].lines  # because all have the same number of chips
    assert picture.make(found[:2]) is None


def test_only_what_gc_adds_counts_among_collectives():
    old = {"kind": "all-gather", "axes": ["fsdp"], "number": 2, "bytes": 10}
    added = {"kind": "all-reduce", "axes": ["model"], "number": 1, "bytes": 2_500_000}
    more = old | {"number": 3, "bytes": 15}
    none = {"collectives": [old]}
    assert report.describe_collectives(none, {"collectives": [old]}) == "0"
    assert report.describe_collectives(none, {"collectives": [old, added]}) == "1 (2.5 MB, model)"
    assert report.describe_collectives(none, {"collectives": [more]}) == "1 (5 B, fsdp)"


def test_a_roofline_divides_a_read_of_the_gradients_by_the_least_time_of_the_step():
    card = cards.CARDS["v5e"]
    found = roofline.bound(card, flops=197e10, traffic=819e6, gradient_bytes=819e6)
    assert found["flops_milliseconds"] == pytest.approx(10)
    assert found["bytes_milliseconds"] == pytest.approx(1)
    assert found["gc_milliseconds"] == pytest.approx(1)
    assert found["share"] == pytest.approx(0.1)
    more = roofline.bound(card, flops=197e10, traffic=819e7 * 2, gradient_bytes=819e6)
    assert more["share"] == pytest.approx(0.05)
    by_flops = roofline.bound(card, flops=197e10, traffic=None, gradient_bytes=819e6)
    assert (by_flops["bytes_milliseconds"], by_flops["share"]) == (None, pytest.approx(0.1))


def test_a_roofline_leaves_out_what_does_not_fit_and_goes_on_where_it_was(tmp_path, monkeypatch):
    def refuse(card):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: ran out of memory")

    counted = []

    def count(card):
        counted.append(card.name)
        return steps.Traffic(1e9, None)

    some = (
        steps.Step("a large step", 1, 4.0, lambda: 1e12, refuse),
        steps.Step("a small step", 1, 4.0, lambda: 1e12, count),
    )
    monkeypatch.setattr(steps, "create_steps", lambda images, length: some)
    monkeypatch.setattr(records, "find_versions", lambda platform: {"jax": jax.__version__})
    config = roofline.Config(cards=("v5e",), out=tmp_path / "x.jsonl")
    printed = io.StringIO()
    for _ in range(2):
        (record,) = roofline.run(config, Console(file=printed, width=160))
        assert (record["step"], record["bytes"]) == ("a small step", 1e9)
    assert counted == ["v5e"]
    assert "left out: v5e: a large step does not fit into its memory" in printed.getvalue()
    by_flops = roofline.Config(cards=("v5e", "v6e"), out=config.out, compile=False)
    found = roofline.run(by_flops, Console(quiet=True))
    assert [row["bytes"] for row in found] == [1e9, None, None, None]
    both = roofline.Config(cards=("v5e", "v6e"), out=config.out)
    found = roofline.run(both, Console(quiet=True))
    assert [row["bytes"] for row in found if row["step"] == "a small step"] == [1e9, 1e9]


def test_the_tables_that_are_kept_are_those_of_the_records():
    found = records.read_updates(RESULTS / "compiled.jsonl")
    assert (RESULTS / "compiled.md").read_text() == report.make_page(found)
    assert all(row["same_program_as"] == "ours" for row in found if row["arm"] == "plain")
    text = io.StringIO()
    bounds = records.read(RESULTS / "roofline.jsonl", "roofline", ())
    Console(file=text, width=160).print(roofline.make_table(bounds))
    rows = [line.strip() for line in text.getvalue().splitlines() if line.startswith("|")]
    page = PAGE.read_text()
    assert "\n".join(rows) in page
    for row in (row for row in bounds if row["bytes"]):
        if row["step"].startswith("ResNet"):
            assert f"{100 * row['gc_milliseconds'] / row['flops_milliseconds']:.2f} %" in page
        if row["bytes_by_compiler"]:
            assert f"{row['bytes_by_compiler'] / 1e9:.1f} GB" in page


def find_range(key, keep, form="{:.0f}", unit=1.0) -> str:
    """Returns the least and the most that GC adds to the cases of which `keep` is true."""
    cases = report.group_by_case(records.read_updates(RESULTS / "compiled.jsonl")).values()
    pairs = [(arms["none"], arms["ours"]) for arms in cases if keep(arms["none"])]
    added = [(ours[key] - none[key]) / unit for none, ours in pairs]
    return f"{form.format(min(added))} to {form.format(max(added))}"


def is_large(case):
    same = (case["chips"], case["optimizer"]) == (256, "adamw")
    return same and case["tree"] in names.TRANSFORMERS and case["layout"] in ("fsdp", "both")


def is_whole_or_split_over_outputs(case):
    return case["layout"] in ("replicated", "outputs")


def without_muon(case):
    return case["optimizer"] != "muon"


def test_the_answers_on_the_page_are_those_of_the_records():
    claims = [
        f"{find_range('fusions', lambda case, keep=keep: keep(case) and case['card'] != 'h100')} "
        f"fusions more on a TPU, and "
        f"{find_range('fusions', lambda case, keep=keep: keep(case) and case['card'] == 'h100')} "
        f"on an H100"
        for keep in (is_large, lambda case: case["chips"] == 1)
    ]
    for layout in ("fsdp", "both"):
        sent = find_range(
            "collective_bytes",
            lambda case, layout=layout: is_large(case) and case["layout"] == layout,
            "{:.2f}",
            1e6,
        )
        claims.append(f"{sent} MB with `{layout}`")
    temporaries = find_range("temporary_bytes", without_muon, "{:.0f}", 1e6)
    claims.append(f"GC adds {temporaries} MB")
    text = " ".join(PAGE.read_text().split())
    for claim in claims:
        assert claim in text
    assert find_range("collective_number", is_whole_or_split_over_outputs) == "0 to 0"
    sends_once = find_range(
        "collective_number",
        lambda case: not is_whole_or_split_over_outputs(case) and without_muon(case),
    )
    assert sends_once == "1 to 1"


@pytest.mark.compilers
@pytest.mark.usefixtures("optimized")
def test_the_program_writes_records_and_tables_and_goes_on_where_it_was(tmp_path):
    out = tmp_path / "compiled.jsonl"
    case = (("h100",), (8,), ("llama_1g",), ("sgdm",), ("fsdp",))
    run.main(Config(*case, arms=("none",), out=out))
    first = out.read_text()
    run.main(Config(*case, arms=("none", "ours"), out=out))
    assert out.read_text().startswith(first)
    none, ours = records.read_updates(out)
    assert (none["arm"], ours["arm"]) == ("none", "ours")
    assert none["collectives"] == []
    (sent,) = ours["collectives"]
    assert (sent["kind"], sent["axes"], sent["number"]) == ("all-reduce", ["fsdp"], 1)
    assert "| llama_1g | sgdm" in out.with_suffix(".md").read_text()
