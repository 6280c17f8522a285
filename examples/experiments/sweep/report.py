"""Prints the tables of the sweep, and draws its pictures.

    python -m examples.experiments.sweep.report

The tables are also written to examples/experiments/results/sweep/report.md, and the pictures to
sweep.png (E1) and images.png (E2) beside it. Only tasks of which all runs are complete are in them.
"""

import dataclasses
from pathlib import Path

import numpy as np
import tyro

from examples.experiments.store import RESULTS
from examples.experiments.sweep.arms import CONTROLS, Arm
from examples.experiments.sweep.effects import TaskEffects, measure_effects
from examples.experiments.sweep.followups import (
    compare_gc,
    compare_places,
    write_fine_tuning,
    write_full_size,
    write_images_and_steps,
    write_places,
)
from examples.experiments.sweep.inference import (
    Overall,
    Verdict,
    adjust,
    combine,
    judge,
    rank_correlation,
    sign_test,
)
from examples.experiments.sweep.markdown import make_table, show_difference, show_p, show_rates
from examples.experiments.sweep.results import TaskResults
from examples.experiments.sweep.tasks import SEEDS, tasks_of
from examples.training.errors import report_errors
from examples.training.files import write_whole


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Prints the tables of the sweep, and draws its pictures."""

    results: Path = RESULTS / "sweep"
    """The folder of the results, to which the tables and the pictures are written."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """A task's effects, and what they mean among all tasks.

    Attributes:
      effects: the effects.
      p_value: the p value of the primary outcome after Holm's correction over the tasks.
      verdict: the word of PLAN.md.
    """

    effects: TaskEffects
    p_value: float
    verdict: Verdict


def find_all(folder: Path) -> list[Finding]:
    """Returns the findings of all complete tasks of E1, in the order of their runs.

    Raises:
      ResultsError: a line of results cannot be right.
    """
    results = [TaskResults(task, folder) for task in tasks_of("e1")]
    effects = [measure_effects(one) for one in results if one.complete]
    p_values = adjust([one.difference.p_value for one in effects])
    return [
        Finding(one, p, judge(one.difference.mean, p, one.p_equivalence))
        for one, p in zip(effects, p_values, strict=True)
    ]


def overall(findings: list[Finding]) -> tuple[Overall, Verdict] | None:
    """Returns the mean over tasks and its verdict, or None for fewer than three tasks."""
    if len(findings) < 3:
        return None
    mean = combine([finding.effects.differences for finding in findings])
    return mean, judge(mean.mean, mean.p_value, mean.p_equivalence)


def write_report(findings: list[Finding]) -> str:
    """Returns the tables of the sweep in Markdown."""
    tasks = len(tasks_of("e1"))
    done = f"{len(findings)} of {tasks} tasks are complete, each with {len(SEEDS)} seeds."
    if len(findings) < tasks:
        done += (
            " Holm's correction is over these tasks, so verdicts can change until all are complete."
        )
    sections = [f"# The sweep (E1)\n\n{done}"]
    if findings:
        sections += [_primary(findings), _over_tasks(findings), _secondary(findings)]
        sections += [_by_rate(findings), _controls(findings), _law(findings)]
    return "\n\n".join(section for section in sections if section) + "\n"


def write_all(folder: Path, findings: list[Finding]) -> str:
    """Returns the tables of E1 to E5 in Markdown.

    Args:
      folder: the folder of the results.
      findings: what `find_all` returns for it.

    Raises:
      ResultsError: a line of results cannot be right.
    """
    found = overall(findings)
    more = (
        write_images_and_steps(compare_gc("e2", folder)),
        write_full_size(compare_gc("e3", folder), found and found[0]),
        write_fine_tuning(compare_gc("e4", folder)),
        write_places(compare_places(folder)),
    )
    return "\n".join([write_report(findings), *(f"{section}\n" for section in more if section)])


def _primary(findings: list[Finding]) -> str:
    rows = []
    for finding in sorted(findings, key=lambda finding: finding.effects.difference.mean):
        effects, difference = finding.effects, finding.effects.difference
        rows.append(
            (
                effects.task.name,
                f"{effects.none.error.mean():.2f}",
                f"{effects.gc.error.mean():.2f}",
                show_difference(difference),
                f"{np.median(effects.differences):+.2f}",
                show_p(difference.p_value),
                show_p(finding.p_value),
                show_p(effects.p_equivalence),
                finding.verdict,
                effects.seeds_needed,
                f"{show_rates(effects.none.rates)} / {show_rates(effects.gc.rates)}",
                f"{effects.none.luck:+.2f} / {effects.gc.luck:+.2f}",
            )
        )
    header = (
        "task",
        "error without GC",
        "with GC",
        "difference",
        "median",
        "p",
        "p (Holm)",
        "p (equivalence)",
        "verdict",
        "seeds for half a point",
        "rates, none / GC",
        "validation minus test accuracy, none / GC",
    )
    foot = (
        "Test error in percent, each arm at the rates that cross-fitting chose for it. Below 0, GC has "
        "the lower error. Intervals: 95 %, Student's t (scipy.stats.t). p: paired t-test "
        "(scipy.stats.ttest_rel), then after Holm's correction over the tasks "
        "(statsmodels multipletests). Equivalence within ±0.5 point: two one-sided tests "
        "(statsmodels ttost_paired). Seeds: for power 0.8 (statsmodels TTestPower)."
    )
    return f"## Primary outcome\n\n{make_table(header, rows)}\n\n{foot}"


def _over_tasks(findings: list[Finding]) -> str:
    found = overall(findings)
    if found is None:
        return ""
    mean, verdict = found
    means = np.asarray([finding.effects.difference.mean for finding in findings])
    lower, count, p_value = sign_test(means)
    words = [finding.verdict for finding in findings]
    counts = ", ".join(
        f"{word}: {words.count(word)}"
        for word in ("helps", "hurts", "no difference", "cannot tell")
    )
    return (
        "## Over the tasks\n\n"
        f"- Verdicts: {counts}.\n"
        f"- Mean difference: {mean.mean:+.2f} points, 95 % interval {mean.low:+.2f} to "
        f"{mean.high:+.2f}: **{verdict}**.\n"
        f"- A new task: 95 % prediction interval {mean.new_low:+.2f} to {mean.new_high:+.2f}. The true "
        f"differences vary between tasks with a standard deviation of {mean.tau:.2f}.\n"
        f"- GC has the lower error in {lower} of {count} tasks (sign test, p = {show_p(p_value)}).\n\n"
        "Random effects by statsmodels combine_effects (Paule and Mandel; interval by Hartung, Knapp, "
        "Sidik and Jonkman), sign test by scipy.stats.binomtest."
    )


def _secondary(findings: list[Finding]) -> str:
    rows = []
    for finding in findings:
        effects = finding.effects
        none, gc = effects.none, effects.gc
        steps = f"{effects.steps.mean:.2f} ({effects.steps.low:.2f} to {effects.steps.high:.2f})"
        rows.append(
            (
                effects.task.name,
                f"{none.test_loss.mean():.3f} / {gc.test_loss.mean():.3f}",
                f"{none.train_loss.mean():.3f} / {gc.train_loss.mean():.3f}",
                steps,
                effects.never,
                "" if effects.stable is None else f"{effects.stable:.3g}",
                f"{effects.collapsed[0]} / {effects.collapsed[1]}",
                f"{100 * effects.share_removed:.0f} %",
            )
        )
    header = (
        "task",
        "test loss, none / GC",
        "training loss, none / GC",
        "steps, ratio",
        "never",
        "largest stable rate, ratio",
        "collapsed runs, none / GC",
        "energy removed at the start",
    )
    foot = (
        "Losses in nats. Steps: those of GC until the best validation loss of none, divided by those "
        "of none; never: the number of seeds of GC that did not reach it."
    )
    return f"## Secondary outcomes\n\n{make_table(header, rows)}\n\n{foot}"


def _by_rate(findings: list[Finding]) -> str:
    offsets = sorted({at.offset for finding in findings for at in finding.effects.by_rate})
    rows = []
    for finding in findings:
        at = {one.offset: one.difference for one in finding.effects.by_rate}
        cells = [show_difference(at[o]) if o in at else "" for o in offsets]
        rows.append((finding.effects.task.name, *cells))
    header = ("task", *(f"{offset:+d}" if offset else "best" for offset in offsets))
    foot = (
        "The difference of the test error at the same rate for both arms. Columns: half-decades above "
        "the best rate of none."
    )
    return f"## By learning rate\n\n{make_table(header, rows)}\n\n{foot}"


def _controls(findings: list[Finding]) -> str:
    sections = []
    arms: tuple[Arm, ...] = ("gc", *CONTROLS)
    for index, title in enumerate(("the best rate of none", "a half-decade above it")):
        by_arm = {
            arm: [finding.effects.controls[arm][index] for finding in findings] for arm in arms
        }
        marks = {
            arm: ["*" if p < 0.05 else "" for p in adjust([one.p_value for one in differences])]
            for arm, differences in by_arm.items()
        }
        rows = [
            (
                finding.effects.task.name,
                *(f"{show_difference(by_arm[arm][i])}{marks[arm][i]}" for arm in arms),
            )
            for i, finding in enumerate(findings)
        ]
        header = ("task", *(arm.replace("_", " ") for arm in arms))
        sections.append(f"## Controls at {title}\n\n{make_table(header, rows)}")
    foot = (
        "The difference of the test error to none at the same rate. *: p < 0.05 after Holm's correction "
        "over the tasks of the arm."
    )
    return "\n\n".join([*sections, foot])


def _law(findings: list[Finding]) -> str:
    if len(findings) < 5:
        return ""
    shares = np.asarray([finding.effects.share_removed for finding in findings])
    gains = np.asarray([finding.effects.difference.mean for finding in findings])
    stable = [finding.effects.stable for finding in findings]
    known = np.asarray([value is not None for value in stable])
    ratios = np.asarray([value for value in stable if value is not None])
    lines = []
    for name, x, y in (
        ("the difference at the chosen rates", shares, gains),
        ("the ratio of the largest stable rates", shares[known], ratios),
    ):
        if len(x) < 5 or not np.ptp(x) or not np.ptp(y):
            lines.append(f"- With {name}: too few tasks differ.")
            continue
        value, low, high = rank_correlation(x, y)
        word = "predicts it" if low > 0 or high < 0 else "does not predict it"
        lines.append(f"- With {name}: {value:+.2f} ({low:+.2f} to {high:+.2f}): the share {word}.")
    return (
        "## The law\n\nSpearman's correlation over the tasks of the share of gradient energy that GC "
        "removes in the first batch (scipy.stats.spearmanr, bootstrap interval):\n\n"
        + "\n".join(lines)
    )


def main() -> None:
    with report_errors("stopped"):
        arguments = tyro.cli(
            Arguments, prog="python -m examples.experiments.sweep.report", description=__doc__
        )
        from examples.experiments.sweep.figure import draw
        from examples.experiments.sweep.images_figure import draw_images_and_steps

        findings = find_all(arguments.results)
        report = write_all(arguments.results, findings)
        write_whole(arguments.results / "report.md", report)
        if findings:
            draw(findings).savefig(arguments.results / "sweep.png", dpi=130)
        if cells := compare_gc("e2", arguments.results):
            draw_images_and_steps(cells).savefig(arguments.results / "images.png", dpi=130)
        print(report, end="")


if __name__ == "__main__":
    main()
