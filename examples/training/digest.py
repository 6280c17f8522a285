"""Computes one digest of all that a checkpoint holds, so that a change on the disk is noticed."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.tree_util import tree_flatten_with_path

from examples.training.steps import path_name


def digest_of(step: int, record: Mapping[str, Any], state: Any) -> str:
    """Returns the SHA-256 digest of a step's number, its record and every array of its state.

    It does not depend on how the arrays are split over devices, or on the kind of the containers
    that hold them. All processes must call this together, because each array is put together from
    the parts that they hold. Only one array at a time is copied to the host.

    Args:
      step: the number of the step.
      record: values that JSON can hold.
      state: a tree of arrays, with any names.
    """
    digest = hashlib.sha256(json.dumps([step, record], sort_keys=True).encode())
    leaves = {path_name(path): leaf for path, leaf in tree_flatten_with_path(state)[0]}
    for name in sorted(leaves):
        array = _whole_array(leaves[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _whole_array(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)  # as a checkpoint holds it
        if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.ascontiguousarray(leaf)
