"""Helpers that several tests share."""

from typing import Any

import optax


def apply(tx: optax.GradientTransformation, updates: Any, params: Any = None) -> Any:
    """Returns the updates after the first step of a transformation."""
    return tx.update(updates, tx.init(updates if params is None else params), params)[0]
