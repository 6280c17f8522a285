"""What several tests share."""

from typing import Any

import optax


def apply(tx: optax.GradientTransformation, updates: Any, params: Any = None) -> Any:
    """What a freshly initialised transformation makes of the updates."""
    return tx.update(updates, tx.init(updates if params is None else params), params)[0]
