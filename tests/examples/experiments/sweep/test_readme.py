"""The README and the pages quote the reports word for word."""

import collections
import re
from pathlib import Path

from examples.experiments.store import RESULTS
from examples.experiments.sweep import findings, report, sections

ROOT = Path(__file__).parents[4]
README = ROOT / "README.md"


def readme_without_line_breaks():
    return " ".join(README.read_text(encoding="utf-8").split())


def rows_of_the_paper(*names):
    """Returns the cells of the rows of some of the paper's tables, in the first part of the report."""
    report = (RESULTS / "cpu" / "report.md").read_text(encoding="utf-8")
    primary = report.partition("### How to read")[0].splitlines()
    return [
        row.split(" | ") for row in primary if row.startswith(tuple(f"| {name}," for name in names))
    ]


def count_verdicts(rows):
    return {f"{word}: {n}" for word, n in collections.Counter(row[8] for row in rows).items()}


def test_the_readme_quotes_the_committed_report():
    committed = report.Arguments().results
    summary = sections.write_summary(findings.find_all(committed))
    text = README.read_text(encoding="utf-8")
    quoted, _, rest = text.partition("<!-- sweep -->\n")[2].partition("\n<!-- end of sweep -->")
    command = "python -m examples.experiments.sweep.report --readme README.md"
    assert quoted == summary, f"write it again with {command}"
    tables = (committed / "report.md").read_text(encoding="utf-8")
    quotes = re.findall(r"([-+]\d+\.\d+ ± \d+\.\d+) on (\w+) \((.+?)\)", rest.split("## ")[0])
    assert {name for _, name, _ in quotes} == {"emoji", "faces"}
    for figure, name, verdict in quotes:
        (row,) = [line for line in tables.splitlines() if line.startswith(f"| finetuned-{name} |")]
        assert f"| {figure} |" in row
        assert f"| {verdict} |" in row


def test_the_readme_says_of_images_and_steps_what_the_report_says():
    tables = (report.Arguments().results / "report.md").read_text(encoding="utf-8")
    slopes = re.findall(
        r"times the images change the difference by (.+?) points, and ten times the steps by (.+?) \(",
        tables,
    )
    said = re.search(
        r"ten times the steps change the difference by (.+?) points, and ten times the images by "
        r"(.+?)\. With batch normalization these are (.+?) and (.+?)\. ",
        readme_without_line_breaks(),
    )
    (group_images, group_steps), (batch_images, batch_steps) = slopes
    assert said is not None
    assert said.groups() == (group_steps, group_images, batch_steps, batch_images)
    # Few steps and not few images: the gain shrinks with more steps, and does not with more images.
    assert group_steps[0] == batch_steps[0] == "+"
    assert group_images[0] == batch_images[0] == "-"


def test_what_the_pages_include_is_in_the_reports():
    """A page includes what stands between two texts of a report. Both must be there."""
    found = 0
    for page in (ROOT / "docs").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        for path, options in re.findall(
            r"```\{include\} (\S+results\S+)\n(.*?)```", text, re.DOTALL
        ):
            quoted = (page.parent / path).read_text(encoding="utf-8")
            for marker in re.findall(r':(?:start-after|end-before): "(.*)"', options):
                assert marker in quoted, f"{page.name} includes {path}, which has no {marker!r}"
                quoted = quoted.partition(marker)[2] if "start-after" in options else quoted
            found += 1
    assert found >= 5


def test_the_readme_says_of_the_detectors_what_the_tables_say():
    rows = rows_of_the_paper("table5", "table6")
    said = re.findall(
        r"(box|mask) AP (\S+) to (\S+) points \((.+?)\)", readme_without_line_breaks()
    )
    assert [kind for kind, *_ in said] == ["box", "mask"]
    for kind, low, high, verdicts in said:
        own = [row for row in rows if row[0].endswith(f"{kind} AP")]
        values = sorted((row[5].split()[0] for row in own), key=float)
        assert (low, high) == (values[0], values[-1])
        assert {*verdicts.split(", ")} == count_verdicts(own)


def test_the_readme_says_of_the_papers_classifiers_what_the_tables_say():
    rows = rows_of_the_paper("table1", "table2", "table3", "table4", "figure5")
    said = re.search(r"narrow networks on .+? images \((.+?)\)\.", readme_without_line_breaks())
    assert said is not None
    assert {*said[1].split(", ")} == count_verdicts(rows)
