"""Checkpoints, by Orbax: the state of a run, the place in its data, and a record of the log."""

import contextlib
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.tree_util import tree_flatten_with_path

from examples.training.errors import UserError
from examples.training.steps import path_name


class CheckpointError(UserError):
    """A checkpoint could not be written or read. The message names the last good one."""


def read_variables(folder: Path) -> dict[str, np.ndarray]:
    """Reads the net of a run's last checkpoint: parameters and statistics by path, like "fc/kernel".

    Raises:
      CheckpointError: there is no checkpoint in the folder.
    """
    folder = folder.absolute() / "checkpoints"
    steps = ocp.utils.checkpoint_steps(folder) if folder.is_dir() else []
    if not steps:
        raise CheckpointError(f"{folder}: no checkpoint of a run is here")
    path = folder / str(max(steps)) / "state"
    with ocp.PyTreeCheckpointer() as checkpointer:
        # As NumPy arrays, because the devices of that run may not exist here.
        tree = checkpointer.metadata(path).item_metadata.tree
        numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        state = checkpointer.restore(path, restore_args=numpy)
    # A path is in only one of the two.
    leaves = [leaf for key in ("params", "rest") for leaf in tree_flatten_with_path(state[key])[0]]
    # Other dtypes are counts, and keys of dropout.
    return {
        path_name(path): leaf for path, leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)
    }


class Checkpoints(contextlib.AbstractContextManager):
    """The checkpoints of one run, in one folder; when the context ends, all of them are written.

    A save continues in the background while training goes on. A checkpoint appears whole or not at
    all, and the one before it stays until then.
    """

    def __init__(self, folder: Path):
        self._folder = folder.absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True)
        try:
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        except OSError as error:
            raise CheckpointError(
                f"{self._folder}: no checkpoint can be kept here: {error}"
            ) from error

    def restore(self, state: Any, batches: Any) -> tuple[int, Any, dict[str, Any]]:
        """Restores the last checkpoint, if there is one.

        Args:
          state: the state before the first step, which has the structure, shapes and shardings
            that are wanted.
          batches: a Grain iterator, which is moved to the place it had at the checkpoint.

        Returns:
          The number of steps done, the state and the record; 0, `state` and {} without a checkpoint.

        Raises:
          CheckpointError: the last checkpoint cannot be read.
        """
        step = self._manager.latest_step()
        if step is None:
            return 0, state, {}
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(target),
                    data=grain.checkpoint.CheckpointRestore(batches),
                    record=ocp.args.JsonRestore(),
                ),
            )
        except Exception as error:  # of Orbax, TensorStore, Grain or the file system
            raise CheckpointError(
                f"{self._folder / str(step)} cannot be read: {error}\nIt is of another number of "
                "processes, or damaged; without it the run goes on from the one before"
            ) from error
        return step, restored["state"], restored["record"]

    def save(self, step: int, state: Any, batches: Any, record: dict[str, Any]) -> None:
        """Waits until the checkpoint before is written, then begins to write this one.

        Raises:
          CheckpointError: this one or the one before could not be written.
        """
        if step == self._manager.latest_step():
            return
        with self._explained(f"of step {step} or before"):
            self._manager.wait_until_finished()
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    data=grain.checkpoint.CheckpointSave(batches),
                    record=ocp.args.JsonSave(record),
                ),
            )

    def wait(self) -> None:
        """Waits for the checkpoint that is being written.

        Raises:
          CheckpointError: it could not be written.
        """
        with self._explained("under way"):
            self._manager.wait_until_finished()

    def last_good(self) -> str:
        """Returns a phrase that names the last whole checkpoint, after waiting for one being written."""
        with contextlib.suppress(Exception):  # the caller reports it
            self._manager.wait_until_finished()
        steps = ocp.utils.checkpoint_steps(self._folder)
        return (
            f"the last good checkpoint is {self._folder / str(max(steps))}"
            if steps
            else ("there is no checkpoint yet")
        )

    def __exit__(self, *exception) -> None:
        # An error that ends the context is more useful than that of a save it interrupted.
        if exception[0] is not None:
            with contextlib.suppress(Exception):
                self._manager.close()
            return
        with self._explained("under way"):
            self._manager.close()

    @contextlib.contextmanager
    def _explained(self, which: str):
        try:
            yield
        except Exception as error:  # of Orbax, TensorStore, Grain or the file system
            raise CheckpointError(
                f"the checkpoint {which} could not be written to {self._folder}: {error}\n"
                f"{self.last_good()}"
            ) from error
