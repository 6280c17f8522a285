"""One pass of an evaluation step over batches."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from examples.training.sharding import put_batch
from examples.training.steps import State


def evaluate_batches(
    eval_step: Callable[[State, Any], Any], state: State, batches: Iterable[Any], mesh: Mesh
) -> Iterator[Any]:
    """Yields the output of an evaluation step for each batch, as NumPy arrays.

    An output is fetched only after the next step has started, so the device does not wait.
    """
    pending = None
    for batch in batches:
        output = eval_step(state, put_batch(batch, mesh))
        if pending is not None:
            yield jax.device_get(pending)
        pending = output
    if pending is not None:
        yield jax.device_get(pending)
