"""The columns of which a table or figure consists, each trained for every arm and seed.

A column is what the paper writes in one column of a table, or draws as one pair of curves. Its arms
differ only in their centralization. Where it has a grid, each arm is trained at every learning rate
by the rules of PLAN.md: with validation images held out, and again without at the rate that the other
seeds choose.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

from examples.training.settings import GC, Settings

Scale = Literal["paper", "cpu"]
Observer = Literal["start", "weights", "gradients", "curvature"]
AnySettings = TypeVar("AnySettings", bound=Settings)

# The first seed of a column with a grid, as in the sweep. The seeds of other columns begin with 0.
_FIRST_SEED = 100


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number of a finished run that a table shows.

    Attributes:
      name: its key in a result, such as "test_accuracy".
      title: its name and unit, as a table shows them.
      training: the key of the same number on training images, if there is one.
      complement: show 100 minus the number: an error for an accuracy.
      factor: show so many times the number: 100 for the points of an AP from 0 to 1.
    """

    name: str
    title: str
    training: str | None = None
    complement: bool = False
    factor: float = 1.0

    def shown(self, values: Any) -> Any:
        """Returns the values as a table shows them."""
        return 100 - values if self.complement else self.factor * values


ACCURACY = Metric("test_accuracy", "accuracy, %", training="train_accuracy")
ERROR = Metric("test_accuracy", "top-1 error, %", training="train_accuracy", complement=True)


@dataclasses.dataclass(frozen=True)
class Column(Generic[AnySettings]):
    """A net, data set and optimizer that are trained with and without GC.

    Attributes:
      name: its name in tables and figures.
      config: the settings of every run, except for arm, seed and learning rate.
      arms: where gradients are centralized. The other arms are compared with the first.
      seeds: the number of seeds. The arms of a seed share initial weights, images and batches.
      rates: the learning rates of the grid; empty if the settings are used as they are.
      validation: the number of training images that choose among the grid and do not train in it.
      paper: the paper's mean of each arm.
      observe: what is measured along the run, instead of an evaluation at its end.
    """

    name: str
    config: AnySettings
    arms: tuple[GC, ...] = ("off", "conv+fc")
    seeds: int = 10
    rates: tuple[float, ...] = ()
    validation: int = 0
    paper: tuple[float, ...] = ()
    observe: Observer | None = None

    @property
    def seed_numbers(self) -> range:
        """The seeds themselves."""
        first = _FIRST_SEED if self.rates else 0
        return range(first, first + self.seeds)

    def paper_of(self, metric: Metric) -> tuple[float, ...]:
        """Returns the paper's mean of each arm for a metric; empty if it has none."""
        del metric
        return self.paper

    def grid_config(self, arm: GC, rate: float, seed: int) -> AnySettings:
        """Returns a run of the grid, which is evaluated on validation images."""
        config = with_learning_rate(self.config, rate)
        fields: dict[str, Any] = {"validation": self.validation}
        return dataclasses.replace(config, gc=arm, seed=seed, **fields)

    def grid_configs(self) -> Iterator[AnySettings]:
        """Yields the runs of the grid."""
        for rate, seed, arm in itertools.product(self.rates, self.seed_numbers, self.arms):
            yield self.grid_config(arm, rate, seed)

    def configs(self, chosen: Mapping[str, Sequence[float]] | None) -> Iterator[AnySettings]:
        """Yields the runs that are reported, with all arms of a seed before the next seed.

        Args:
          chosen: the learning rate of each arm and seed; None for the one of the settings.
        """
        for place, seed in enumerate(self.seed_numbers):
            for arm in self.arms:
                config = (
                    with_learning_rate(self.config, chosen[arm][place]) if chosen else self.config
                )
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

    @property
    def config_type(self) -> type[AnySettings]:
        """The type of the settings of its runs."""
        return type(next(iter(self.columns.values()))[0].config)


def with_learning_rate(config: AnySettings, rate: float) -> AnySettings:
    """Sets the learning rate. The rate of the last layer is scaled with it."""
    changes: dict[str, Any] = {"learning_rate": rate}
    head = getattr(config, "head_learning_rate", None)
    if head is not None:
        changes["head_learning_rate"] = rate * (head / config.learning_rate)
    return dataclasses.replace(config, **changes)
