"""The section of the sweep's report on what the first batch tells, in Markdown."""

import numpy as np

from examples.experiments.statistics import rank_correlation
from examples.experiments.sweep.findings import Finding


def write_law(findings: list[Finding]) -> str:
    """Returns the section, or nothing if fewer than five tasks are complete."""
    if len(findings) < 5:
        return ""
    effects = [finding.effects for finding in findings]
    known = [one for one in effects if one.stable is not None]
    difference, predicts_difference = _correlate(
        "the difference at the chosen rates",
        [one.share_removed for one in effects],
        [one.difference.mean for one in effects],
    )
    stable, predicts_stable = _correlate(
        "the ratio of the largest stable learning rates",
        [one.share_removed for one in known],
        [one.stable or 0 for one in known],
    )
    same = sum(not one.stable for one in known)
    limited = sum(one.limited for one in known)
    return (
        "## What the first batch tells\n\nSpearman's correlation, over the tasks, of the share of the "
        "squared norm that GC removes from the gradients of the first batch (scipy.stats.rankdata and "
        "pearsonr, interval by scipy.stats.bootstrap):\n\n"
        f"{difference}\n{stable}\n\n"
        f"The largest stable learning rate is the same with GC and without it in {same} of {len(known)} "
        f"tasks. In {limited} tasks one of the two is the largest of the grid, so that the ratio could be "
        f"another with a larger grid.\n\n{_advise(predicts_difference, predicts_stable)}\n\n"
        "<!-- end of the first batch -->"
    )


def _correlate(name: str, shares: list[float], values: list[float]) -> tuple[str, float]:
    """Returns a line about a correlation, and the correlation, which is 0 if it does not predict."""
    x, y = np.asarray(shares), np.asarray(values)
    if len(x) < 5 or not np.ptp(x) or not np.ptp(y):
        return f"- With {name}: too few tasks differ.", 0.0
    value, low, high = rank_correlation(x, y)
    predicts = low > 0 or high < 0
    word = "predicts it" if predicts else "does not predict it"
    line = f"- With {name}: {value:+.2f} ({low:+.3f} to {high:+.3f}): the share {word}."
    return line, value if predicts else 0.0


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
            f"The more GC removes, the {way} the largest stable learning rate with GC tends to be, "
            "relative to that without GC."
        )
    return " ".join(advice)
