"""Records of compiled programs, as JSON lines in a file to which later runs add."""

import importlib.metadata
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from examples.training import files

Record = dict[str, Any]

# What every record of an update step has, and what one has that the compiler did not refuse.
_CASE = frozenset(
    ("card", "chips", "tree", "optimizer", "layout", "arm", "parameters", "chip_means_bytes")
)
_COUNTS = frozenset(
    ("fusions", "gradient_reads", "temporary_bytes", "collectives", "collective_bytes")
) | {"same_program_as", "compile_seconds"}


def read_updates(path: Path) -> list[Record]:
    """Reads the records of update steps. A last line that was cut off is left out.

    Raises:
      ValueError: the file holds something else. The file and the line are named.
    """
    records = read(path, "update", {*_CASE, "refused"})
    for number, record in enumerate(records, 1):
        if record["refused"] is None:
            _check_keys(record, _COUNTS, f"{path}, line {number}")
    return records


def read(path: Path, kind: str, keys: Collection[str]) -> list[Record]:
    """Reads the records of a kind, which have certain keys. A last line that was cut off is left out.

    Raises:
      ValueError: the file holds something else. The file and the line are named.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not text, so these are no records: give another --out") from None
    records = []
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except ValueError:
            if number == len(lines) and not line.endswith("\n"):
                break
            raise ValueError(f"{where}: not a JSON record") from None
        if not isinstance(record, dict) or record.get("kind") != kind:
            raise ValueError(
                f"{where}: not a record of this program, which has the kind {kind!r}: give another --out"
            )
        _check_keys(record, {*keys, "versions"}, where)
        records.append(record)
    return records


def check_versions(path: Path, records: list[Record]) -> None:
    """Checks that the packages that are installed here made the records.

    Raises:
      ValueError: another version made a record. What two compilers make cannot be compared.
    """
    installed = {package.name: package.version for package in importlib.metadata.distributions()}
    for number, record in enumerate(records, 1):
        for name, version in record["versions"].items():
            if installed.get(name, version) != version:
                raise ValueError(
                    f"{path}, line {number}: made with {name} {version}, but {installed[name]} is installed. "
                    f"What different versions make cannot be compared: give another --out"
                )


def find_versions(platform: str | None) -> dict[str, str]:
    """Returns the versions of JAX, Optax and the compiler for a platform: tpu, cuda or None."""
    compilers = {"tpu": ("libtpu",), "cuda": ("jax-cuda13-pjrt",), None: ()}[platform]
    return {name: importlib.metadata.version(name) for name in ("jax", "optax", *compilers)}


def write(path: Path, records: list[Record]) -> None:
    """Writes a file anew, whole or not at all."""
    files.write_whole(path, "".join(json.dumps(record) + "\n" for record in records))


def add(path: Path, record: Record) -> None:
    """Adds a record to a file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def _check_keys(record: Record, keys: Collection[str], where: str) -> None:
    if missing := sorted(set(keys) - set(record)):
        raise ValueError(
            f"{where}: the record has no {', '.join(missing)}; another version of this program wrote it: "
            f"give another --out"
        )
