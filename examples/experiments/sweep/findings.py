"""What the tasks of E1 show, each among all that are complete."""

import dataclasses
from pathlib import Path

from examples.experiments.statistics import Overall, Verdict, adjust, combine, judge
from examples.experiments.sweep.effects import TaskEffects, measure_effects
from examples.experiments.sweep.results import TaskResults
from examples.experiments.sweep.tasks import tasks_of


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
