"""The net that E4 fine-tunes: a ResNet-8, trained once on all of Fashion-MNIST and kept."""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flax import nnx

from examples.models.resnet import resnet8

# The folder of the run, in the current one.
FOLDER = Path("runs", "experiments", "resnet8-fashion-mnist")
_WIDTH = 8


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
        width=_WIDTH,
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
def read_pretrained() -> dict[str, np.ndarray]:
    """Returns the variables of the net in `FOLDER` by path, without those of its last layer.

    Raises:
      CheckpointError: the net is not there, or is damaged.
    """
    from examples.classification.weights import HEAD
    from examples.training.checkpoints import read_variables

    found = read_variables(FOLDER)
    return {name: value for name, value in found.items() if not name.startswith(f"{HEAD}/")}


def digest_pretrained() -> str:
    """Returns a digest of the variables, by which results of another net are told from these."""
    digest = hashlib.sha256()
    for name, value in sorted(read_pretrained().items()):
        digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()[:16]


def pretrained_resnet8(
    classes: int, shape: tuple[int, ...], rngs: nnx.Rngs, *, norm: Callable
) -> nnx.Module:
    """Makes the net with its trained weights, and with a new last layer for these classes.

    It was trained on images of one channel. Of pictures with more channels, its first layer sees the
    mean over them.
    """
    net = resnet8(
        num_classes=classes,
        stem="cifar",
        width=_WIDTH,
        in_channels=shape[-1],
        conv=nnx.Conv,
        norm=norm,
        linear=nnx.Linear,
        rngs=rngs,
    )
    _read_loader(FOLDER)(net)
    return net


@functools.cache
def _read_loader(folder: Path) -> Callable[[nnx.Module], None]:
    from examples.classification.weights import read_weights

    return read_weights(folder)
