"""Checkpoints by Orbax: the net, the optimizer, the keys, the place in the data, a record."""

import contextlib
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.tree_util import tree_flatten_with_path

from examples.training.step import path_name


class CheckpointError(Exception):
    """A checkpoint could not be written or read; the message names the last good one."""


def read_variables(folder: Path) -> dict[str, np.ndarray]:
    """Reads the net of a run's last checkpoint: parameters and statistics by path: "fc/kernel".

    Raises:
      CheckpointError: there is no checkpoint in the folder.
    """
    folder = folder.absolute() / "checkpoints"
    steps = ocp.utils.checkpoint_steps(folder) if folder.is_dir() else []
    if not steps:
        raise CheckpointError(f"{folder}: no checkpoint of a run is here")
    path = folder / str(max(steps)) / "state"
    with ocp.PyTreeCheckpointer() as checkpointer:
        # As NumPy's: the devices that the run had may not be here.
        tree = checkpointer.metadata(path).item_metadata.tree
        numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        state = checkpointer.restore(path, restore_args=numpy)
    # One dict of both; a path is in one of them alone.
    leaves = [leaf for key in ("params", "rest") for leaf in tree_flatten_with_path(state[key])[0]]
    # The rest are counts and keys of dropout.
    return {
        path_name(path): leaf for path, leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)
    }


class Checkpoints(contextlib.AbstractContextManager):
    """The checkpoints of one run, in one folder; a context that ends with all of them written.

    A save goes on in the background while training continues. A checkpoint appears whole or not
    at all, and the one before it is not touched until then.
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
        """Goes back to the last checkpoint, or stays at the start where there is none.

        Args:
          state: of the structure, shapes and shardings wanted; given back at the start.
          batches: a Grain iterator; it is moved to the place it had.

        Returns:
          The steps done, the state and the record; 0, `state` and {} at the start.
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
        """Begins to write the checkpoint of so many steps, when the one before is written.

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
        """Names the last checkpoint that is whole, for messages; waits for one under way."""
        with contextlib.suppress(Exception):  # told by whoever asks
            self._manager.wait_until_finished()
        steps = ocp.utils.checkpoint_steps(self._folder)
        return (
            f"the last good checkpoint is {self._folder / str(max(steps))}"
            if steps
            else ("there is no checkpoint yet")
        )

    def __exit__(self, *exception) -> None:
        # An error on its way out says more than one of a save that it broke off.
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
