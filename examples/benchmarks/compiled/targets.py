"""How the compilers for the cards are reached without a card.

Both compilers come as wheels and run on the CPU. They need only a description of the card and of
how many chips there are.
"""

import importlib.util
import os
import platform
from typing import Any

import jax
from jax.experimental import topologies

from examples.benchmarks import measure
from examples.benchmarks.compiled.cards import Card, check_topology

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


def check_memory(needed: float) -> None:
    """Raises ValueError if a compiler may take more bytes than this machine has free."""
    if (free := measure.available_host_bytes()) < needed:
        raise ValueError(
            f"a compiler takes up to {needed / 1e9:.3g} GB of this machine's memory, and "
            f"{free / 1e9:.3g} GB are free. What is compiled already is kept: close other programs and "
            f"start this again"
        )


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
