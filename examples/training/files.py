"""Files that are whole or absent, and locks that one process holds."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields the path of a new file, which takes the place of `path` when the context ends.

    So a reader sees the old content or the new one, and never a part. After an error the old
    content stays.
    """
    part = path.with_name(f".{os.getpid()}{path.name}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Writes a file such that a reader sees the old content or the new one, and never a part."""
    with replacing(path) as part:
        part.write_text(text)


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
