"""The net that E4 fine-tunes: a ResNet-8, trained once on all of Fashion-MNIST and kept."""

import functools
from collections.abc import Callable
from pathlib import Path

from flax import nnx

# The folder of the run, in the current one.
FOLDER = Path("runs", "experiments", "resnet8-fashion-mnist")
WIDTH = 8


def pretrain(data_dir: Path | None) -> None:
    """Trains the net in `FOLDER`, or continues, or does nothing if it is there.

    Args:
      data_dir: the folder of Fashion-MNIST.

    Raises:
      UserError: the data cannot be read, or the folder holds another run.
    """
    # Imported here because these take seconds, which other tasks can do without.
    from rich.console import Console

    from examples.classification.config import Config
    from examples.classification.task import Trainer
    from examples.training.folder import open_folder, write_result
    from examples.training.loop import train
    from examples.training.sharding import make_mesh

    config = Config(
        dataset="fashion_mnist",
        model="resnet8",
        stem="cifar",
        width=WIDTH,
        epochs=5,
        batch_size=100,
        learning_rate=0.1,
        weight_decay=5e-4,
        schedule="cosine",
        evaluate_every=5,
        gc="off",
    )
    with open_folder(FOLDER, config):
        if not (FOLDER / "result.json").exists():
            job = Trainer(make_mesh(1), data_dir=data_dir).prepare(config).job
            write_result(FOLDER, config, train(job, FOLDER, console=Console(quiet=True)))


@functools.cache
def read_pretrained(folder: Path) -> Callable[[nnx.Module], None]:
    """Reads the net in a folder, and returns the function that puts its weights into another.

    The seeds of a task share what was read.

    Raises:
      CheckpointError: the net is not there, or is damaged.
    """
    from examples.classification.weights import read_weights

    return read_weights(folder)
