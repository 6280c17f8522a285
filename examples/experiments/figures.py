"""Draws the paper's figures, and one more, from the results that exist. Nothing is trained.

    python -m examples.experiments.figures
    python -m examples.experiments.figures figure5 figure7

The runs are made by `examples.experiments.run`.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from examples.experiments.columns import Scale
from examples.experiments.store import RESULTS
from examples.training.errors import SettingError, report_errors


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Draws figures from the results that exist."""

    figures: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Any of figure3 to figure7 and curvature. By default, all that the scale has."""
    scale: Scale = "cpu"
    """The scale of the runs."""
    out: Path | None = None
    """The folder of the pictures. By default, it is examples/experiments/results/SCALE/figures."""

    def __post_init__(self):
        for name in self.figures:
            if name not in self.known:
                known = ", ".join(self.known)
                raise SettingError(f"no figure {name!r} at --scale {self.scale}; there are {known}")

    @property
    def known(self) -> list[str]:
        """The figures of the scale."""
        from examples.experiments.definitions import EXPERIMENTS
        from examples.experiments.drawing import FIGURES

        return [n for n, p in FIGURES.items() if self.scale in EXPERIMENTS[p.experiment].columns]


def main() -> None:
    command = "python -m examples.experiments.figures"
    with report_errors("stopped"):
        arguments = tyro.cli(Arguments, prog=command, description=__doc__)
        from examples.experiments.drawing import draw

        out = arguments.out or RESULTS / arguments.scale / "figures"
        for name in arguments.figures or arguments.known:
            print(f"{name}: {draw(name, arguments.scale, out, results=RESULTS)}")


if __name__ == "__main__":
    main()
