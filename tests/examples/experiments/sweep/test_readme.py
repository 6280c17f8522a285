"""The README quotes the sweep's report word for word."""

import re
from pathlib import Path

from examples.experiments.sweep import findings, report, sections

README = Path(__file__).parents[4] / "README.md"


def test_the_readme_quotes_the_committed_report():
    committed = report.Arguments().results
    summary = sections.write_summary(findings.find_all(committed))
    text = README.read_text(encoding="utf-8")
    quoted, _, rest = text.partition("<!-- sweep -->\n")[2].partition("\n<!-- end of sweep -->")
    command = "python -m examples.experiments.sweep.report --readme README.md"
    assert quoted == summary, f"write it again with {command}"
    figures = re.findall(r"[-+]\d+\.\d+ ± \d+\.\d+", rest.split("## ")[0])
    tables = (committed / "report.md").read_text(encoding="utf-8")
    assert all(f"| {figure} |" in tables or f"| {figure}* |" in tables for figure in figures)
