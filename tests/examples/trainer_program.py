"""The trainer as a program, for tests that run it in their own process."""

import sys
from typing import Any

import pytest

from examples import train_classifier

# A run that takes seconds, on one of the devices.
SMALL = ("digits", "--width", 4, "--epochs", 1, "--data-parallel", 1)


def main(patch: pytest.MonkeyPatch, *flags: Any) -> None:
    """Runs the program with these flags."""
    patch.setattr(sys, "argv", ["train_classifier", *map(str, flags)])
    train_classifier.main()
