"""The runs have the paper's settings, which are written here a second time."""

import dataclasses
import inspect
import re
from typing import get_args

import numpy as np
import pytest

from examples import datasets, models
from examples.classification import config as config_module
from examples.classification.config import Config
from examples.classification.data import Data
from examples.classification.presets import PRESETS
from examples.classification.task import compile_steps, make_job, step_spec
from examples.datasets.types import Arrays
from examples.training.errors import SettingError
from examples.training.options import Options
from examples.training.settings import Settings
from examples.training.sharding import make_mesh

CIFAR = {
    "dataset": "cifar100",
    "stem": "cifar",
    "norm": "bn",
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "weight_decay": 5e-4,
    "batch_size": 128,
    "epochs": 200,
    "milestones": (60, 120, 180),
    "gc": "conv",
}
IMAGENET = {
    "dataset": "imagenet",
    "stem": "imagenet",
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "weight_decay": 1e-4,
    "batch_size": 256,
    "epochs": 100,
    "milestones": (30, 60, 90),
    "gc": "conv",
}
FINE_GRAINED = {
    "model": "resnet50",
    "norm": "bn",
    "stem": "imagenet",
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "head_learning_rate": 0.1,
    "weight_decay": 1e-4,
    "batch_size": 256,
    "epochs": 100,
    "milestones": (50, 80),
    "gc": "conv+fc",
}
MINI = IMAGENET | {
    "dataset": "mini_imagenet",
    "model": "resnet50",
    "norm": "bn",
    "batch_size": 128,
    "gc": "conv+fc",
}


def table2(optimizer, rate, decay):
    return CIFAR | {
        "model": "resnet50",
        "optimizer": optimizer,
        "learning_rate": rate,
        "weight_decay": decay,
    }


# Every column of Tables 1 to 4. Figures 6 and 7 show runs of Tables 3 and 4.
PAPER = {
    "table1-resnet18": CIFAR | {"model": "resnet18"},
    "table1-resnet101": CIFAR | {"model": "resnet101"},
    "table1-resnext29_4x64d": CIFAR | {"model": "resnext29_4x64d"},
    "table1-vgg11": CIFAR | {"model": "vgg11"},
    "table1-densenet121": CIFAR | {"model": "densenet121"},
    "table2-sgd": table2("sgd", 0.1, 5e-4),
    "table2-adam": table2("adam", 0.001, 5e-4),
    "table2-adagrad": table2("adagrad", 0.01, 5e-4),
    "table2-sgdw": table2("sgdw", 0.1, 1e-3),
    "table2-adamw": table2("adamw", 0.001, 1e-3),
    "table3-resnet50-bn": IMAGENET | {"model": "resnet50", "norm": "bn"},
    "table3-resnet50-gn": IMAGENET | {"model": "resnet50", "norm": "gn"},
    "table3-resnet101-bn": IMAGENET | {"model": "resnet101", "norm": "bn"},
    "table3-resnet101-gn": IMAGENET | {"model": "resnet101", "norm": "gn"},
    "table4-aircraft": FINE_GRAINED | {"dataset": "aircraft"},
    "table4-cars": FINE_GRAINED | {"dataset": "cars"},
    "table4-dogs": FINE_GRAINED | {"dataset": "dogs"},
    "table4-cub": FINE_GRAINED | {"dataset": "cub"},
    "figure5-bn": MINI | {"weight_standardization": False},
    "figure5-bn-ws": MINI | {"weight_standardization": True},
}
# These settings are the same in all runs.
COMMON = {
    "momentum": 0.9,
    "schedule": "step",
    "warmup_epochs": 0,
    "label_smoothing": 0.0,
    "width": None,
    "dtype": "float32",
    "train_images": None,
    "validation": 0,
    "pool": 1,
}


def test_all_runs_of_the_paper_are_there():
    assert {name for name in PRESETS if name.startswith(("table", "figure"))} == PAPER.keys()
    for figure in ("Figure 5", "Figure 6", "Figure 7"):
        assert any(figure in text for text, _ in PRESETS.values())


