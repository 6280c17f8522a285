"""The cards that programs are compiled for, and how their compilers are reached without a card.

Both compilers come as wheels and run on the CPU. They need only a description of the card and of
how many chips there are. The numbers of a card are those that its maker publishes: Google's pages
on the TPU versions, NVIDIA's data sheet of the H100 SXM5 80 GB. Matrix rates are for dense bfloat16.
"""

import difflib
import importlib.util
import os
import platform
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies


class Card(NamedTuple):
    """A card: its compiler, its memory, its speed, and how its chips can be wired."""

    name: str
    platform: str
    memory_bytes: float
    bytes_per_second: float
    flops_per_second: float
    topologies: Mapping[int, str]


CARDS = {
    card.name: card
    for card in (
        # A pod of v5e or v6e has 256 chips. The compiler takes larger shapes, but there are none.
        Card("v5e", "tpu", 16e9, 819e9, 197e12, {1: "1x1", 8: "2x4", 256: "16x16"}),
        Card(
            "v5p",
            "tpu",
            95e9,
            2765e9,
            459e12,
            {1: "1x1x1", 8: "2x2x2", 256: "4x8x8", 1024: "8x8x16", 4096: "16x16x16"},
        ),
        Card("v6e", "tpu", 32e9, 1640e9, 918e12, {1: "1x1", 8: "2x4", 256: "16x16"}),
        Card(
            "h100",
            "cuda",
            80e9,
            3352e9,
            989e12,
            {1: "1x1x1", 8: "1x1x8", 256: "1x32x8", 1024: "1x128x8", 4096: "1x512x8"},
        ),
    )
}
CHIPS = (1, 8, 256, 1024, 4096)

# The extra of pyproject.toml that brings each compiler, and the module that tells whether it is here.
_EXTRAS = {"tpu": ("tpu", "libtpu"), "cuda": ("cuda-compiler", "jax_cuda13_plugin")}

# What XLA would ask the driver of an H100 SXM5 80 GB.
_H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000
  device_memory_size: 84929347584
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
platform_name: "CUDA"
runtime_version { major: 13 }
dnn_version_info { major: 9 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def find_card(name: str) -> Card:
    """Returns one of `CARDS`.

    Raises:
      ValueError: an unknown name; the known ones are listed, the nearest first.
    """
    if name not in CARDS:
        nearest = difflib.get_close_matches(name, CARDS, n=len(CARDS), cutoff=0.0)
        raise ValueError(f"no card is called {name!r}; there are {', '.join(nearest)}")
    return CARDS[name]


def check_topology(card: Card, chips: int) -> None:
    """Raises ValueError if no topology of so many chips is known for the card."""
    if chips not in card.topologies:
        known = ", ".join(f"{number} ({shape})" for number, shape in card.topologies.items())
        raise ValueError(
            f"no topology of {chips} chips is known for {card.name}; there are {known}"
        )


def find_missing(card: Card) -> str | None:
    """Returns in one line what this machine lacks to compile for the card, or None."""
    extra, module = _EXTRAS[card.platform]
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return (
            f"the compiler for {card.name} exists for Linux on x86-64 only; this is "
            f"{platform.system()} on {platform.machine()}"
        )
    if importlib.util.find_spec(module) is None:
        return (
            f"the compiler for {card.name} is not installed: "
            f'python -m pip install ".[examples,{extra}]"'
        )
    return None


def describe_devices(card: Card, chips: int) -> list[Any]:
    """Returns devices that exist for the compiler only, in the order that a ``Mesh`` takes.

    Raises:
      ValueError: no such topology is known for the card.
      RuntimeError: this machine lacks the compiler.
    """
    check_topology(card, chips)
    if missing := find_missing(card):
        raise RuntimeError(missing)
    # A program may be compiled for a card, but nothing is run here except on the CPU.
    jax.config.update("jax_platforms", "cpu")
    shape = card.topologies[chips]
    if card.platform == "cuda":
        return topologies.get_topology_desc(
            platform="cuda", topology_name=card.name, target_config=_H100, topology=shape
        ).devices
    # The library assumes that a TPU is there, so only one process may load it. Here none is.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    # Without these the compiler asks Google's cloud which machine this is, and waits.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    single = {"chips_per_host_bounds": (1, 1, 1)} if chips == 1 else {}
    return topologies.get_topology_desc(
        platform="tpu", topology_name=f"{card.name}:{shape}", **single
    ).devices
