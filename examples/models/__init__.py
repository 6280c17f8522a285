"""The nets of the paper in Flax NNX. With the same weights they equal PyTorch's."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from examples.models.nets import NAMES, Stem, create, forms, is_resnet

__all__ = ["NAMES", "Stem", "create", "forms", "is_resnet"]


# Flax takes seconds to import, which the help of a program can do without.
def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from examples.models import nets

    return getattr(nets, name)


def __dir__() -> list[str]:
    return __all__
