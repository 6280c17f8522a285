"""Runs the Python in every page of the site, page by page, so that no example can go stale.

A block of Python is run as it stands. Where a block shows prompts, its output must be what the page
says. All blocks of a page share one namespace, in order.
"""

import jax
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser

# The page on sharding needs devices. They can be made only before JAX is used.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

# Copies that the site's build makes of the notebooks, which are tested where they belong.
collect_ignore = ["notebooks", "conf.py"]


def set_up(namespace):
    # A page is run with the settings that its reader has, not with the stricter ones of the tests.
    namespace["_rank_promotion"] = jax.config.jax_numpy_rank_promotion
    jax.config.update("jax_numpy_rank_promotion", "allow")


def tear_down(namespace):
    jax.config.update("jax_numpy_rank_promotion", namespace["_rank_promotion"])


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    pattern="*.md",
    setup=set_up,
    teardown=tear_down,
).pytest()
