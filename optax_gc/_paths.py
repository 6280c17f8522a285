"""Paths of leaves as text."""

from typing import Any

import jax


def path_names(path: Any) -> tuple[str, ...]:
    """Returns the parts of a path as text, which is the same for attributes, keys and indices."""
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def unboxed(path: Any) -> Any:
    """Returns the path without the ``.value`` that a box adds.

    Boxes are ``nnx.Variable`` and Linen's ``Partitioned``. One box can hold another.
    """
    while path and isinstance(path[-1], jax.tree_util.GetAttrKey) and path[-1].name == "value":
        path = path[:-1]
    return path


def last_name(path: Any) -> str:
    """Returns the last string in a leaf's path, which is its name, or an empty string."""
    keys = (getattr(key, "name", getattr(key, "key", None)) for key in reversed(unboxed(path)))
    return next((key for key in keys if isinstance(key, str)), "")


def leaf_name(path: Any) -> str:
    """Returns a leaf's path for error messages; "<root>" if the whole tree is one leaf."""
    return jax.tree_util.keystr(path) or "<root>"


def slash_name(path: Any) -> str:
    """Returns a leaf's path joined by slashes, such as "conv/kernel"."""
    return "/".join(path_names(unboxed(path))) or "<root>"
