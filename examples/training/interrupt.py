"""Lets Ctrl-C wait for the end of a step, so that there is a whole state to save."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[int], bool]]:
    """Yields a function that returns whether to stop after a step. A second Ctrl-C acts at once.

    The function gets the number of the step that was just done. With several processes, each of
    them must call it after every step. If Ctrl-C or SIGTERM reaches any of them, it returns True in
    all of them after the same step, which may be a few steps later. JAX makes this choice.

    With one process and outside of the main thread, where Python allows no signal handler, the
    function always returns False.
    """
    pressed = threading.Event()

    def handler(number, frame):
        if pressed.is_set():
            signal.default_int_handler(number, frame)
        pressed.set()
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)  # JAX catches it, and informs the other processes

    def stop(step: int) -> bool:
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return pressed.is_set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
