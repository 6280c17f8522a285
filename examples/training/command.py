"""The command line of a trainer: the name of a run, and then flags that change its settings."""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import tyro

from examples.training.errors import SettingError
from examples.training.options import Options
from examples.training.settings import Settings


@dataclasses.dataclass(frozen=True)
class BaseCommand:
    """A named run, whose settings and options can be changed by flags.

    Each trainer has a subclass, in which `config` has the type of the trainer's own settings.
    """

    config: Settings
    options: tyro.conf.OmitArgPrefixes[Options] = dataclasses.field(default_factory=Options)
    run: tyro.conf.Suppress[str] = ""

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        config = self.config
        return self.options.out or Path("runs", f"{self.run}-{config.gc}-{config.seed}")


AnyCommand = TypeVar("AnyCommand", bound=BaseCommand)


def parse_command(
    kind: type[AnyCommand],
    presets: Mapping[str, tuple[str, Any]],
    *,
    program: str,
    description: str | None,
) -> AnyCommand:
    """Returns the command of the run that the command line names, changed by its flags.

    Args:
      kind: the trainer's class of commands.
      presets: the title of each run and its settings, by name.
      program: how the program is started, for the help.
      description: what the program does, for the help.

    Raises:
      SettingError: no run is named, or there is none of that name.
      SystemExit: help was asked for, or a flag is wrong, which tyro explains.
    """
    name, *flags = sys.argv[1:] or [""]
    config = (tyro.conf.OmitArgPrefixes,)
    runs = {each: (title, kind(settings, run=each)) for each, (title, settings) in presets.items()}
    if name in runs:
        # Only the flags of this run, so that an unknown flag is not looked for in all the others.
        return tyro.cli(
            kind,
            prog=f"{program} {name}",
            description=description,
            args=flags,
            default=runs[name][1],
            config=config,
        )
    if name not in ("-h", "--help") and not name.startswith("--tyro-"):
        problem = f"no run is called {name[:80]!r}" if name else "name a run"
        raise SettingError(f"{problem}; there are {', '.join(runs)} (see {program} --help)")
    return tyro.extras.overridable_config_cli(
        runs, prog=program, description=description, config=config
    )
