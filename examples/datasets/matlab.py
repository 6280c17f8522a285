"""MATLAB files, read by a process of its own, because a broken file can make SciPy's reader crash."""

import multiprocessing
import os
import resource
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from examples.datasets.files import BROKEN, expect
from examples.training.errors import describe

# The reader may take this much memory, in bytes, and this much time, in seconds. The largest file of
# a data set needs a small part of both.
_MEMORY, _TIME = 2**32, 300


def read_mat(path: Path, variable: str, what: str) -> Any:
    """Reads one variable of a MATLAB file, an array of rank 1.

    Args:
      path: the file.
      variable: the name of the variable.
      what: what the file should hold, for the error.

    Raises:
      DatasetError: the file is missing, is of another kind or is broken in any way.
    """
    # The server starts once. Each reader is a copy of it that has imported SciPy already.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__, "scipy.io"])
    with expect(path, what):
        receiver, sender = context.Pipe(duplex=False)
        reader = context.Process(target=_read, args=(path, variable, sender), daemon=True)
        reader.start()
        sender.close()
        try:
            if not receiver.poll(_TIME):
                raise ValueError(f"it took more than {_TIME} s")
            found, problem = receiver.recv()
        except EOFError:
            raise ValueError("it made the reader crash") from None
        finally:
            reader.kill()
            reader.join()
            receiver.close()
        if problem:
            raise ValueError(problem)
        return found


def _read(path: Path, variable: str, sender: Connection) -> None:
    """Sends the variable and None, or None and what is wrong with the file."""
    import numpy as np
    import scipy.io

    # The parent notices all other failures when the pipe closes, so they are not printed here too.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    # Ctrl-C reaches every process of a terminal. The parent handles it, and ends its readers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, most))
    try:
        sender.send((np.atleast_1d(scipy.io.loadmat(path, squeeze_me=True)[variable]), None))
    except (*BROKEN, scipy.io.matlab.MatReadError) as error:
        sender.send((None, describe(error)))
