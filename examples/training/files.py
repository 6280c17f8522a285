"""Files that are whole or absent, and locks that one process holds."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Writes a file such that a reader sees the old content or the new one, and never a part."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        part.write_text(text)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Holds the lock of a file, which is made if need be, until the context ends.

    The operating system releases the lock of a process that dies, so no lock is ever left over.

    Raises:
      BlockingIOError: another process holds it.
      OSError: the file cannot be opened.
    """
    with path.open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
