"""The columns of which a table or figure consists, each trained once for every arm and seed.

A column is what the paper writes in one column of a table, or draws as one pair of curves. Its arms
differ only in their centralization. Where it has a grid, the learning rate and the weight decay are
chosen on validation images, without GC, and the other arms use the same ones.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, Generic, Literal, TypeVar

from examples.training.settings import GC, Settings

Scale = Literal["paper", "cpu"]
Observer = Literal["start", "weights", "gradients", "curvature"]
AnySettings = TypeVar("AnySettings", bound=Settings)

# These differ from the seeds that are reported, which therefore have no part in the choice.
GRID_SEEDS = (1000, 1001)


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number of a finished run that a table shows.

    Attributes:
      name: its key in a result, such as "test_accuracy".
      title: its name and unit, as a table shows them.
      training: the key of the same number on training images, if there is one.
      complement: show 100 minus the number: an error for an accuracy.
    """

    name: str
    title: str
    training: str | None = None
    complement: bool = False

    def shown(self, values: Any) -> Any:
        """Returns the values as a table shows them."""
        return 100 - values if self.complement else values


ACCURACY = Metric("test_accuracy", "accuracy, %", training="train_accuracy")
ERROR = Metric("test_accuracy", "top-1 error, %", training="train_accuracy", complement=True)


@dataclasses.dataclass(frozen=True)
class Column(Generic[AnySettings]):
    """A net, data set and optimizer that are trained with and without GC.

    Attributes:
      name: its name in tables and figures.
      config: the settings of every run, except for arm and seed.
      arms: where gradients are centralized. The other arms are compared with the first.
      seeds: the number of seeds. The arms of a seed share initial weights, images and batches.
      rates: the learning rates of the grid; empty if the settings are used as they are.
      decays: the weight decays of the grid.
      validation: the number of training images that choose among the grid and do not train in it.
      paper: the paper's mean of each arm.
      observe: what is measured along the run, instead of an evaluation at its end.
    """

    name: str
    config: AnySettings
    arms: tuple[GC, ...] = ("off", "conv+fc")
    seeds: int = 10
    rates: tuple[float, ...] = ()
    decays: tuple[float, ...] = ()
    validation: int = 0
    paper: tuple[float, ...] = ()
    observe: Observer | None = None

    def grid_configs(self) -> Iterator[AnySettings]:
        """Yields the runs that choose the learning rate and the decay, on validation images."""
        for rate, decay, seed in itertools.product(self.rates, self.decays, GRID_SEEDS):
            config = with_hyperparameters(self.config, rate, decay)
            fields: dict[str, Any] = {"validation": self.validation} if self.validation else {}
            yield dataclasses.replace(config, gc=self.arms[0], seed=seed, **fields)

    def configs(self, rate: float, decay: float) -> Iterator[AnySettings]:
        """Yields the runs that are reported, with all arms of a seed before the next seed."""
        config = with_hyperparameters(self.config, rate, decay)
        for seed, arm in itertools.product(range(self.seeds), self.arms):
            yield dataclasses.replace(config, gc=arm, seed=seed)


@dataclasses.dataclass(frozen=True)
class Experiment(Generic[AnySettings]):
    """A table or figure.

    Attributes:
      title: the title of the paper's table, or what is shown.
      columns: the columns in the paper's order, at each scale that the experiment has.
      metrics: what its table shows of a finished run. The first one chooses among a grid.
      trainer: which trainer makes its runs.
    """

    title: str
    columns: dict[Scale, tuple[Column[AnySettings], ...]]
    metrics: tuple[Metric, ...] = (ACCURACY,)
    trainer: Literal["classifier", "detector"] = "classifier"


def with_hyperparameters(config: AnySettings, rate: float, decay: float) -> AnySettings:
    """Sets the learning rate and the decay, and scales the rate of the last layer in proportion."""
    changes: dict[str, Any] = {"learning_rate": rate, "weight_decay": decay}
    head = getattr(config, "head_learning_rate", None)
    if head is not None:
        changes["head_learning_rate"] = rate * (head / config.learning_rate)
    return dataclasses.replace(config, **changes)
