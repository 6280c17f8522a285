"""Helpers that several tests share."""

import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from flax import nnx

from optax_gc import nnx_kernel_axes


def apply(tx: optax.GradientTransformation, updates: Any, params: Any = None) -> Any:
    """Returns the updates after the first step of a transformation."""
    return tx.update(updates, tx.init(updates if params is None else params), params)[0]


def rngs() -> nnx.Rngs:
    """Returns the random numbers of a model that a test makes."""
    return nnx.Rngs(0)


def found(model: nnx.Module, **kwargs: Any) -> dict[str, Any]:
    """Returns the axes that nnx_kernel_axes finds, by path, of all leaves that are centralized."""
    axes = nnx_kernel_axes(model, **kwargs)(nnx.state(model, nnx.Param))
    flat = jax.tree_util.tree_leaves_with_path(
        nnx.to_pure_dict(axes), is_leaf=lambda node: isinstance(node, tuple)
    )
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def run_pair(
    command: Callable[[str, int], Sequence[Any]],
    *,
    meanwhile: Callable[[list[subprocess.Popen[str]]], None] = lambda programs: None,
    environment: dict[str, str] | None = None,
) -> list[subprocess.CompletedProcess[str]]:
    """Runs a program as two processes, of which the first listens at a free port.

    Another program can take the port before the first process does. Then both are started again,
    once.

    Args:
      command: a function from the address and the number of a process, 0 or 1, to its command line.
      meanwhile: what to do with the two processes after their start.
      environment: all variables of the processes; None for those of the test.

    Returns:
      How each of them ended.
    """

    def run():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        programs = [
            subprocess.Popen(
                command(address, index),
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for index in range(2)
        ]
        try:
            meanwhile(programs)
            output, error = programs[0].communicate(timeout=300)
            if "address already in use" in error.lower():
                return None
            outputs = [(output, error), programs[1].communicate(timeout=300)]
        finally:
            for program in programs:
                program.kill()
                program.communicate()  # or a later test would be blamed for what is left open
        return [
            subprocess.CompletedProcess(program.args, program.returncode, *output)
            for program, output in zip(programs, outputs, strict=True)
        ]

    done = run() or run()
    assert done is not None, "the port was taken twice"
    return done
