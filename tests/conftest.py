"""Sets up eight virtual devices of the CPU and a quick compiler, and makes implicit rank promotion an error.

Where JAX_PLATFORMS names another platform, tests run on that one.
"""

import os
import signal

import jax
import pytest

# A shell starts background programs with Ctrl-C ignored, and their children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

if os.environ.get("JAX_PLATFORMS", "cpu") == "cpu":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    # Most programs run for less time than it takes to optimize their machine code.
    if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"  # for the programs that tests start
        jax.config.update("jax_disable_most_optimizations", True)
else:
    # Accelerators round the factors of a float32 product unless they are told not to.
    jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def optimized():
    """Optimizes the machine code of one test, as for a user."""
    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    jax.config.update(name, False)
    yield
    jax.config.update(name, before)


@pytest.fixture
def x64():
    """Enables float64 during one test."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)
