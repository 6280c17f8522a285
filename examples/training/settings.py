"""The settings that every trainer has, such as the epochs, the optimizer and the centralization."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from examples.training.errors import SettingError

Optimizer = Literal["sgd", "sgdw", "adam", "adamw", "adagrad"]
Schedule = Literal["constant", "step", "cosine"]
GC = Literal["off", "conv", "conv+fc", "optax.centralize"]


AnySettings = TypeVar("AnySettings")


def from_json(kind: type[AnySettings], fields: Mapping[str, Any]) -> AnySettings:
    """Returns settings from their JSON form, which has lists in the place of tuples.

    Raises:
      TypeError: a field is not one of these settings, or one is missing.
      SettingError: a setting is not possible.
    """
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings that determine the results of a run, up to rounding. A trainer adds its own."""

    epochs: int
    """The number of passes over the training images."""
    batch_size: int
    """The number of images in a step, over all devices. The last images of an epoch are left out if they do not fill a batch."""
    learning_rate: float
    """The learning rate after the warm-up and before the schedule lowers it."""
    weight_decay: float
    """The weight decay of every parameter: coupled (L2) in sgd, adam and adagrad; decoupled in sgdw and adamw."""
    gc: GC = "conv+fc"
    """Which gradients to centralize: none (off), those of convolutions (conv), or of all layers (conv+fc). optax.centralize averages over other axes and is a control."""
    seed: int = 0
    """The seed of everything random: initial weights, order of the images, augmentation, choice of images."""
    optimizer: Optimizer = "sgd"
    """The optimizer. sgd and sgdw use momentum."""
    momentum: float = 0.9
    """The momentum of sgd and sgdw."""
    clip_norm: float | None = None
    """Scale gradients with a larger global L2 norm down to this norm, before they are centralized."""
    schedule: Schedule = "step"
    """How the learning rate changes: never (constant), by a factor of 0.1 at each milestone (step), or to 0 along a cosine (cosine)."""
    milestones: tuple[int, ...] = ()
    """The epochs after which the step schedule multiplies the learning rate by 0.1."""
    warmup_epochs: int = 0
    """The number of epochs over which the learning rate rises linearly at the start."""
    warmup_steps: int = 0
    """The same as a number of steps. Set only one of the two."""
    warmup_from: float | None = None
    """The fraction of the learning rate at which the warm-up starts. By default, step k of n has the fraction k/n."""
    pretrained: str | None = None
    """The weights to start from, without the last layer: a .safetensors or .pth file in PyTorch's layout, or the folder of a run."""
    evaluate_every: int = 1
    """The number of epochs between evaluations. The last epoch always has one."""

    def __post_init__(self):
        for field in ("epochs", "batch_size", "evaluate_every"):
            self.require(getattr(self, field) >= 1, field, "it must be at least 1")
        for field in ("learning_rate", "clip_norm"):
            value = getattr(self, field)
            positive = value is None or 0 < value < float("inf")
            self.require(positive, field, "it must be a positive number")
        self.require(0 <= self.weight_decay < float("inf"), "weight_decay", "it must be 0 or more")
        self.require(0 <= self.momentum < 1, "momentum", "it must be at least 0 and below 1")
        self.require(0 <= self.seed < 2**32, "seed", "it must be from 0 to 2**32 - 1")
        self.require(
            0 <= self.warmup_epochs < self.epochs, "warmup_epochs", "it must be below --epochs"
        )
        self.require(self.warmup_steps >= 0, "warmup_steps", "it must be 0 or more")
        self.require(
            not (self.warmup_epochs and self.warmup_steps),
            "warmup_steps",
            "set either this or --warmup-epochs",
        )
        start = self.warmup_from
        self.require(
            start is None or 0 <= start <= 1, "warmup_from", "it must be a fraction from 0 to 1"
        )
        self.require(
            start is None or bool(self.warmup_epochs or self.warmup_steps),
            "warmup_from",
            "it needs --warmup-steps or --warmup-epochs",
        )
        self.require(self.pretrained != "", "pretrained", "it must name a file or a folder")
        inside = all(self.warmup_epochs < milestone < self.epochs for milestone in self.milestones)
        self.require(
            inside and list(self.milestones) == sorted(set(self.milestones)),
            "milestones",
            "these must be rising epochs after the warm-up and before the end",
        )
        self.require(
            bool(self.milestones) == (self.schedule == "step"),
            "milestones",
            "the step schedule needs them, and the other schedules have none",
        )

    def check_steps(self, steps_per_epoch: int, devices: int) -> None:
        """Checks what the number of steps and of devices decides.

        Raises:
          SettingError: the batch does not divide among the devices, the run has too many steps, or
            the warm-up ends after the run or after the first milestone.
        """
        self.require(
            not self.batch_size % devices,
            "batch_size",
            f"it must be a multiple of the {devices} devices",
        )
        steps = self.epochs * steps_per_epoch
        self.require(
            steps < 2**31,
            "epochs",
            f"an epoch has {steps_per_epoch} steps, and Optax counts fewer than 2**31",
        )
        self.require(self.warmup_steps < steps, "warmup_steps", f"the run has only {steps} steps")
        if self.milestones:
            first = self.milestones[0] * steps_per_epoch
            self.require(
                self.warmup_steps < first,
                "warmup_steps",
                f"it must be below {first}, the step of the first of --milestones, because an epoch "
                f"has {steps_per_epoch} steps",
            )

    def require(self, condition: bool, field: str, rule: str) -> None:
        """Raises a SettingError that names the field's flag and its value, unless `condition`."""
        if not condition:
            flag = "--" + field.replace("_", "-")
            raise SettingError(f"{flag} {getattr(self, field)}: {rule}")
