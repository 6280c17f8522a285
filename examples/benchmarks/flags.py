"""What the flags of the benchmarks accept. Nothing large is imported, so that ``--help`` is quick."""

import difflib
import os
from pathlib import Path

NETS = (
    "resnet20",
    "resnet18",
    "resnet50",
    "resnet101",
    "resnext101_64x4d",
    "densenet121",
    "vgg11",
    "vit_b16",
)
# The numbers of parameters and leaves. One series varies the parameters, the other the leaves.
SYNTHETIC = {
    "1e5x100": (1e5, 100),
    "1e6x100": (1e6, 100),
    "1e7x100": (1e7, 100),
    "1e8x100": (1e8, 100),
    "1e9x100": (1e9, 100),
    "1e7x10": (1e7, 10),
    "1e7x400": (1e7, 400),
    "1e7x2000": (1e7, 2000),
}
TREES = (*NETS, *SYNTHETIC)
STEP_NETS = ("resnet20", "resnet50", "vit_b16")
OPTIMIZERS = ("sgdm", "adam", "adamw")
MIN_ROUNDS = 6  # fewer samples have no 95 % interval of the median


def check_tree(name: str) -> None:
    """Checks the name of a parameter tree.

    Raises:
      ValueError: an unknown name. The message lists the known ones, with the nearest first.
    """
    _check(name, "tree", TREES)


def check_optimizer(name: str) -> None:
    """Checks the name of an optimizer.

    Raises:
      ValueError: an unknown name. The message lists the known ones, with the nearest first.
    """
    _check(name, "optimizer", OPTIMIZERS)


def can_write(path: Path) -> bool:
    """Returns whether a file can be written at a path."""
    target = path if path.exists() else path.absolute().parent
    return not path.is_dir() and os.access(target, os.W_OK)


def _check(name: str, kind: str, known: tuple[str, ...]) -> None:
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=len(known), cutoff=0.0)
        raise ValueError(f"no {kind} is called {name!r}; there are {', '.join(nearest)}")
