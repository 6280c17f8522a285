"""Pretrained weights: a file in PyTorch's layout, or the last checkpoint of a run."""

import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from examples.models import pretrained
from examples.training.checkpoints import CheckpointError, read_variables
from examples.training.steps import path_name

# The last layer of every net of `examples.models`.
HEAD = "fc"
# The kernel of the first layer of every ResNet.
FIRST = "conv1/kernel"


def read_weights(path: Path) -> Callable[[Any], None]:
    """Reads weights, and returns the function that puts all but the last layer's into a net.

    Args:
      path: a file in PyTorch's layout, or the folder of a run of the same net.

    Raises:
      CheckpointError: the folder has no checkpoint. The returned function raises it if the
        checkpoint is of another net.
    """
    if not path.is_dir():
        state = pretrained.read_file(path)
        return functools.partial(pretrained.load_torch_state, state=state, replace_head=True)
    stored = {k: v for k, v in read_variables(path).items() if not k.startswith(f"{HEAD}/")}

    return functools.partial(put_variables, stored=stored, path=path, keep=HEAD)


def put_variables(
    model: nnx.Module, stored: dict[str, np.ndarray], path: Path, *, keep: str | None = None
) -> None:
    """Puts the variables of a checkpoint into the same net.

    Args:
      model: the net.
      stored: what `read_variables` returned.
      path: the folder of the run, for the error.
      keep: the name of a layer that keeps its values, and that `stored` does not hold.

    Raises:
      CheckpointError: the checkpoint is of another net.
    """
    kinds = nnx.Any(nnx.Param, nnx.BatchStat)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(nnx.state(model, kinds))
    own = {path_name(path): leaf for path, leaf in leaves}
    given = _in_color(stored, own)
    wrong = given.keys() ^ {name for name in own if name.partition("/")[0] != keep}
    wrong |= {name for name in given.keys() & own if given[name].shape != own[name].shape}
    if wrong:
        listed = ", ".join(sorted(wrong))
        raise CheckpointError(f"{path} holds another net: it differs in {listed}")
    values = [jnp.asarray(given.get(name, leaf)) for name, leaf in own.items()]
    nnx.update(model, treedef.unflatten(values))


def digest_net(folder: Path) -> str:
    """Returns a digest of a run's net, by which results of another net are told from its own.

    The last layer is left out, because no other run takes it.

    Raises:
      CheckpointError: the net is not there, or is damaged.
    """
    digest = hashlib.sha256()
    for name, value in sorted(read_variables(folder).items()):
        if not name.startswith(f"{HEAD}/"):
            digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()[:16]


def _in_color(stored: dict[str, np.ndarray], own: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the weights of a net of gray images for a net of colors: a third for each color.

    The result is the same for a gray image. Weights of other nets are left as they are.
    """
    kernel = stored.get(FIRST)
    if kernel is None or FIRST not in own:
        return stored
    wanted = own[FIRST].shape
    if kernel.shape[-2] != 1 or wanted[-2] != 3:
        return stored
    return stored | {FIRST: np.repeat(kernel, 3, axis=-2) / 3}
