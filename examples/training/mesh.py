"""Devices and processes: who holds which part of the net and of a batch."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def make_mesh(data: int | None = None, fsdp: int = 1) -> Mesh:
    """Makes a mesh of the axes "data" and "fsdp" over all devices of all processes.

    Batches are split over both axes, kernels over "fsdp" alone.

    Args:
      data: the size of "data"; None for all devices that "fsdp" leaves. A smaller mesh takes the
        first devices, which must be those of every process.
      fsdp: the size of "fsdp".

    Raises:
      ValueError: sizes that the devices do not allow.
    """
    devices = jax.devices()
    if fsdp < 1 or (data is not None and data < 1):
        raise ValueError(f"a mesh of data={data}, fsdp={fsdp}: both must be at least 1")
    if data is None:
        if len(devices) % fsdp:
            raise ValueError(f"fsdp={fsdp} does not divide {len(devices)} devices")
        data = len(devices) // fsdp
    if data * fsdp > len(devices):
        raise ValueError(f"a mesh of {data} x {fsdp} devices: there are {len(devices)}")
    if data * fsdp < len(devices) and jax.process_count() > 1:
        raise ValueError(
            f"a mesh of {data} x {fsdp} leaves out some of the {len(devices)} devices that "
            f"{jax.process_count()} processes have"
        )
    types = (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh((data, fsdp), ("data", "fsdp"), types, devices=devices[: data * fsdp])


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """Gives a sharding for each leaf of parameters, momenta and all.

    Kernels are split over "fsdp" by their last axis, their outputs, if it divides: there GC
    needs no word from another device, for each weight vector lies whole on one. All other leaves
    are copied to each device.
    """
    fsdp = mesh.shape["fsdp"]

    def sharding(leaf):
        split = np.ndim(leaf) >= 2 and leaf.shape[-1] % fsdp == 0
        return NamedSharding(mesh, P(*[None] * (np.ndim(leaf) - 1), "fsdp") if split else P())

    return jax.tree.map(sharding, state)


def put_state(state: Any, shardings: Any) -> Any:
    """Distributes a state that every process has made alike."""
    if jax.process_count() == 1:
        return jax.device_put(state, shardings)
    # device_put gives nothing to devices of other processes; a compiled identity does.
    return jax.jit(lambda leaves: leaves, out_shardings=shardings)(state)


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Makes global arrays of this process's share of a batch, split over all devices."""
    sharding = NamedSharding(mesh, P(("data", "fsdp")))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
