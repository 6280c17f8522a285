"""The sections of the sweep's report, in Markdown."""

from pathlib import Path
from typing import get_args

import numpy as np

from examples.experiments.markdown import (
    VERDICTS,
    count_verdicts,
    make_table,
    show_difference,
    show_p,
    show_rates,
)
from examples.experiments.statistics import Ratio, Verdict, paired_difference, sign_test
from examples.experiments.sweep.controls import write_controls
from examples.experiments.sweep.effects import TaskEffects
from examples.experiments.sweep.findings import Finding, overall
from examples.experiments.sweep.followups import (
    compare_gc,
    compare_places,
    write_fine_tuning,
    write_full_size,
    write_images_and_steps,
    write_places,
)
from examples.experiments.sweep.law import write_law
from examples.experiments.sweep.rates import show_ratio
from examples.experiments.sweep.tasks import NORM_LABELS, SEEDS, Task, tasks_of


def write_summary(findings: list[Finding]) -> str:
    """Returns how much is complete, what it says over all tasks, and a row for each kind of net."""
    lines = "\n".join(_lines_over_tasks(findings))
    kinds = f"{_kinds(findings)}\n\n{VERDICTS} {_GROUPING}" if findings else ""
    return "\n\n".join(part for part in (_completeness(findings), lines, kinds) if part)


def write_report(findings: list[Finding]) -> str:
    """Returns the tables of the sweep in Markdown."""
    sections = [f"# The study of learning rates: results\n\n{_completeness(findings)}"]
    if findings:
        sections += [_primary(findings), _over_tasks(findings), _by_kind(findings)]
        sections += [
            _secondary(findings),
            _by_rate(findings),
            write_controls(findings),
            write_law(findings),
        ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _completeness(findings: list[Finding]) -> str:
    tasks = len(tasks_of("e1"))
    done = f"{len(findings)} of {tasks} tasks are complete, each with {len(SEEDS)} seeds."
    if len(findings) < tasks:
        done += (
            " Holm's correction is over these tasks, so verdicts can change until all are complete."
        )
    return done


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
                f"{effects.none.gap:+.2f} / {effects.gc.gap:+.2f}",
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
        "seeds to find half a point",
        "learning rates, without / with GC",
        "validation minus test accuracy, without / with GC",
    )
    foot = (
        "Test error in percent, each arm at the rates that cross-fitting chose for it. Below 0, GC has "
        "the lower error. Intervals: 95 %, Student's t (scipy.stats.ttest_1samp), over seeds. All seeds of a "
        "task share its test examples, whose choice the intervals do not contain. p: paired t-test "
        "(scipy.stats.ttest_rel), then after Holm's correction over the tasks "
        "(statsmodels multipletests). Equivalence within ±0.5 point: two one-sided tests, "
        "without a correction (statsmodels ttost_paired). Seeds: for power 0.8 at p < 0.05 before Holm's "
        "correction (statsmodels TTestPower)."
    )
    return f"## Primary outcome\n\n{make_table(header, rows)}\n\n{foot}"


def _over_tasks(findings: list[Finding]) -> str:
    found = overall(findings)
    if found is None:
        return ""
    means = np.asarray([finding.effects.difference.mean for finding in findings])
    lines = "\n".join(_lines_over_tasks(findings))
    return (
        f"## Over the tasks\n\n{lines}\n\n"
        "Random effects by statsmodels combine_effects (Paule and Mandel; interval by Hartung, Knapp, "
        "Sidik and Jonkman), sign test by scipy.stats.binomtest. The true differences vary between tasks with "
        f"a standard deviation of {found[0].tau:.2f}. The prediction interval is one for the true difference in "
        "a task that is drawn like these. It assumes that true differences are normally distributed, but those "
        f"that were measured range from {means.min():+.2f} to {means.max():+.2f} around a median of "
        f"{np.median(means):+.2f}. The mean over data sets was added after results were seen."
    )


def _lines_over_tasks(findings: list[Finding]) -> list[str]:
    """Returns a line for each result over all tasks; none for fewer than three tasks."""
    found = overall(findings)
    if found is None:
        return []
    mean, verdict = found
    lower, count, p_value = sign_test(
        np.asarray([finding.effects.difference.mean for finding in findings])
    )
    return [
        f"- Verdicts: {count_verdicts([finding.verdict for finding in findings])}.",
        (
            f"- Mean difference: {mean.mean:+.2f} points, 95 % interval {mean.low:+.2f} to "
            f"{mean.high:+.2f}: **{verdict}**."
        ),
        (
            f"- For a new task, the 95 % prediction interval of the difference is {mean.new_low:+.2f} to "
            f"{mean.new_high:+.2f}."
        ),
        f"- GC has the lower error in {lower} of {count} tasks (sign test, p = {show_p(p_value)}).",
        _over_data_sets(findings),
    ]


