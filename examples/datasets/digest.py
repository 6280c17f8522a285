"""Computes a digest of data, so that a run notices if it is continued with other data."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np


def digest_of_data(*parts: np.ndarray | Sequence[str]) -> str:
    """Returns the SHA-256 digest of arrays and of lists of names, in their order."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype} {part.shape}\n".encode())
            digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        else:
            digest.update(json.dumps([*part]).encode())
    return digest.hexdigest()
