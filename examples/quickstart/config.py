"""The quickstart's settings. Importing this is fast, so that ``--help`` is too."""

import dataclasses
import os
from pathlib import Path
from typing import Literal

BATCH = 50
POOL = 3000  # training images are drawn from these; the other 2000 are the test set
QUICK = {"seeds": 2, "epochs": 3}


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains a small ResNet on MNIST digits without GC, with GC and with optax.centralize.

    The three arms share their initial weights, their images and their batches. The program prints
    a table of test accuracy, training loss and what GC does to gradients and weights, and saves a
    picture. Nothing is downloaded.
    """

    seeds: int = 10
    """Number of repetitions. Each seed draws its own weights, training images and batches."""
    epochs: int = 25
    """Passes over the training images, in batches of 50."""
    quick: bool = False
    """Run 2 seeds of 3 epochs, in about half a minute. The interval is then wide: this shows how
    the program works, not whether GC helps."""
    learning_rate: float = 0.1
    """Initial learning rate of SGD. It falls to 0 along a cosine, and is not tuned for any arm."""
    norm: Literal["gn", "bn"] = "gn"
    """Group normalization or batch normalization."""
    train_images: int = 300
    """Number of training images, 50 to 3000. The test set is another 2000 images."""
    out: Path = Path("quickstart.png")
    """File of the picture: .png, .pdf or .svg."""

    def __post_init__(self):
        if self.quick:
            for name, value in QUICK.items():
                if getattr(self, name) not in (
                    value,
                    type(self).__dataclass_fields__[name].default,
                ):
                    raise ValueError(f"--quick sets --{name} to {value}: leave out one of the two")
                object.__setattr__(self, name, value)
        if self.seeds < 2:
            raise ValueError(f"--seeds {self.seeds}: an interval needs at least 2 seeds")
        if self.epochs < 1:
            raise ValueError(f"--epochs {self.epochs}: it must be at least 1")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"--learning-rate {self.learning_rate}: a positive number is needed")
        if not BATCH <= self.train_images <= POOL:
            raise ValueError(f"--train-images {self.train_images}: choose {BATCH} to {POOL}")
        if self.out.suffix not in (".png", ".pdf", ".svg"):
            raise ValueError(f"--out {self.out}: the name must end in .png, .pdf or .svg")
        if self.out.is_dir() or not os.access(self.out.absolute().parent, os.W_OK):
            raise ValueError(f"--out {self.out}: no file can be written there")

    @property
    def steps_per_epoch(self) -> int:
        return self.train_images // BATCH
