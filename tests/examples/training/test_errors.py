"""The errors that a user can cause are one line, and all others keep their traceback."""

import pytest

from examples.training.errors import StoppedError, describe, report_errors


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (StoppedError("a: b.\n  Do c"), "stopped: a: b. Do c"),
        (FileNotFoundError(2, "No such file", "x"), "stopped: .*No such file: 'x'"),
        (KeyboardInterrupt(), "stopped by Ctrl-C. The same command"),
        (MemoryError("80 GiB"), "stopped: there is not enough memory: 80 GiB. Use a smaller"),
        (
            RuntimeError("RESOURCE_EXHAUSTED: 1 TB"),
            "stopped: there is not enough memory.* RESOURCE_EXHAUSTED",
        ),
    ],
)
def test_an_error_that_a_user_can_cause_is_one_line(error, line):
    with pytest.raises(SystemExit, match=line) as stopped, report_errors("stopped"):
        raise error
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize("error", [RuntimeError("shapes"), ValueError("x"), TypeError("x")])
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error), match=str(error)), report_errors("stopped"):
        raise error


def test_the_message_of_a_library_is_shortened_to_one_line():
    assert describe(ValueError("a\n  b")) == "a b"
    assert describe(KeyError("offset")) == "'offset' is missing"
    assert describe(EOFError()) == "EOFError"
    assert len(describe(ValueError("x" * 5000))) == 201