@pytest.mark.parametrize("name", PAPER)
def test_a_run_has_the_settings_of_the_paper(name):
    config = dataclasses.asdict(PRESETS[name][1])
    expected = {"head_learning_rate": None, "weight_standardization": False} | COMMON | PAPER[name]
    assert {key: config[key] for key in expected} == expected


def tiny(name, classes):
    """Makes a data set of one batch, in place of one that is not on this machine."""
    images = Arrays(np.zeros((256, 2, 2, 3), np.uint8), np.zeros(256, np.int32))
    return datasets.Dataset(name, "train", tuple(map(str, range(classes))), images)


@pytest.mark.parametrize(
    ("name", "gc"),
    [
        ("table1-resnet18", "off"),
        ("table2-adagrad", "conv"),
        ("table3-resnet50-gn", "conv+fc"),
        ("figure5-bn-ws", "conv"),
    ],
)
def test_a_run_can_be_built_with_gc_anywhere(name, gc):
    config = dataclasses.replace(PRESETS[name][1], gc=gc, width=4)
    data = tiny(config.dataset, 100)
    data = Data(data, data, *[lambda image, rng: image] * 2)
    mesh = make_mesh()
    compiled = compile_steps(
        step_spec(dataclasses.replace(config, head_learning_rate=None), data, mesh)
    )
    job = make_job(config, data, compiled, [], mesh)
    milestone = config.milestones[0] * job.steps_per_epoch
    assert float(job.learning_rate(milestone - 1)) == pytest.approx(config.learning_rate)
    assert float(job.learning_rate(milestone)) == pytest.approx(config.learning_rate / 10)


SMALL = PRESETS["digits"][1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "--epochs 0: it must be at least 1"),
        ({"learning_rate": float("nan")}, "--learning-rate nan: it must be a positive number"),
        ({"head_learning_rate": 0.0}, "--head-learning-rate 0.0: it must be a positive number"),
        ({"weight_decay": -1.0}, "--weight-decay -1.0: it must be 0 or more"),
        ({"momentum": 1.0}, "--momentum 1.0: it must be at least 0 and below 1"),
        ({"label_smoothing": 1.0}, "--label-smoothing 1.0: it must be at least 0 and below 1"),
        ({"seed": -1}, "--seed -1: it must be from 0 to "),
        ({"clip_norm": 0.0}, "--clip-norm 0.0: it must be a positive number"),
        ({"warmup_epochs": 15}, "--warmup-epochs 15: it must be below --epochs"),
        ({"warmup_epochs": 1, "warmup_steps": 5}, "set either this or --warmup-epochs"),
        ({"warmup_from": 0.3}, "it needs --warmup-steps or --warmup-epochs"),
        ({"warmup_steps": 5, "warmup_from": 1.5}, "it must be a fraction from 0 to 1"),
        ({"schedule": "step"}, "the step schedule needs them"),
        ({"milestones": (5,)}, "the other schedules have none"),
        ({"schedule": "step", "milestones": (9, 5)}, "rising epochs"),
        ({"schedule": "step", "milestones": (15,)}, "before the end"),
        ({"width": 0}, "--width 0: it must be at least 1"),
        ({"train_images": 0}, "--train-images 0: it must be at least 1"),
        ({"validation": -1}, "--validation -1: it must be 0 or more"),
        ({"pretrained": ""}, "--pretrained : it must name a file or a folder"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(SettingError, match=message):
        dataclasses.replace(SMALL, **changes)


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SMALL.seed = 1  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(SMALL, Config)


def test_the_command_line_lists_every_data_set_and_every_net():
    assert get_args(config_module.Dataset) == datasets.NAMES
    assert get_args(config_module.Model) == models.NAMES


def test_every_setting_has_a_help_text_of_a_whole_sentence():
    for type_ in (Config, Settings, Options):
        source = inspect.getsource(type_)
        for field in type_.__annotations__:
            help_text = re.search(rf'\n    {field}: .*\n    """(.+?)"""', source, re.DOTALL)
            assert help_text, f"{type_.__name__}.{field} has no help text"
            assert help_text[1].endswith("."), help_text[1]
            assert help_text[1][0].isupper(), help_text[1]
