"""What the tests need to start a program of the examples."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# As in pyproject.toml: pycocotools 2.0.11 returns masks by what NumPy 2 calls an outdated protocol.
PYTHON = [
    *(sys.executable, "-W", "error", "-W"),
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
]
# All variables of the program.
ENVIRONMENT = {
    "PATH": "",
    "PYTHONPATH": str(ROOT),
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS", "false"),
}
