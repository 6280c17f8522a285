"""The command line of a trainer: the name of a run, and then flags that change its settings."""

import sys
from collections.abc import Mapping
from typing import TypeVar

import tyro

from examples.training.errors import SettingError

Command = TypeVar("Command")


def parse_command(
    runs: Mapping[str, tuple[str, Command]], *, program: str, description: str | None
) -> Command:
    """Returns the command of the run that the command line names, changed by its flags.

    Args:
      runs: the title of each run and its command, by name.
      program: how the program is started, for the help.
      description: what the program does, for the help.

    Raises:
      SettingError: no run is named, or there is none of that name.
      SystemExit: help was asked for, or a flag is wrong, which tyro explains.
    """
    name, *flags = sys.argv[1:] or [""]
    config = (tyro.conf.OmitArgPrefixes,)
    if name in runs:
        _, command = runs[name]
        # Only the flags of this run, so that an unknown flag is not looked for in all the others.
        return tyro.cli(
            type(command),
            prog=f"{program} {name}",
            description=description,
            args=flags,
            default=command,
            config=config,
        )
    if name not in ("-h", "--help") and not name.startswith("--tyro-"):
        problem = f"no run is called {name[:80]!r}" if name else "name a run"
        raise SettingError(f"{problem}; there are {', '.join(runs)} (see {program} --help)")
    return tyro.extras.overridable_config_cli(
        dict(runs), prog=program, description=description, config=config
    )
