"""Settings that are right one by one make a run that can begin, or one error before any work."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import pytest

from examples.classification.presets import PRESETS
from examples.classification.task import Trainer
from examples.training.errors import UserError
from examples.training.sharding import make_mesh
from tests.examples.fuzz.mutations import check_message, limits, search

CONFIG = dataclasses.replace(PRESETS["digits"][1], width=2)
NUMBERS = st.sampled_from([1, 2, 3, 7, 50, 1297, 10**4, 2**31, 10**12, 10**30])
SMALL_NUMBERS = st.sampled_from([0, 1, 2, 3, 8, 100, 10**6])
VALUES = {
    "epochs": NUMBERS,
    "batch_size": NUMBERS,
    "learning_rate": st.sampled_from([1e-300, 1e-30, 0.1, 1e30, 1e300]),
    "weight_decay": st.sampled_from([0.0, 1e-300, 1e300]),
    "momentum": st.sampled_from([0.0, 0.5, 1 - 1e-16]),
    "clip_norm": st.sampled_from([None, 1e-300, 1e300]),
    "evaluate_every": NUMBERS,
    "gc": st.sampled_from(["off", "conv", "conv+fc", "optax.centralize"]),
    "optimizer": st.sampled_from(["sgd", "sgdw", "adam", "adamw", "adagrad"]),
    "warmup_steps": SMALL_NUMBERS,
    "model": st.sampled_from(["resnet8", "resnet20", "vgg11", "resnet18"]),
    "stem": st.sampled_from(["imagenet", "cifar"]),
    "norm": st.sampled_from(["bn", "gn"]),
    "weight_standardization": st.booleans(),
    "width": st.sampled_from([None, 1, 2, 3, 5, 10**3, 10**9, 10**30]),
    "train_images": st.one_of(st.none(), NUMBERS),
    "validation": SMALL_NUMBERS,
    "classes": st.one_of(st.none(), st.lists(st.integers(-1, 10), max_size=3).map(tuple)),
    "pad": SMALL_NUMBERS,
    "pool": st.sampled_from([1, 2, 3, 8, 16, 10**9]),
}


@pytest.fixture(scope="module")
def trainer():
    return Trainer(make_mesh(1))


@hypothesis.given(data=st.data())
@search(percent=6)
def test_settings_make_a_run_that_can_begin_or_are_one_error(trainer, data):
    names = data.draw(st.lists(st.sampled_from([*VALUES]), min_size=1, max_size=3, unique=True))
    try:
        config = dataclasses.replace(CONFIG, **{name: data.draw(VALUES[name]) for name in names})
        with limits(seconds=120, megabytes=2048):
            job = trainer.prepare(config).job
    except UserError as error:
        check_message(error)
    else:
        assert job.steps >= 1
