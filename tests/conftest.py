"""One process with eight virtual devices, and arithmetic that never guesses a shape."""

import signal

import jax
import pytest

# What a shell runs in the background has Ctrl-C ignored, and so have its children.
signal.signal(signal.SIGINT, signal.default_int_handler)

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Float64 for the length of one test."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)
