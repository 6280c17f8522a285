"""Checkpoints, by Orbax: the state of a run, the place in its data, and a record of the log."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.tree_util import tree_flatten_with_path

from examples.training.digest import digest_of
from examples.training.errors import UserError, describe
from examples.training.steps import path_name


class CheckpointError(UserError):
    """A checkpoint could not be written or read. The message names it, and the last good one."""


@contextlib.contextmanager
def _quiet_reads() -> Iterator[None]:
    """Hides the tracebacks that Orbax's threads print when one of several reads fails.

    The error itself is still raised. The other reads then end on an event loop that is already
    closed, and each of them would print a traceback about that.
    """
    show = sys.unraisablehook

    def hook(late):
        if str(late.exc_value) != "Event loop is closed":
            show(late)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = show


class Restored(NamedTuple):
    """The content of a checkpoint: the number of steps done, the state, and the record."""

    step: int
    state: Any
    record: dict[str, Any]


def read_variables(folder: Path) -> dict[str, np.ndarray]:
    """Reads the net of a run's last checkpoint: parameters and statistics by path, like "fc/kernel".

    Args:
      folder: the folder of the run.

    Raises:
      CheckpointError: there is no checkpoint in the folder, or the last one is damaged.
    """
    folder = folder.absolute() / "checkpoints"
    steps = _steps_in(folder)
    if not steps:
        raise CheckpointError(f"{folder}: there is no checkpoint of a run here")
    with _quiet_reads():
        try:
            state = _read(folder, steps[-1]).state
            # A path is in only one of the two.
            leaves = [
                leaf for key in ("params", "rest") for leaf in tree_flatten_with_path(state[key])[0]
            ]
        except Exception as error:  # of Orbax, TensorStore or the file system
            raise _unusable(folder, steps[-1], error) from error
    # Other dtypes are counts, and keys of dropout.
    return {
        path_name(path): leaf for path, leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)
    }


def _steps_in(folder: Path) -> list[int]:
    return sorted(ocp.utils.checkpoint_steps(folder)) if folder.is_dir() else []


def _read(folder: Path, step: int) -> Restored:
    """Reads a checkpoint as NumPy arrays, because the devices of its run may not exist here."""
    path = folder / str(step)
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(path / "state").item_metadata.tree
        numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        state = checkpointer.restore(path / "state", restore_args=numpy)
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
        record = checkpointer.restore(path / "record")
    return Restored(step, state, _check_digest(step, state, record))


def _check_digest(step: int, state: Any, record: Any) -> dict[str, Any]:
    """Checks the digest in a record against what was read, and returns the record without it."""
    if not isinstance(record, dict) or "digest" not in record:
        raise ValueError("it has no digest of its content")
    rest = {name: value for name, value in record.items() if name != "digest"}
    if digest_of(step, rest, state) != record["digest"]:
        raise ValueError("its content is not what was saved at this step")
    return rest


def _unusable(folder: Path, step: int, error: Exception) -> CheckpointError:
    """Returns the error for a checkpoint that cannot be used. It names the newest one that can."""
    good = _newest_good(folder, step)
    advice = (
        f"delete that folder, and the run will continue from the good checkpoint {good}"
        if good
        else "no other checkpoint here is good, so delete the folder of the run to start again"
    )
    return CheckpointError(
        f"{folder / str(step)} cannot be used: {describe(error)}. It is damaged, or it was saved by "
        f"another version, for data with other classes, or with another number of processes; {advice}"
    )


def _newest_good(folder: Path, damaged: int) -> Path | None:
    for step in reversed(_steps_in(folder)):
        if step != damaged:
            with contextlib.suppress(Exception):  # a checkpoint that cannot be read is not offered
                _read(folder, step)
                return folder / str(step)
    return None


class Checkpoints(contextlib.AbstractContextManager):
    """The checkpoints of one run in one folder. When the context ends, all of them are written.

    A save continues in the background while training goes on. A checkpoint appears whole or not at
    all, and the one before it stays until then.
    """

    def __init__(self, folder: Path):
        self._folder = folder.absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True)
        try:
            if self._folder.exists() and not self._folder.is_dir():
                raise NotADirectoryError("it is not a folder; move it away")
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        except OSError as error:
            raise CheckpointError(
                f"{self._folder}: checkpoints cannot be saved here: {describe(error)}"
            ) from error

    def restore(self, state: Any, batches: Any) -> Restored | None:
        """Restores the last checkpoint, and checks that it holds what was saved.

        Args:
          state: the state before the first step, which has the structure, shapes and shardings
            that are wanted.
          batches: an iterator of a `stream.Stream`, which is moved to the place it had at the
            checkpoint.

        Returns:
          What the checkpoint held; None if there is no checkpoint.

        Raises:
          CheckpointError: the last checkpoint cannot be read, or it changed since it was saved.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(target),
            data=grain.checkpoint.CheckpointRestore(batches),
            record=ocp.args.JsonRestore(),
        )
        with _quiet_reads():
            try:
                restored = self._manager.restore(step, args=args)
                record = _check_digest(step, restored["state"], restored["record"])
                kinds = [
                    [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]
                    for tree in (state, restored["state"])
                ]
                # Orbax leaves keys as plain numbers where a file of its own is missing.
                if kinds[0] != kinds[1]:
                    raise ValueError("the shapes or types of its arrays are not those of the run")
                place = batches.get_state()["batches"]
                if place != step:
                    raise ValueError(
                        f"its place in the data is batch {place}, and it should be batch {step}"
                    )
            except Exception as error:  # of Orbax, TensorStore, Grain or the file system
                raise _unusable(self._folder, step, error) from error
        return Restored(step, restored["state"], record)

    def save(self, step: int, state: Any, batches: Any, record: dict[str, Any]) -> None:
        """Waits until the previous checkpoint is written, and then begins to write this one.

        Args:
          step: the number of steps done, which is the number of batches taken.
          state: the state after them.
          batches: the iterator that the batches came from.
          record: everything else that a restart needs, as values that JSON can hold.

        Raises:
          CheckpointError: this checkpoint or the previous one could not be written.
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
                    record=ocp.args.JsonSave({**record, "digest": digest_of(step, record, state)}),
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
        steps = _steps_in(self._folder)
        if not steps:
            return "there is no checkpoint yet"
        return f"the last good checkpoint is {self._folder / str(steps[-1])}"

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
                f"the checkpoint {which} could not be written to {self._folder}: "
                f"{describe(error)}; {self.last_good()}"
            ) from error
