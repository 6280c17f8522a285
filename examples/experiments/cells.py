"""What a table or figure consists of: cells, each trained once for every arm and seed.

A cell is what the paper gives one column of a table or one pair of curves. Its arms differ in GC
alone. Where it has a grid, the learning rate and decay are chosen by it for the arm without GC, on
validation images, and the other arms take them over.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Literal

from examples.runs import Config
from examples.training.optimizers import GC

Scale = Literal["paper", "cpu"]
Observer = Literal["start", "weights", "gradients", "curvature"]

# Apart from the seeds that are reported, so that these have no part in the choice.
GRID_SEEDS = (1000, 1001)
# Training images that choose and do not train, in the grid alone.
_VALIDATION = {"fashion_mnist": 2000, "mnist5k": 1000, "digits": 500}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One net, data set and optimizer, trained with and without GC.

    Attributes:
      name: as tables and figures write it.
      config: of every run but for arm and seed.
      arms: where gradients are centralized; the first is what the others are compared with.
      seeds: how many; arms share weights, images and batches of a seed.
      rates: the learning rates of the grid; none for a config that is taken as it is.
      decays: the weight decays of the grid.
      paper: the paper's mean of each arm, accuracy or top-1 error in %.
      observe: what is measured along the run, instead of an evaluation at its end.
    """

    name: str
    config: Config
    arms: tuple[GC, ...] = ("off", "conv+fc")
    seeds: int = 10
    rates: tuple[float, ...] = ()
    decays: tuple[float, ...] = ()
    paper: tuple[float, ...] = ()
    observe: Observer | None = None

    def grid(self) -> Iterator[Config]:
        """Gives the runs that the learning rate and decay are chosen by: validation, no GC."""
        validation = _VALIDATION.get(self.config.dataset, 0)
        for rate, decay, seed in itertools.product(self.rates, self.decays, GRID_SEEDS):
            config = with_hyperparameters(self.config, rate, decay)
            yield dataclasses.replace(config, gc=self.arms[0], seed=seed, validation=validation)

    def runs(self, rate: float, decay: float) -> Iterator[Config]:
        """Gives the runs that are reported, all arms of a seed before the next seed."""
        config = with_hyperparameters(self.config, rate, decay)
        for seed, arm in itertools.product(range(self.seeds), self.arms):
            yield dataclasses.replace(config, gc=arm, seed=seed)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A table or figure.

    Attributes:
      title: what the paper says above it, or what it shows.
      cells: in the paper's order, at each scale that it is defined at.
      error: whether the paper gives the top-1 error instead of the accuracy.
    """

    title: str
    cells: dict[Scale, tuple[Cell, ...]]
    error: bool = False


def with_hyperparameters(config: Config, rate: float, decay: float) -> Config:
    """Sets the learning rate, the last layer's in proportion, and the decay."""
    head = config.head_learning_rate
    if head is not None:
        head = rate * (head / config.learning_rate)
    return dataclasses.replace(
        config, learning_rate=rate, head_learning_rate=head, weight_decay=decay
    )
