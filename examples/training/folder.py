"""The folder of a run: the settings it belongs to, the process that writes to it, and its result."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from examples.training.errors import StoppedError
from examples.training.files import exclusive_lock, write_whole
from examples.training.loop import Finished
from examples.training.provenance import provenance
from examples.training.settings import Settings


@contextlib.contextmanager
def open_folder(folder: Path, settings: Settings) -> Iterator[None]:
    """Makes a run's folder, or checks that it holds a run of these settings, and locks it.

    Only the first of several processes writes to the folder, so only that one locks it.

    Raises:
      StoppedError: the folder holds a run of other settings, another process writes to it, or it
        cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if jax.process_index() == 0:
                stack.enter_context(exclusive_lock(folder / "lock"))
            _claim(folder, settings)
        except BlockingIOError:
            raise StoppedError(
                f"{folder}: another process is writing this run. Wait for it, or pass another --out"
            ) from None
        except OSError as error:
            raise StoppedError(f"{folder}: no run can be kept here: {error}") from error
        yield


def _claim(folder: Path, settings: Settings) -> None:
    """Writes config.json, or compares the one that is there with these settings."""
    now = json.loads(json.dumps(dataclasses.asdict(settings)))
    path = folder / "config.json"
    if not path.exists():
        if (folder / "metrics.jsonl").exists() or (folder / "checkpoints").exists():
            raise StoppedError(f"{folder} has no config.json: pass another --out")
        if jax.process_index() == 0:
            write_whole(path, json.dumps(now, indent=1))
        return
    try:
        if not path.is_file():
            raise ValueError("it is not a file")
        old = json.loads(path.read_text())
        if not isinstance(old, dict):
            raise TypeError(f"it holds {type(old).__name__} and not the settings by name")
    except (TypeError, ValueError) as error:
        raise StoppedError(
            f"{path} cannot be read: {error}. Pass another --out, or put the file back"
        ) from error
    # A folder made before a setting existed was made with what is now its default.
    defaults = {
        field.name: json.loads(json.dumps(field.default))
        for field in dataclasses.fields(settings)
        if field.default is not dataclasses.MISSING
    }
    old = defaults | old
    changed = [
        f"{key} was {old.get(key)!r} and is {now.get(key)!r}"
        for key in sorted(old.keys() | now.keys())
        if old.get(key) != now.get(key)
    ]
    if changed:
        raise StoppedError(
            f"{folder} holds a run of other settings: {', '.join(changed)}. "
            "Pass another --out, or the settings of that run"
        )


def write_result(folder: Path, settings: Settings, finished: Finished) -> dict[str, Any]:
    """Writes result.json: the last metrics, the settings, the time taken, and where it was made.

    Args:
      folder: the folder of the run.
      settings: the settings of the run.
      finished: what `loop.train` returned.

    Returns:
      What the file holds. Each metric of the last line of each kind appears as KIND_NAME, such as
      "test_loss". The dictionary is empty in all processes but the first.
    """
    if jax.process_index():
        return {}
    last = {line["kind"]: line for line in finished.lines if line["kind"] != "step"}
    result = {
        **{
            f"{kind}_{name}": value
            for kind, line in last.items()
            for name, value in line.items()
            if name not in ("kind", "step", "epoch")
        },
        "steps": finished.steps,
        "seconds": finished.seconds,
        **finished.rates,
        "config": dataclasses.asdict(settings),
        **provenance(),
    }
    write_whole(folder / "result.json", json.dumps(result) + "\n")
    return result
