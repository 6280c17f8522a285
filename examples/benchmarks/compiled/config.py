"""What is compiled, as flags of the program. Nothing large is imported, so that ``--help`` is quick."""

import dataclasses
from pathlib import Path

from examples.benchmarks import flags
from examples.benchmarks.compiled.cards import CARDS, CHIPS, check_topology, find_card
from examples.benchmarks.compiled.names import ARMS, LAYOUTS, OPTIMIZERS, TREES


@dataclasses.dataclass(frozen=True)
class Config:
    """Compile update steps with and without GC for TPUs and an H100, without having one.

    Compiles every combination that the chips can share and that fits into their memory. All of them
    take days on two cores. A run that was stopped continues where it was. For a first look:
    --cards v5e --chips 1 8 --trees resnet50 --optimizers sgdm (a few minutes).
    """

    cards: tuple[str, ...] = tuple(CARDS)
    """The cards: any of v5e, v5p and v6e, which are TPUs, and h100."""
    chips: tuple[int, ...] = CHIPS
    """How many chips share the work: 1, 8, 256, 1024 or 4096. A card that has no topology of so many is
    left out. One chip has everything (replicated)."""
    trees: tuple[str, ...] = TREES
    """Parameter trees; an unknown name lists the known ones."""
    optimizers: tuple[str, ...] = OPTIMIZERS
    """The optimizers: any of sgdm, adamw and muon. Muon is compiled for trees of stacked layers only."""
    layouts: tuple[str, ...] = LAYOUTS
    """How kernels are split: any of replicated, fsdp, outputs, inputs and both."""
    arms: tuple[str, ...] = ARMS
    """The arms: any of none (no GC), ours, plain (g - mean(g) and nothing else), optax (optax.centralize)."""
    out: Path = Path("compiled.jsonl")
    """JSON lines. Cases that are in it already are not compiled again. The tables, in Markdown, go
    beside it, and so does a picture if there are Llama-shaped trees of several sizes or on several
    numbers of chips."""

    def __post_init__(self):
        known = {
            "cards": CARDS,
            "trees": TREES,
            "optimizers": OPTIMIZERS,
            "layouts": LAYOUTS,
            "arms": ARMS,
        }
        for flag, names in known.items():
            given = getattr(self, flag)
            if not given:
                raise ValueError(f"--{flag} needs at least one name; there are {', '.join(names)}")
            for name in given:
                if name not in names:
                    raise ValueError(f"--{flag} {name}: unknown; there are {', '.join(names)}")
        if not self.chips:
            known_chips = ", ".join(map(str, CHIPS))
            raise ValueError(f"--chips needs at least one number; there are {known_chips}")
        for chips in self.chips:
            if chips not in CHIPS:
                check_topology(find_card(self.cards[0]), chips)
        if self.out.suffix != ".jsonl":
            raise ValueError(f"--out {self.out}: the name must end in .jsonl")
        if not flags.can_write(self.out):
            raise ValueError(f"--out {self.out}: no file can be written there")
        for beside in (self.out.with_suffix(".md"), self.out.with_suffix(".png")):
            if beside.exists() and not self.out.exists():
                raise ValueError(
                    f"--out {self.out}: {beside} is there already and would be replaced"
                )
