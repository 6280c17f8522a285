"""The errors that a user of the programs can cause and can mend."""


class UserError(Exception):
    """The base of all such errors. Each message is one line that names the thing and the remedy.

    A program catches this class and `OSError`, prints the message and exits. Every other exception
    is a bug of the program, or of a user's own net, and keeps its traceback.
    """


class SettingError(UserError, ValueError):
    """A setting has a value that it cannot have, or two settings contradict each other.

    It is a `ValueError` as well because tyro reports those without a traceback.
    """


class StoppedError(UserError):
    """A run cannot go on, or must not. The message says why, and where the run stands."""


class DivergedError(StoppedError):
    """The numbers of a run are no longer finite."""


def describe(error: BaseException) -> str:
    """Returns what an exception of a library says, as one line of at most 200 characters."""
    # The text of a UnicodeDecodeError is short, but its repr holds the whole file.
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyError):
        text = f"{text} is missing"
    return text if len(text) <= 200 else text[:200] + "…"
