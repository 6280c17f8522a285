"""The net that is fine-tuned is trained once, kept, and used with its own weights."""

import functools
import gzip
import json
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sklearn.datasets import load_digits

from examples.classification import task as classification
from examples.classification import weights
from examples.classification.weights import digest_net, read_weights
from examples.experiments.store import ResultsError
from examples.experiments.sweep import pretraining, run
from examples.experiments.sweep.nets import NORMS, net
from examples.experiments.sweep.tasks import TASKS
from examples.models.resnet import resnet8
from examples.training.errors import StoppedError


@pytest.fixture
def few_images(tmp_path, monkeypatch):
    """Writes 200 digits in the files of Fashion-MNIST, and keeps the net in a temporary folder."""
    pixels, labels = (np.asarray(part)[:200] for part in load_digits(return_X_y=True))
    images = np.kron(pixels.reshape(-1, 8, 8) * 15, np.ones((1, 4, 4))).astype(np.uint8)[
        :, 2:30, 2:30
    ]
    for stem in ("train", "t10k"):
        for kind, values in (("images-idx3", images), ("labels-idx1", labels.astype(np.uint8))):
            head = bytes([0, 0, 8, values.ndim])
            head += b"".join(size.to_bytes(4, "big") for size in values.shape)
            path = tmp_path / f"{stem}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(head + values.tobytes()))
    monkeypatch.setattr(pretraining, "FOLDER", tmp_path / "net")
    partial = functools.partial(classification.Trainer, partial=True)
    monkeypatch.setattr(classification, "Trainer", partial)
    return tmp_path


def test_the_net_is_trained_once_and_its_weights_are_those_that_are_fine_tuned(few_images):
    pretraining.pretrain(few_images)
    result = (few_images / "net" / "result.json").read_text()
    assert json.loads(result)["config"]["gc"] == "off"
    digest = digest_net(few_images / "net")
    pretraining.pretrain(few_images)
    assert (few_images / "net" / "result.json").read_text() == result
    assert digest_net(few_images / "net") == digest

    # On grey pictures it computes what the trained net of one channel computes on grey images.
    grey = jax.random.normal(jax.random.key(0), (2, 28, 28, 1))
    colour: Any = net("pretrained", "batch")(7, (28, 28, 3), nnx.Rngs(1))
    plain = resnet8(
        num_classes=10,
        stem="cifar",
        width=8,
        in_channels=1,
        conv=nnx.Conv,
        norm=NORMS["batch"],
        linear=nnx.Linear,
        rngs=nnx.Rngs(2),
    )
    read_weights(few_images / "net")(plain)
    for model in (colour, plain):
        model.eval()
    np.testing.assert_allclose(
        colour.features(jnp.tile(grey, 3))[-1], plain.features(grey)[-1], atol=1e-5
    )
    assert colour(jnp.tile(grey, 3)).shape == (2, 7)

    # A folder with a run of other settings is refused.
    path = few_images / "net" / "config.json"
    path.write_text(path.read_text().replace('"epochs": 5', '"epochs": 6'))
    with pytest.raises(StoppedError, match="epochs was 6 and is 5"):
        pretraining.pretrain(few_images)


def test_results_of_another_net_are_not_continued(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "pretrain", lambda data_dir: None)
    monkeypatch.setattr(weights, "digest_net", lambda folder: "a" * 16)

    records = [{"pretrained": "a" * 16}]
    store = SimpleNamespace(path=tmp_path / "finetuned-faces.jsonl", records=lambda: records)
    results: Any = SimpleNamespace(task=TASKS["finetuned-faces"], complete=False, store=store)
    assert run._start_net(results, None) == {"pretrained": "a" * 16}
    records.append({"pretrained": "b" * 16})
    with pytest.raises(ResultsError, match=r"finetuned-faces\.jsonl: .* another net"):
        run._start_net(results, None)
