"""Any text for any flag leads to a command or to one error without a traceback."""

import contextlib
import dataclasses
import io
import sys
from unittest import mock

import hypothesis
import hypothesis.strategies as st

from examples import train_classifier, train_detector
from examples.classification.presets import PRESETS as CLASSIFIERS
from examples.detection.presets import PRESETS as DETECTORS
from examples.training.command import parse_command
from examples.training.errors import SettingError
from examples.training.options import Options
from tests.examples.fuzz.mutations import check_message, limits, search

# Of each trainer: its class of commands, its runs, and one of these.
TRAINERS = [
    (train_classifier.Command, CLASSIFIERS, "digits"),
    (train_detector.Command, DETECTORS, "scenes"),
]


def flags_of(trainer):
    _, presets, name = trainer
    return [
        "--" + field.name.replace("_", "-")
        for owner in (type(presets[name][1]), Options)
        for field in dataclasses.fields(owner)
    ]


# An argument of a program holds no zero byte. Bytes that are no UTF-8 arrive as surrogates.
TEXTS = st.one_of(
    st.text(st.characters(blacklist_characters="\0"), max_size=8),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["None", "nan", "inf", "-1", "0", "1e400", "True", "sgd", "step", "9" * 5000]),
)


# A trainer, and flags with any texts.
COMMANDS = st.sampled_from(TRAINERS).flatmap(
    lambda trainer: st.tuples(
        st.just(trainer),
        st.lists(
            st.tuples(st.sampled_from(flags_of(trainer)), st.lists(TEXTS, max_size=3)), max_size=3
        ),
    )
)


def parse(trainer, *arguments):
    kind, presets, _ = trainer
    with mock.patch.object(sys, "argv", ["program", *arguments]):
        return parse_command(kind, presets, program="program", description="")


@hypothesis.given(COMMANDS)
@search(percent=150)
def test_any_text_for_any_flag_is_a_command_or_one_error(chosen):
    trainer, flags = chosen
    arguments = [word for flag, texts in flags for word in (flag, *texts)]
    shown = io.StringIO()
    message = code = command = None
    try:
        with limits(), contextlib.redirect_stderr(shown), contextlib.redirect_stdout(shown):
            command = parse(trainer, trainer[2], *arguments)
    except SettingError as error:
        message = check_message(error)
    except SystemExit as error:  # tyro explained it, or showed the help
        code = error.code
    if command is not None:
        assert command.run == trainer[2]
        # What was accepted is within the bounds that a second construction checks.
        assert dataclasses.replace(command.config) == command.config
    elif message is not None:
        assert "--" in message
    else:
        assert code in (0, 2)
        assert "dummy" not in shown.getvalue()


@hypothesis.given(st.sampled_from(TRAINERS), st.lists(TEXTS, max_size=2))
@search(percent=50)
def test_any_text_for_the_run_is_a_run_or_one_error(trainer, arguments):
    hypothesis.assume(not arguments or arguments[0] not in ("-h", "--help"))
    message, code = trainer[2], 2
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            assert parse(trainer, *arguments).run in trainer[1]
    except SettingError as error:
        message = check_message(error)
    except SystemExit as error:
        code = error.code
    assert trainer[2] in message
    assert code == 2
