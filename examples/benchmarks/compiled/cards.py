"""The cards that programs are compiled for.

The numbers of a card are those that its maker publishes: Google's pages on the TPU versions, NVIDIA's
data sheet of the H100 SXM5 80 GB. Matrix rates are for dense bfloat16.
"""

import difflib
from collections.abc import Mapping
from typing import NamedTuple


class Card(NamedTuple):
    """A card: its compiler, its memory, its speed, and how its chips can be wired."""

    name: str
    platform: str
    memory_bytes: float
    bytes_per_second: float
    flops_per_second: float
    topologies: Mapping[int, str]


CARDS = {
    card.name: card
    for card in (
        # A pod of v5e or v6e has 256 chips. The compiler takes larger shapes, but there are none.
        Card("v5e", "tpu", 16e9, 819e9, 197e12, {1: "1x1", 8: "2x4", 256: "16x16"}),
        Card(
            "v5p",
            "tpu",
            95e9,
            2765e9,
            459e12,
            {1: "1x1x1", 8: "2x2x2", 256: "4x8x8", 1024: "8x8x16", 4096: "16x16x16"},
        ),
        Card("v6e", "tpu", 32e9, 1640e9, 918e12, {1: "1x1", 8: "2x4", 256: "16x16"}),
        Card(
            "h100",
            "cuda",
            80e9,
            3352e9,
            989e12,
            {1: "1x1x1", 8: "1x1x8", 256: "1x32x8", 1024: "1x128x8", 4096: "1x512x8"},
        ),
    )
}
CHIPS = (1, 8, 256, 1024, 4096)


def find_card(name: str) -> Card:
    """Returns one of `CARDS`.

    Raises:
      ValueError: an unknown name; the known ones are listed, the nearest first.
    """
    if name not in CARDS:
        nearest = difflib.get_close_matches(name, CARDS, n=len(CARDS), cutoff=0.0)
        raise ValueError(f"no card is called {name!r}; there are {', '.join(nearest)}")
    return CARDS[name]


def check_topology(card: Card, chips: int) -> None:
    """Raises ValueError if no topology of so many chips is known for the card."""
    if chips not in card.topologies:
        known = ", ".join(f"{number} ({shape})" for number, shape in card.topologies.items())
        raise ValueError(
            f"no topology of {chips} chips is known for {card.name}; there are {known}"
        )
