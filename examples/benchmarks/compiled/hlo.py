"""Reads from the text of a compiled program what it does: kernels, collectives, copies, reads of gradients.

The text is XLA's "HLO" after all passes: computations in braces, an instruction on each line, and one
computation marked ENTRY.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%(\S+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%(\S+) .*\{$")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)[a-z0-9]*)\[([\d,]*)\]")
# An array whose layout names another memory than the card's main one, such as S(1).
_FAST_ARRAY = re.compile(r"\b[a-z]+[a-z0-9]*\[[\d,]*\]\{[^}]*S\([1-9]\)[^}]*\}")
_KINDS = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")
# They move nothing and start nothing by themselves.
_FREE = frozenset(
    ("bitcast", "constant", "get-tuple-element", "iota", "parameter", "partition-id", "tuple")
)


class Instruction(NamedTuple):
    """One line of the text.

    `shape` is the result's, with layouts. `inside` is what stands in the parentheses, `rest` what
    follows them.
    """

    name: str
    shape: str
    opcode: str
    inside: str
    rest: str
    computation: str
    in_entry: bool

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([^\s,)]+)", self.inside)

    @property
    def bytes(self) -> int:
        return sum(_sizes(self.shape))

    @property
    def slow_bytes(self) -> int:
        """The bytes of the result that are not in the fast memory of a TPU."""
        return sum(_sizes(_FAST_ARRAY.sub("", self.shape)))


class Collective(NamedTuple):
    """Collectives of a kind over the same axes of the mesh, and the bytes of their results."""

    kind: str
    axes: tuple[str, ...]
    number: int
    bytes: int


def parse(text: str) -> list[Instruction]:
    """Returns the instructions of all computations, in order."""
    found, computation, in_entry = [], "", False
    for line in text.splitlines():
        if opened := _COMPUTATION.match(line):
            computation, in_entry = opened[2], opened[1] is not None
        elif match := _INSTRUCTION.match(line):
            name, shape, opcode, rest = match.groups()
            inside, _, after = rest.partition(")")
            found.append(Instruction(name, shape, opcode, inside, after, computation, in_entry))
    return found


def count_fusions(program: list[Instruction]) -> int:
    """Counts fusions: on a GPU each is a kernel that is launched."""
    return sum(instruction.opcode == "fusion" for instruction in program)


def count_kernels(program: list[Instruction]) -> int:
    """Counts the instructions that work, outside of fused computations and reducers.

    Starts of copies and of collectives count, their ends do not.
    """
    called = {
        name
        for instruction in program
        for name in re.findall(r"(?:calls|to_apply)=%([^\s,)]+)", instruction.rest)
    }
    return sum(
        instruction.opcode not in _FREE
        and not instruction.opcode.endswith("-done")
        and instruction.computation not in called
        for instruction in program
    )


def find_collectives(program: list[Instruction], mesh: dict[str, int]) -> list[Collective]:
    """Returns the collectives, added up by kind and by the axes of the mesh that they cross."""
    by_name = {(it.computation, it.name): it for it in program}
    totals: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for instruction in program:
        kind, done, _ = instruction.opcode.partition("-done")
        if kind not in _KINDS:
            continue
        start = instruction
        if done:  # the result is known at the end, the groups at the start
            start = by_name[instruction.computation, instruction.operands[0]]
        total = totals.setdefault((kind, _crossed_axes(start.rest, mesh)), [0, 0])
        total[0] += 1
        total[1] += instruction.bytes
    return [Collective(*key, *total) for key, total in sorted(totals.items())]


def find_moves(program: list[Instruction], least_bytes: int) -> list[Instruction]:
    """Returns the transposes and the copies in another layout of at least so many bytes."""
    return [
        instruction
        for instruction in program
        if instruction.opcode in ("copy", "transpose") and instruction.bytes >= least_bytes
    ]


def count_reads(program: list[Instruction], parameters: int) -> float:
    """Counts how often the last `parameters` arguments are read from memory, by their bytes.

    A result of 2 means that every byte of them is read twice. A TPU also copies arguments to its
    fast memory, in whole or in slices: such a copy is one read, and what reads the copy is not.
    """
    entry = [instruction for instruction in program if instruction.in_entry]
    arguments = {it.name: it for it in entry if it.opcode == "parameter"}
    order = sorted(arguments, key=lambda name: int(arguments[name].inside))
    wanted = {name: arguments[name].bytes for name in order[len(order) - parameters :]}
    aliases = dict(wanted)
    read = 0
    for instruction in entry:
        used = [name for name in instruction.operands if name in aliases]
        if instruction.opcode == "bitcast" and used:
            aliases[instruction.name] = aliases[used[0]]
        elif instruction.opcode == "slice-start":
            read += _sizes(instruction.shape)[1] if used else 0
        elif instruction.opcode != "tuple":
            read += sum(aliases[name] for name in set(used))
    return read / sum(wanted.values())


def count_traffic(program: list[Instruction]) -> int:
    """Counts the bytes that a program without loops reads from and writes to the card's memory.

    Every instruction reads its operands and writes its result, except what a TPU keeps in its fast
    memory. Of an operand that is only sliced, the slices count. A copy or a collective that is started
    and awaited writes when it is awaited.

    Raises:
      ValueError: the program has a loop or a branch, whose body may run any number of times.
    """
    bodies: dict[str, list[Instruction]] = {}
    for instruction in program:
        bodies.setdefault(instruction.computation, []).append(instruction)
    entry = {it.name: it for it in program if it.in_entry}
    total = 0
    for it in entry.values():
        if it.opcode in ("while", "conditional"):
            raise ValueError(f"the program has a {it.opcode}, of which the text tells no length")
        if it.opcode in _FREE:
            continue
        if not it.opcode.endswith("-start"):
            total += it.slow_bytes
        if it.opcode == "slice-done":
            total += it.bytes
        if not it.opcode.endswith("-done") and it.opcode != "slice-start":
            called = re.search(r"calls=%([^\s,)]+)", it.rest)
            body = bodies.get(called[1], []) if called else []
            for place, name in enumerate(it.operands):
                if name in entry and name not in it.operands[:place]:
                    total += _count_read(entry[name], it, body, place)
    return total


def _count_read(operand, instruction, body, place) -> int:
    """Returns the bytes of an operand that an instruction reads, given the body that it calls."""
    if not operand.slow_bytes:
        return 0
    users = [instruction]
    first = place == 0
    if body:
        inner = [it.name for it in body if it.opcode == "parameter" and it.inside == str(place)]
        users = [it for it in body if set(inner) & set(it.operands)]
        first = all(it.operands[0] in inner for it in users)
    if first and all(it.opcode in ("slice", "dynamic-slice", "gather") for it in users):
        return sum(it.bytes for it in users)
    return operand.slow_bytes


def _sizes(shape: str) -> list[int]:
    """Returns the bytes of each array in a shape, which may be a tuple."""
    sizes = []
    for name, bits, dimensions in _ARRAY.findall(shape):
        count = math.prod(int(size) for size in dimensions.split(",") if size)
        sizes.append(count if name == "pred" else count * int(bits) // 8)
    return sizes


def _crossed_axes(rest: str, mesh: dict[str, int]) -> tuple[str, ...]:
    """Returns the axes of the mesh along which the members of a group differ."""
    crossed = set()
    for group in _groups(rest, math.prod(mesh.values())):
        places = np.array(np.unravel_index(group, tuple(mesh.values())))
        crossed |= {name for name, its in zip(mesh, places, strict=True) if len(set(its)) > 1}
    return tuple(name for name in mesh if name in crossed)


def _groups(rest: str, devices: int) -> Iterator[list[int]]:
    """Yields the groups of devices that a collective joins, in any of XLA's ways to write them."""
    if match := re.search(
        r"replica_groups=mesh\[(.*?)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{(.*?)\}",
        rest,
    ):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", match[1]))
        joined = re.findall(r"'([^']+)'", match[4])
        ids = _devices(match[2] or str(devices), match[3])
        ids = ids.reshape([int(size) for size in sizes.values()])
        first = [i for i, name in enumerate(sizes) if name not in joined]
        last = [i for i, name in enumerate(sizes) if name in joined]
        members = math.prod(ids.shape[i] for i in last)
        yield from ids.transpose(first + last).reshape(-1, members).tolist()
    elif match := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        yield from _devices(match[2], match[3]).reshape(_numbers(match[1])).tolist()
    elif match := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{.*?\})\}", rest):
        yield from (_numbers(group) for group in re.findall(r"\{([\d,]+)\}", match[1]))
    elif re.search(r"replica_groups=\{\}", rest):
        yield list(range(devices))
    else:
        raise ValueError(f"cannot read the groups of a collective: {rest[:200]}")


def _devices(shape: str, order: str | None) -> np.ndarray:
    """Returns all devices in the order of a shape whose axes are transposed; flat if they are not."""
    sizes = _numbers(shape)
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    return ids.transpose(_numbers(order)) if order else ids


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]
