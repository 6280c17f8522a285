"""Prints the tables of the sweep, and draws its pictures.

    python -m examples.experiments.sweep.report

The tables are also written to examples/experiments/results/sweep/report.md, and the pictures to
sweep.png and shares.png (E1) and images.png (E2) beside it. Only tasks of which all runs are complete
are in them.
The part of the README between two comments is a summary of the tables, and is written anew with
--readme README.md.
"""

import dataclasses
from pathlib import Path

import tyro

from examples.experiments.store import RESULTS
from examples.training.errors import SettingError, report_errors
from examples.training.files import write_whole


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Prints the tables of the sweep, and draws its pictures."""

    results: Path = RESULTS / "sweep"
    """The folder of the results, to which the tables and the pictures are written."""
    readme: Path | None = None
    """A file with the comments "sweep" and "end of sweep", between which the summary is written."""


def _split(path: Path) -> tuple[str, str]:
    """Returns what stands before and after the summary of a page.

    Raises:
      SettingError: the page has no such comments.
    """
    before, start, rest = path.read_text("utf-8").partition("<!-- sweep -->\n")
    _, end, after = rest.partition("\n<!-- end of sweep -->")
    if not (start and end):
        raise SettingError(
            f'--readme {path}: it lacks the comments "<!-- sweep -->" and "<!-- end of sweep -->"'
        )
    return before + start, end + after


def main() -> None:
    with report_errors("stopped"):
        arguments = tyro.cli(
            Arguments, prog="python -m examples.experiments.sweep.report", description=__doc__
        )
        from examples.experiments.sweep.figure import draw
        from examples.experiments.sweep.findings import find_all
        from examples.experiments.sweep.followups import compare_gc
        from examples.experiments.sweep.images_figure import draw_images_and_steps
        from examples.experiments.sweep.sections import write_all, write_summary
        from examples.experiments.sweep.share_figure import draw_shares

        page = _split(arguments.readme) if arguments.readme else None
        findings = find_all(arguments.results)
        report = write_all(arguments.results, findings)
        if findings:
            draw(findings).savefig(arguments.results / "sweep.png", dpi=130)
            draw_shares(findings).savefig(arguments.results / "shares.png", dpi=130)
        if cells := compare_gc("e2", arguments.results):
            draw_images_and_steps(cells).savefig(arguments.results / "images.png", dpi=130)
        write_whole(arguments.results / "report.md", report)
        if arguments.readme and page:
            write_whole(arguments.readme, write_summary(findings).join(page))
        print(report, end="")


if __name__ == "__main__":
    main()
