"""Compiles update steps with and without GC for TPUs and an H100, without having one.

The compilers are the real ones. They report what a program would do on the card: temporaries,
kernels, collectives. Nothing is run and nothing is timed but the compiler itself.

    python -m examples.benchmarks.compiled --help
"""

import tyro

from examples.benchmarks.compiled.config import Config


def main(config: Config) -> None:
    from examples.benchmarks.compiled import run  # it imports JAX, for which --help need not wait

    run.main(config)


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.benchmarks.compiled"))
