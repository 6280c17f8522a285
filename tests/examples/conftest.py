"""Fixtures that the tests of the examples share."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    """Makes the compiler fast and not its programs, and keeps these for other processes.

    A small net trains for less time than it takes to optimize it.

    Returns:
      The variables with which other processes do the same.
    """
    names = (
        "jax_disable_most_optimizations",
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
    )
    values = (True, str(tmp_path_factory.mktemp("compiled")), 0)
    before = {name: jax.config.values[name] for name in names}
    for name, value in zip(names, values, strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield {name.upper(): str(value) for name, value in zip(names, values, strict=True)}
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