def _over_data_sets(findings: list[Finding]) -> str:
    """Returns a line about the means of the data sets, since tasks that share one are not independent."""
    by_set: dict[str, list[float]] = {}
    for finding in findings:
        by_set.setdefault(finding.effects.task.dataset, []).append(finding.effects.difference.mean)
    means = np.asarray([np.mean(values) for values in by_set.values()])
    difference = paired_difference(means, np.zeros(len(means)))
    return (
        f"- Tasks that share a data set are not independent. The mean over the means of the {len(means)} data "
        f"sets is {show_difference(difference)} points, and GC has the lower error in "
        f"{(means < 0).sum()} of them."
    )


_OPTIMIZERS = {"sgdm": "SGDM", "adamw": "AdamW", "muon": "Muon"}


def _kind(task: Task) -> str:
    """Returns what kind of net a task has. Only transformers are trained by several optimizers."""
    if task.family in ("vit", "lm"):
        return f"transformer, {_OPTIMIZERS[task.optimizer]}"
    net = {"mlp": "dense net", "resnet8": "ResNet-8"}[task.family]
    return f"{net}, {NORM_LABELS[task.norm]}"


_GROUPING = (
    "Transformers were grouped by their optimizer after their results were seen, so this table only describes "
    "and tests nothing."
)


def _by_kind(findings: list[Finding]) -> str:
    foot = (
        "The mean of the differences of the tasks, in points of test error with both arms tuned, with "
        "the lowest and the highest. Each task counts the same. Below 0, GC is better. "
    )
    return f"## By kind of net\n\n{_kinds(findings)}\n\n{foot}{VERDICTS} {_GROUPING}"


def _kinds(findings: list[Finding]) -> str:
    """Returns a table with a row for each kind of net."""
    kinds: dict[str, list[Finding]] = {}
    for finding in findings:
        kinds.setdefault(_kind(finding.effects.task), []).append(finding)
    rows = []
    for kind, members in kinds.items():
        means = [member.effects.difference.mean for member in members]
        words = [member.verdict for member in members]
        rows.append(
            (
                kind,
                len(members),
                f"{np.mean(means):+.2f} ({min(means):+.2f} to {max(means):+.2f})",
                *(words.count(word) for word in get_args(Verdict)),
            )
        )
    header = (
        "network (trained by SGD with momentum, SGDM, if no optimizer is named)",
        "tasks",
        "difference (lowest to highest)",
        *get_args(Verdict),
    )
    return make_table(header, rows) if rows else ""


def _secondary(findings: list[Finding]) -> str:
    rows = []
    for finding in findings:
        effects = finding.effects
        none, gc = effects.none, effects.gc
        rows.append(
            (
                effects.task.name,
                f"{none.test_loss.mean():.3f} / {gc.test_loss.mean():.3f}",
                f"{none.train_loss.mean():.3f} / {gc.train_loss.mean():.3f}",
                _show_ratio(effects.steps),
                effects.never,
                _show_ratio(effects.steps_of_none),
                _stable(effects),
                f"{effects.collapsed[0]} / {effects.collapsed[1]}",
                f"{100 * effects.share_removed:.0f} %",
            )
        )
    header = (
        "task",
        "test loss, without / with GC",
        "training loss, without / with GC",
        "steps with GC, ratio",
        "never",
        "steps of training without GC, ratio",
        "largest stable learning rate, ratio",
        "collapsed runs, without / with GC",
        "share removed at the start",
    )
    foot = (
        "Losses in nats; the training loss is that of at most 1000 examples. Steps with GC: the number that "
        "training with GC needs to reach the best validation loss without GC, divided by the number without "
        "GC. A seed that does not reach it (never: their number) counts as one measurement more than there "
        "are. So this ratio is above 1 even if GC has no effect. The steps of training without GC, to the best "
        "validation loss with GC, show how far. Largest stable learning rate: that with GC divided by "
        "that without; it is limited if one of the two is the largest of the grid. Share removed: of the squared norm "
        "of the gradients in the first batch."
    )
    return f"## Secondary outcomes\n\n{make_table(header, rows)}\n\n{foot}"


def _show_ratio(ratio: Ratio) -> str:
    return f"{ratio.mean:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def _stable(effects: TaskEffects) -> str:
    if effects.stable is None:
        return ""
    return f"{show_ratio(effects.stable)}{' (limited)' if effects.limited else ''}"


def _by_rate(findings: list[Finding]) -> str:
    offsets = sorted({at.offset for finding in findings for at in finding.effects.by_rate})
    rows = []
    for finding in findings:
        at = {one.offset: one.difference for one in finding.effects.by_rate}
        cells = [show_difference(at[o]) if o in at else "" for o in offsets]
        rows.append((finding.effects.task.name, *cells))
    header = ("task", *(f"{offset:+d}" if offset else "best" for offset in offsets))
    foot = (
        "The difference of the test error at the same learning rate with and without GC. Columns: "
        "half-decades above the best learning rate without GC, which is the one that is best over the same "
        "seeds. This favors training without GC a little in that column."
    )
    return f"## By learning rate\n\n{make_table(header, rows)}\n\n{foot}"
