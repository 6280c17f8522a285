"""Runs the quickstart: ``python -m examples.quickstart --help``.

A ResNet-8 learns 300 MNIST digits by SGD with momentum, three times from the same start with the
same batches: without GC, with GC, and with ``optax.centralize``, which averages over other axes. A
table compares the three over several seeds, and a picture shows them epoch by epoch.
"""

import sys
import time

import tyro

from examples.quickstart.config import Config


def main(config: Config) -> None:
    begin = time.perf_counter()
    print(
        f"This trains a small ResNet {3 * config.seeds} times on {config.train_images} MNIST digits: "
        f"{config.seeds} seeds, 3 arms, {config.epochs} epochs.\n"
        "Loading and compiling takes about 10 seconds. Then an estimate of the time appears.",
        flush=True,
    )
    # Imported here, so that --help and a wrong flag are answered at once.
    from rich.console import Console

    from examples.quickstart import results, training

    console = Console()
    measured = training.train(config, console)
    console.print(results.make_table(measured))
    console.print(results.conclude(measured))
    if config.quick:
        console.print("This was the quick mode. Run without --quick for a narrower interval.")
    results.make_picture(measured, config.steps_per_epoch).savefig(config.out, dpi=150)
    console.print(f"{time.perf_counter() - begin:.0f} s; picture: {config.out}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, prog="python -m examples.quickstart"))
    except FloatingPointError as error:
        sys.exit(f"stopped: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped: interrupted, nothing was saved")
