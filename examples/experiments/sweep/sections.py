"""The sections of the sweep's report, in Markdown."""

from pathlib import Path
from typing import get_args

import numpy as np

from examples.experiments.markdown import make_table, show_difference, show_p, show_rates
from examples.experiments.statistics import Verdict, adjust, rank_correlation, sign_test
from examples.experiments.sweep.arms import CONTROLS, Arm
from examples.experiments.sweep.findings import Finding, overall
from examples.experiments.sweep.followups import (
    compare_gc,
    compare_places,
    write_fine_tuning,
    write_full_size,
    write_images_and_steps,
    write_places,
)
from examples.experiments.sweep.tasks import NORM_LABELS, SEEDS, Task, tasks_of


def write_summary(findings: list[Finding]) -> str:
    """Returns how much is complete, what it says over all tasks, and a row for each kind of net."""
    over_tasks = _over_tasks(findings).partition("\n\n")[2].partition("\n\n")[0]
    return "\n\n".join(
        part for part in (_completeness(findings), over_tasks, _kinds(findings)) if part
    )


def write_report(findings: list[Finding]) -> str:
    """Returns the tables of the sweep in Markdown."""
    sections = [f"# The study of learning rates: results\n\n{_completeness(findings)}"]
    if findings:
        sections += [_primary(findings), _over_tasks(findings), _by_kind(findings)]
        sections += [_secondary(findings), _by_rate(findings), _controls(findings), _law(findings)]
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
        "seeds to find half a point",
        "learning rates, without / with GC",
        "validation minus test accuracy, without / with GC",
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
    counts = ", ".join(f"{word}: {words.count(word)}" for word in get_args(Verdict))
    return (
        "## Over the tasks\n\n"
        f"- Verdicts: {counts}.\n"
        f"- Mean difference: {mean.mean:+.2f} points, 95 % interval {mean.low:+.2f} to "
        f"{mean.high:+.2f}: **{verdict}**.\n"
        f"- For a new task, the 95 % prediction interval of the difference is {mean.new_low:+.2f} to "
        f"{mean.new_high:+.2f}. The true differences vary between tasks with a standard deviation of "
        f"{mean.tau:.2f}.\n"
        f"- GC has the lower error in {lower} of {count} tasks (sign test, p = {show_p(p_value)}).\n\n"
        "Random effects by statsmodels combine_effects (Paule and Mandel; interval by Hartung, Knapp, "
        "Sidik and Jonkman), sign test by scipy.stats.binomtest."
    )


_OPTIMIZERS = {"sgdm": "SGDM", "adamw": "AdamW", "muon": "Muon"}


def _kind(task: Task) -> str:
    """Returns what kind of net a task has. Only transformers are trained by several optimizers."""
    if task.family in ("vit", "lm"):
        return f"transformer, {_OPTIMIZERS[task.optimizer]}"
    net = {"mlp": "dense net", "resnet8": "ResNet-8"}[task.family]
    return f"{net}, {NORM_LABELS[task.norm]}"


def _by_kind(findings: list[Finding]) -> str:
    foot = (
        "The mean of the differences of the tasks, in points of test error with both arms tuned, with "
        "the lowest and the highest. Each task counts the same. Below 0, GC is better. The grouping of "
        "transformers by their optimizer was chosen after their results were seen. So this table only "
        "describes; it is not a test."
    )
    return f"## By kind of net\n\n{_kinds(findings)}\n\n{foot}"


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
        "test loss, without / with GC",
        "training loss, without / with GC",
        "steps, ratio",
        "never",
        "largest stable learning rate, ratio",
        "collapsed runs, without / with GC",
        "share removed at the start",
    )
    foot = (
        "Losses in nats. Steps: the number that training with GC needs to reach the best validation loss "
        "without GC, divided by the number without GC. Never: the number of seeds with GC that did not "
        "reach it. Largest stable learning rate: that with GC divided by that without. Share removed: of "
        "the squared norm of the gradients in the first batch."
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
        "The difference of the test error at the same learning rate with and without GC. Columns: "
        "half-decades above the best learning rate without GC."
    )
    return f"## By learning rate\n\n{make_table(header, rows)}\n\n{foot}"


def _controls(findings: list[Finding]) -> str:
    sections = []
    arms: tuple[Arm, ...] = ("gc", *CONTROLS)
    for index, title in enumerate(("the best learning rate without GC", "a half-decade above it")):
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
        "The difference of the test error to that without any change of the gradient, at the same learning "
        "rate. *: p < 0.05 after Holm's correction over the tasks of the arm."
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
    lines, predicted = [], []
    for name, x, y in (
        ("the difference at the chosen rates", shares, gains),
        ("the ratio of the largest stable learning rates", shares[known], ratios),
    ):
        if len(x) < 5 or not np.ptp(x) or not np.ptp(y):
            lines.append(f"- With {name}: too few tasks differ.")
            predicted.append(0.0)
            continue
        value, low, high = rank_correlation(x, y)
        predicts = low > 0 or high < 0
        predicted.append(value if predicts else 0.0)
        word = "predicts it" if predicts else "does not predict it"
        lines.append(f"- With {name}: {value:+.2f} ({low:+.2f} to {high:+.2f}): the share {word}.")
    return (
        "## What the first batch tells\n\nSpearman's correlation, over the tasks, of the share of the squared norm that "
        "GC removes in the first batch (scipy.stats.spearmanr, interval by scipy.stats.bootstrap):\n\n"
        + "\n".join(lines)
        + f"\n\n{_advise(*predicted)}\n\n<!-- end of the first batch -->"
    )


def _advise(gain: float, stable: float) -> str:
    """Returns what a user should expect of a new net from one batch.

    Args:
      gain: the correlation of the share with the difference of the error; 0 if it does not predict it.
      stable: the same with the ratio of the largest stable rates.
    """
    advice = ["For a new net:"]
    if gain:
        way = "lower" if gain < 0 else "higher"
        advice.append(f"the more GC removes in one batch, the {way} its error is with GC.")
    else:
        advice.append(
            "how much GC removes in one batch does not say whether GC lowers its error. Train it with "
            "and without GC."
        )
    if stable:
        way = "larger" if stable > 0 else "smaller"
        advice.append(
            f"Tasks in which GC removes more tend to have {way} stable learning rates with GC than without."
        )
    return " ".join(advice)
