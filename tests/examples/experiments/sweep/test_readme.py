"""The README and the pages quote the reports word for word."""

import re
from pathlib import Path

from examples.experiments.sweep import findings, report, sections

ROOT = Path(__file__).parents[4]
README = ROOT / "README.md"


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
