"""Two runs share a compiled step if and only if nothing differs that the step depends on."""

import dataclasses

import pytest

from examples.classification.config import Config
from examples.classification.data import load_data
from examples.classification.presets import PRESETS
from examples.classification.task import Trainer, step_spec
from examples.training.sharding import make_mesh

CONFIG = dataclasses.replace(PRESETS["digits"][1], train_images=200)
# A net of both forms.
BOTH = dataclasses.replace(CONFIG, model="resnet18")

# Another value of every field of Config, and whether a run with it can share the compiled step.
OTHER = {
    "epochs": (16, False),
    "batch_size": (25, False),
    "learning_rate": (0.2, True),
    "weight_decay": (0.1, True),
    "gc": ("conv", False),
    "seed": (1, True),
    "optimizer": ("adam", False),
    "momentum": (0.5, False),
    "clip_norm": (1.0, False),
    "schedule": ("constant", False),
    "warmup_epochs": (2, False),
    "warmup_steps": (2, False),
    "pretrained": ("weights.safetensors", True),
    "evaluate_every": (3, True),
    "model": ("resnet34", False),
    "label_smoothing": (0.1, False),
    "stem": ("imagenet", False),
    "norm": ("bn", False),
    "groups": (1, False),
    "weight_standardization": (True, False),
    "width": (4, False),
    "dtype": ("bfloat16", False),
    "train_images": (150, False),
    "classes": ((1, 2), False),
    "validation": (500, True),
}
# These need a change of another field too.
WITH = {
    "milestones": ({"schedule": "step", "milestones": (5,)}, False),
    "warmup_from": ({"warmup_steps": 2, "warmup_from": 0.5}, False),
    "head_learning_rate": ({"pretrained": "x.pth", "head_learning_rate": 1.0}, False),
    "dataset": ({"dataset": "mnist5k"}, True),
    "pad": ({"pad": 4}, True),
    "pool": ({"pool": 2}, True),
}


def spec_of(config, *, mesh=None, diagnose=False):
    data = load_data(config, None)
    return step_spec(config, data, mesh or make_mesh(1), diagnose=diagnose)


def test_every_setting_is_tested():
    assert OTHER.keys() | WITH.keys() == {field.name for field in dataclasses.fields(Config)}


@pytest.mark.parametrize("field", [*OTHER, *WITH])
def test_a_changed_setting_shares_the_step_only_if_the_step_does_not_depend_on_it(field):
    changes, shared = WITH[field] if field in WITH else ({field: OTHER[field][0]}, OTHER[field][1])
    changed = dataclasses.replace(BOTH, **changes)
    assert (spec_of(changed) == spec_of(BOTH)) == shared


def test_held_out_images_leave_fewer_steps_in_an_epoch():
    """With all images there are 25 steps in an epoch, and with 500 held out there are 15."""
    every = dataclasses.replace(CONFIG, train_images=None)
    held_out = dataclasses.replace(every, validation=500)
    specs = [spec_of(config) for config in (every, held_out)]
    assert [spec.optimizer.steps for spec in specs] == [15 * 25, 15 * 15]


@pytest.mark.eight_devices
def test_a_step_depends_on_the_devices_and_on_measuring_gradients():
    assert spec_of(CONFIG, diagnose=True) != spec_of(CONFIG)
    assert spec_of(CONFIG, mesh=make_mesh(2)) != spec_of(CONFIG)


def test_runs_on_the_same_images_share_their_evaluation_batches_and_others_do_not():
    trainer = Trainer(make_mesh(1))
    for changes, kept in (
        ({}, 1),
        ({"seed": 1}, 1),
        ({"gc": "off"}, 1),
        ({"validation": 500}, 2),
        ({"validation": 400}, 3),
        ({"pad": 1}, 4),
        ({"batch_size": 25}, 5),
    ):
        trainer.prepare(dataclasses.replace(CONFIG, **changes))
        assert len(trainer._evaluation) == kept
