"""Counts what GC sends between eight virtual devices, in the compiled update step.

This is a program of its own because the number of devices cannot change within a process. It prints
a JSON line for each layout and arm:

    python -m examples.benchmarks.collectives sgdm resnet50 vit_b16
"""

import argparse
import json
import sys

from examples.benchmarks import flags


def main(optimizer: str, names: list[str]) -> None:
    flags.check_optimizer(optimizer)
    for name in names:
        flags.check_tree(name)
    # These take seconds, which the help of the program can do without.
    import jax

    from examples.benchmarks import sharded_updates

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", sharded_updates.DEVICES)
    for name in names:
        for record in sharded_updates.records(name, optimizer):
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m examples.benchmarks.collectives",
        description="Count what GC sends between eight virtual devices, as JSON lines.",
    )
    parser.add_argument("optimizer", help=f"any of {', '.join(flags.OPTIMIZERS)}")
    parser.add_argument("trees", nargs="+", help=f"any of {', '.join(flags.TREES)}")
    arguments = parser.parse_args()
    try:
        main(arguments.optimizer, arguments.trees)
    except ValueError as error:
        sys.exit(str(error))
