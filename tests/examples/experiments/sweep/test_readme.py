"""The README quotes the sweep's report word for word."""

import re
from pathlib import Path

from examples.experiments.sweep import report

README = Path(__file__).parents[4] / "README.md"


def test_the_readme_quotes_the_committed_report():
    text = (report.Arguments().results / "report.md").read_text(encoding="utf-8")
    completeness = text.split("# The sweep (E1)\n\n")[1].split("\n")[0]
    over_the_tasks = text.split("## Over the tasks\n\n")[1].split("\n\nRandom effects")[0]
    quoted = README.read_text(encoding="utf-8").split("<!-- sweep -->\n")[1]
    quoted = quoted.split("\n<!-- end of sweep -->")[0]
    assert quoted == f"{completeness}\n\n{over_the_tasks}"
    comment = README.read_text(encoding="utf-8").split("<!-- end of sweep -->")[1].split("## ")[0]
    figures = re.findall(r"[-+]\d+\.\d+ ± \d+\.\d+", comment)
    assert figures
    assert all(f"| {figure} |" in text for figure in figures)
