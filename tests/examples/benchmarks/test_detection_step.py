"""The benchmark of a detector's training step: what it refuses, measures and prints."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from examples.benchmarks import detection_parts, detection_step
from examples.benchmarks.detection_step import Config
from examples.detection.backbone import Frozen
from examples.training.errors import SettingError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 0}, "--height must be at least 1, not 0"),
        ({"rounds": 0}, "--rounds must be at least 1, not 0"),
        ({"out": Path("/")}, "--out /: no file can be written there"),
    ],
)
def test_bad_options_name_the_flag(options, message):
    with pytest.raises(SettingError, match=message):
        Config(**options)


def test_batch_has_objects_inside_its_images():
    batch = detection_parts.make_batch(Config(height=40, width=60, images=2))
    boxes = np.asarray(batch["boxes"])
    assert boxes.shape == (2, 10, 4)
    assert (boxes[..., 2:] > boxes[..., :2]).all()
    assert (boxes >= 0).all()
    assert (boxes.reshape(-1, 4) <= [60, 40, 60, 40]).all()


def test_model_has_frozen_parts_and_keeps_the_size_of_what_passes_through():
    model = detection_parts.make_model("resnet18")
    assert len(nnx.to_flat_state(nnx.state(model, Frozen))) == 15
    assert 0.5 < jnp.std(model.backbone.conv1.kernel[...]) * np.sqrt(3 * 49) < 2


def test_table_has_a_row_for_each_part(capsys):
    records = [
        {"part": "loss", "seconds": 0.5, "compile_seconds": 3.0, "peak_bytes": 2.5e9},
        {"part": "ratio", "ratio": 0.75},
    ]
    Console(width=100).print(detection_step.make_table(records))
    text = capsys.readouterr().out
    assert "0.500" in text
    assert "2.50" in text
    assert "ratio 0.75" in text
