"""The errors that a user of the programs can cause and can correct."""

import contextlib
import sys
from collections.abc import Iterator


class UserError(Exception):
    """The base of all such errors. Each message is one line that names the cause and what to do.

    A program runs inside of `report_errors`. Every other exception is a bug of the program, or of a
    user's own network, and keeps its traceback.
    """


class SettingError(UserError):
    """A setting has a value that it cannot have, or two settings contradict each other.

    It is not a `ValueError`, because tyro would put other names before the flag's in its message.
    """


class StoppedError(UserError):
    """A run cannot or must not continue. The message says why, and at which step the run is."""


class DivergedError(StoppedError):
    """The numbers of a run are no longer finite."""


@contextlib.contextmanager
def report_errors(what: str) -> Iterator[None]:
    """Ends the program with one line for every error that a user can cause.

    These are a `UserError`, an `OSError`, a lack of memory, and Ctrl-C.

    Args:
      what: what the line begins with, such as "cannot start".
    """
    from absl import logging

    # Orbax logs the tracebacks of its threads; the errors themselves are raised and shown below.
    logging.set_verbosity(logging.FATAL)
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(
            "stopped by Ctrl-C. The same command starts again, or continues from what was saved"
        )
    except (UserError, OSError) as error:
        sys.exit(f"{what}: {' '.join(str(error).split())}")
    except (MemoryError, RuntimeError) as error:
        # XLA reports in this way that a device has no memory left.
        if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        sys.exit(
            f"{what}: there is not enough memory: {describe(error)}. Use a smaller --batch-size, a "
            "smaller network, or more devices"
        )


def describe(error: BaseException) -> str:
    """Returns the message of a library's exception as one line of at most 200 characters."""
    # The text of a UnicodeDecodeError is short, but its repr holds the whole file.
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    if isinstance(error, KeyError):
        text = f"{text} is missing"
    return text if len(text) <= 200 else text[:200] + "…"
