"""Decides which devices and processes hold which part of the state and of a batch."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from examples.training.errors import SettingError


def make_mesh(data: int | None = None, fsdp: int = 1) -> Mesh:
    """Makes a mesh with the axes "data" and "fsdp" over all devices of all processes.

    Batches are split over both axes, kernels only over "fsdp".

    Args:
      data: the size of "data"; None for all devices that "fsdp" leaves. A smaller mesh takes the
        first devices, and needs devices of every process.
      fsdp: the size of "fsdp".

    Raises:
      SettingError: the devices do not allow these sizes.
    """
    devices = jax.devices()
    if fsdp < 1 or (data is not None and data < 1):
        raise SettingError(f"a mesh of data={data}, fsdp={fsdp}: both must be at least 1")
    if data is None:
        if len(devices) % fsdp:
            raise SettingError(f"--fsdp {fsdp} does not divide the {len(devices)} devices")
        data = len(devices) // fsdp
    if data * fsdp > len(devices):
        raise SettingError(f"a mesh of {data} x {fsdp} devices: there are {len(devices)}")
    if data * fsdp < len(devices) and jax.process_count() > 1:
        raise SettingError(
            f"a mesh of {data} x {fsdp} leaves out some of the {len(devices)} devices that "
            f"{jax.process_count()} processes have"
        )
    types = (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh((data, fsdp), ("data", "fsdp"), types, devices=devices[: data * fsdp])


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """Returns a sharding for each leaf of a state: parameters, momenta and all others.

    Kernels are split over "fsdp" by their last axis, which holds their outputs, if "fsdp" divides
    it. Each weight vector is then whole on one device, so GC needs no communication. All other
    leaves are copied to each device.
    """
    fsdp = mesh.shape["fsdp"]

    def sharding(leaf):
        split = np.ndim(leaf) >= 2 and leaf.shape[-1] % fsdp == 0
        return NamedSharding(mesh, P(*[None] * (np.ndim(leaf) - 1), "fsdp") if split else P())

    return jax.tree.map(sharding, state)


def put_state(state: Any, shardings: Any) -> Any:
    """Distributes a state that every process has made in the same way."""
    if jax.process_count() == 1:
        return jax.device_put(state, shardings)
    # device_put does not reach the devices of other processes, but a compiled identity does. Weights
    # from a file are bound to a device of this process, so they pass through the host's memory.
    state = jax.tree.map(
        lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf),
        state,
    )
    return jax.jit(lambda leaves: leaves, out_shardings=shardings)(state)


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Makes global arrays, split over all devices, from this process's share of a batch."""
    sharding = _batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def abstract_batch(shapes: Mapping[str, tuple[tuple[int, ...], Any]], mesh: Mesh) -> Any:
    """Returns the shapes that stand for a global batch while a step is traced.

    Args:
      shapes: the shape and the dtype of each array, over all processes together.
      mesh: the devices.
    """
    sharding = _batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        for name, (shape, dtype) in shapes.items()
    }


def _batch_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P(("data", "fsdp")))
