"""Compares the memory that a run would need with that of the machine, before anything is made."""

import os

from examples.training.errors import SettingError


def require_memory(size: int, what: str) -> None:
    """Checks that some arrays fit into the memory of this machine.

    Args:
      size: the number of their bytes.
      what: the setting that asks for them and what they are, such as "--width 64: the weights".

    Raises:
      SettingError: they are larger than the whole memory.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise SettingError(
            f"{what} need {size / 2**30:,.0f} GiB of memory, and this machine has "
            f"{memory / 2**30:,.0f} GiB; use a smaller number"
        )
