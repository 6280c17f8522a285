"""The roles of a kernel's axes."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class AxisRoles(NamedTuple):
    """The roles of a kernel's axes. Each axis is an input, an output or a stack.

    Attributes:
      inputs: the axes over a neuron's inputs.
      outputs: the axes over the neurons.
      stacks: the axes that only count kernels: scanned or vmapped layers, experts, and the
        positions of a layer that does not share its kernel between them.
      heads: those of the outputs that count heads, such as axis 1 of the kernel of an
        attention's query, which is (inputs, heads, features of a head).
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    stacks: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()


# A layer describes its kernel by a string with a letter for each axis.
INPUT, OUTPUT, HEAD, STACK = "iohs"


def roles_of(letters: str, stacks: Sequence[int] = ()) -> AxisRoles:
    """Returns the roles of a kernel to which transforms have added axes.

    Args:
      letters: the letter of each axis of the layer's own kernel.
      stacks: the axes that were added, in the shape that has them.
    """
    rest = iter(letters)
    placed = [STACK if axis in stacks else next(rest) for axis in range(len(letters) + len(stacks))]

    def axes(*wanted):
        return tuple(axis for axis, letter in enumerate(placed) if letter in wanted)

    return AxisRoles(axes(INPUT), axes(OUTPUT, HEAD), axes(STACK), axes(HEAD))


def roles_by_inputs(inputs: Sequence[int], rank: int) -> AxisRoles:
    """Returns the roles if only the inputs are known: all other axes are outputs."""
    return AxisRoles(tuple(inputs), tuple(axis for axis in range(rank) if axis not in inputs))


def dense(inputs: int, outputs: int, batch: int = 0) -> str:
    """Returns the letters of a dense kernel with several axes of inputs, outputs and batches."""
    return STACK * batch + INPUT * inputs + HEAD * (outputs - 1) + OUTPUT


def conv(rank: int) -> str:
    """Returns the letters of a convolution's kernel, (space..., inputs, outputs)."""
    return INPUT * (rank - 1) + OUTPUT


def taps(strides: Any, dimensions: int) -> str:
    """Returns the letters of the spatial axes of a transposed convolution's kernel.

    In a dimension with a stride above 1, an output pixel sees only every stride-th tap, so taps
    belong to different neurons and their axis is not averaged. This is exact for strides that are
    at least as large as the kernel. For smaller ones the mean is taken over parts of a neuron's
    inputs, which still keeps Corollary 4.1.

    Args:
      strides: as the layer has them: one stride, one for each dimension, or None for 1.
      dimensions: the number of spatial axes.
    """
    if not isinstance(strides, Sequence):
        strides = [strides] * dimensions
    return "".join(INPUT if stride in (None, 1) else OUTPUT for stride in strides)


def conv_transpose(strides: Any, rank: int, transpose_kernel: bool) -> str:
    """Returns the letters of a transposed convolution's kernel, (space..., inputs, outputs).

    Args:
      strides: as for `taps`.
      rank: the rank of the kernel.
      transpose_kernel: whether the last two axes are (outputs, inputs).
    """
    channels = OUTPUT + INPUT if transpose_kernel else INPUT + OUTPUT
    return taps(strides, rank - 2) + channels


def einsum(equation: str, rank: int) -> str | None:
    """Returns the letters of an einsum's second operand, or None if it repeats an index.

    An index that is summed is an input. An index that is not summed, and that the other operand
    also has, only counts kernels. All outputs but the last count heads.
    """
    operands, _, output = equation.replace(" ", "").partition("->")
    other, kernel = operands.split(",")
    front, _, back = kernel.partition("...")
    if len(set(front + back)) < len(front + back):
        return None
    indices = [*front, *["..."] * (rank - len(front + back)), *back]
    outputs = [index for index in indices if index in output and index not in other]
    last = max(outputs, key=output.find, default=None)

    def letter(index):
        if index not in output:
            return INPUT
        if index in other:
            return STACK
        return OUTPUT if index == last else HEAD

    return "".join(map(letter, indices))
