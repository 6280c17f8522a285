"""Learning rates in half-decades: 1 and 3 in each decade, numbered so that 1 is number 0."""

import re


def rate(number: int) -> float:
    """Returns a learning rate by its number: 1 for 0, 3 for 1, 10 for 2, 0.3 for -1.

    Examples:
      >>> [rate(number) for number in (-4, -3, -2, -1, 0, 1)]
      [0.01, 0.03, 0.1, 0.3, 1.0, 3.0]
    """
    return float(f"{(1, 3)[number % 2]}e{number // 2}")


def show_ratio(half_decades: int) -> str:
    """Returns the ratio of two rates that are this many half-decades apart.

    Examples:
      >>> [show_ratio(number) for number in (-1, 0, 1, 2)]
      ['1/3', '1', '3', '10']
    """
    ratio = f"{rate(abs(half_decades)):g}"
    return f"1/{ratio}" if half_decades < 0 else ratio


def rate_number(value: float) -> int:
    """Returns the number of a learning rate, of which `rate` is the inverse.

    Raises:
      ValueError: the rate is not 1 or 3 times a power of ten.

    Examples:
      >>> [rate_number(value) for value in (0.01, 0.03, 3.0)]
      [-4, -3, 1]
    """
    parts = re.fullmatch(r"([13])e([+-]\d+)", f"{value:.0e}")
    if parts is None or rate(number := 2 * int(parts[2]) + (parts[1] == "3")) != value:
        raise ValueError(f"learning_rate is {value!r}, which is not 1 or 3 times a power of ten")
    return number
