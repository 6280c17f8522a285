"""Ctrl-C that waits for the end of a step, so that there is a whole state to save."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Yields a function that returns whether Ctrl-C was pressed. A second Ctrl-C acts at once.

    Outside of the main thread, where Python allows no signal handler, the function always returns
    False.
    """
    pressed = threading.Event()

    def handler(number, frame):
        if pressed.is_set():
            signal.default_int_handler(number, frame)
        pressed.set()

    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
