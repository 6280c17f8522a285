"""Damage to files, and limits for the programs that read them."""

import contextlib
import datetime
import re
import resource
import signal
from collections.abc import Iterator
from typing import Any

import hypothesis
import hypothesis.strategies as st

# Words that are often taken for something else.
_WORDS = (
    *(b"-1", b"0", b"1", b"2", b"77", b"1.5", b"1e309", b"nan", b"null", b"[]", b"{}", b'""', b""),
    *(
        b"99999999999999999999",
        b"../x.jpg",
        b"/etc/passwd",
        b"a b",
        b"\xff\xfe",
        b"\0",
        b"\xc3\xa9",
    ),
)


def search(percent: int) -> Any:
    """Returns the settings of a test that makes a share of the examples of the profile.

    Args:
      percent: the share. The default profile has 100 examples, and the profile "hour" 10000.
    """
    profile = hypothesis.settings.default
    assert profile is not None
    return hypothesis.settings(
        max_examples=max(1, profile.max_examples * percent // 100),
        deadline=None,
        derandomize=profile.max_examples == 100,
        database=None,
        suppress_health_check=[*hypothesis.HealthCheck],  # pyright: ignore[reportArgumentType]
    )


@st.composite
def damage(draw: Any, content: bytes) -> bytes:
    """Returns content that differs from a file's: cut, flipped, overwritten, repeated or empty."""
    size = len(content)
    start = draw(st.integers(0, size))
    end = min(size, start + draw(st.integers(1, 64)))
    match draw(st.sampled_from(["cut", "flip", "write", "word", "drop", "repeat", "empty"])):
        case "cut":
            return content[:start]
        case "flip":
            changed = bytearray(content or b"\0")
            changed[min(start, len(changed) - 1)] ^= 1 << draw(st.integers(0, 7))
            return bytes(changed)
        case "write":
            return content[:start] + draw(st.binary(max_size=16)) + content[end:]
        case "word":
            words = re.findall(rb'[^\s,:"{}\[\]]+', content[:100_000])
            if not words:
                return draw(st.sampled_from(_WORDS))
            word = draw(st.sampled_from(words))
            return content.replace(word, draw(st.sampled_from(_WORDS)), draw(st.integers(1, 2)))
        case "drop":
            return content[:start] + content[end:]
        case "repeat":
            return content[:end] + content[start:]
        case _:
            return b""


def check_message(error: BaseException) -> str:
    """Returns what an error says, after a check that it is one line of a bearable length."""
    message = str(error)
    assert "\n" not in message
    assert len(message) < 1500
    return message


class TooSlowError(BaseException):
    """A limit was exceeded. It is not an Exception, so readers cannot take it for a broken file."""


@contextlib.contextmanager
def limits(seconds: int = 60, megabytes: int = 1024) -> Iterator[None]:
    """Fails if the context takes longer, or makes the memory of this process grow by more."""

    def stop(number, frame):
        raise TooSlowError(f"not done after {datetime.timedelta(seconds=seconds)}")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    handler = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    assert grown < megabytes, f"the memory grew by {grown} MB"
