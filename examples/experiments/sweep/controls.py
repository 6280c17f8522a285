"""The sections of the sweep's report on the controls, in Markdown."""

from examples.experiments.markdown import make_table, show_difference
from examples.experiments.statistics import LEVEL, Difference, adjust
from examples.experiments.sweep.arms import CONTROLS, Arm
from examples.experiments.sweep.findings import Finding

_RATES = ("the best learning rate without GC", "a half-decade above it")


def write_controls(findings: list[Finding]) -> str:
    """Returns a table of each arm's difference to none at two rates, and the counts against GC."""
    sections = []
    arms: tuple[Arm, ...] = ("gc", *CONTROLS)
    for index, title in enumerate(_RATES):
        by_arm = {
            arm: [finding.effects.controls[arm][index] for finding in findings] for arm in arms
        }
        marks = {arm: _significant(differences) for arm, differences in by_arm.items()}
        rows = [
            (
                finding.effects.task.name,
                *(
                    f"{show_difference(by_arm[arm][i])}{'*' if marks[arm][i] else ''}"
                    for arm in arms
                ),
            )
            for i, finding in enumerate(findings)
        ]
        header = ("task", *(arm.replace("_", " ") for arm in arms))
        sections.append(f"## Controls at {title}\n\n{make_table(header, rows)}")
    foot = (
        "The difference of the test error to that without any change of the gradient, at the same learning "
        "rate. *: p < 0.05 after Holm's correction over the tasks of the arm and the rate. The best rate "
        "without GC is the one that is best over the same seeds, which favors training without GC a little."
    )
    return "\n\n".join([*sections, foot, _write_counts(findings)])


def _write_counts(findings: list[Finding]) -> str:
    rows = []
    for index, title in enumerate(_RATES):
        for arm in CONTROLS:
            to_none = [finding.effects.controls[arm][index] for finding in findings]
            to_gc = [finding.effects.beyond[arm][index] for finding in findings]
            rows.append((title, arm.replace("_", " "), *_count(to_none), *_count(to_gc)))
    header = (
        *("learning rate", "control"),
        *("control below no change", "above"),
        *("GC below the control", "above"),
    )
    foot = (
        "The number of tasks in which one test error is below or above the other with p < 0.05 in a paired "
        f"t-test, after Holm's correction over the {len(findings)} tasks."
    )
    return "\n\n".join(
        ["## GC and the controls", summarize_controls(findings), make_table(header, rows), foot]
    )


def summarize_controls(findings: list[Finding]) -> str:
    """Returns in words in how many tasks GC has a lower error than each control."""
    texts = []
    for index in range(len(_RATES)):
        counts = [
            _count([finding.effects.beyond[arm][index] for finding in findings]) for arm in CONTROLS
        ]
        texts += [f"{a}, {b} and {c}" for a, b, c in zip(*counts, strict=True)]
    below, above, later_below, later_above = texts
    return (
        "Is it the mean that matters? Controls remove a random direction, make the gradients as short as GC "
        "does, or use `optax.centralize`. At the best learning rate without GC, GC has a lower error than "
        f"these in {below} tasks, and a higher one in {above} (p < 0.05 after Holm's correction). A "
        f"half-decade above that rate, it is lower in {later_below}, and higher in {later_above}."
    )


def _significant(differences: list[Difference]) -> list[bool]:
    return [p_value < LEVEL for p_value in adjust([one.p_value for one in differences])]


def _count(differences: list[Difference]) -> tuple[int, int]:
    """Returns how many differences are below 0, and above 0, after Holm's correction."""
    marks = _significant(differences)
    found = [one.mean for one, sure in zip(differences, marks, strict=True) if sure]
    return sum(mean < 0 for mean in found), sum(mean > 0 for mean in found)
