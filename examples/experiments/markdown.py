"""How the reports write tables, differences, p values, verdicts and rates in Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any, get_args

import numpy as np

from examples.experiments.statistics import Difference, Verdict

# What the words of the verdicts mean.
VERDICTS = (
    "*Helps* and *hurts* mean p < 0.05 after Holm's correction, *no difference* that the difference is shown to "
    "be within half a point, and *cannot tell* none of these."
)


def make_table(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def show_difference(difference: Difference) -> str:
    """Returns a difference with half of its 95 % interval, such as "-0.47 ± 0.24"."""
    return f"{difference.mean:+.2f} ± {difference.half_width:.2f}"


def show_p(value: float) -> str:
    """Returns a p value with three digits after the point."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def count_verdicts(verdicts: Sequence[Verdict]) -> str:
    """Returns how often each verdict was given, such as "helps: 2, hurts: 0, ..."."""
    return ", ".join(f"{word}: {verdicts.count(word)}" for word in get_args(Verdict))


def show_rates(rates: np.ndarray) -> str:
    """Returns the different ones of some rates, the most frequent one first."""
    values, counts = np.unique(rates, return_counts=True)
    return ", ".join(f"{values[i]:g}" for i in np.argsort(-counts, kind="stable"))
