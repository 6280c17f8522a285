"""All seeds of a point are trained as each of them would be alone."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from examples.experiments.sweep import training
from examples.experiments.sweep.data import Part, Splits
from examples.experiments.sweep.tasks import Task
from examples.experiments.sweep.training import Point, count_steps, draw_order, train_point


def load_few_digits(seed, data_dir=None):
    """Returns 200 digits of 8x8 as rows, in the layout of a loader."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(200)
    rows, labels = np.asarray(pixels, np.float32) / 8 - 1, np.asarray(labels, np.int32)
    train, validation, test = (Part(rows[i], labels[i]) for i in np.split(order, [120, 160]))
    return Splits(train, validation, test, classes=10)


def make_task(**changes):
    fields = {
        "name": "digits",
        "family": "mlp",
        "norm": "layer",
        "dataset": "digits",
        "load": load_few_digits,
        "optimizer": "sgdm",
        "batch_size": 20,
        "epochs": 10,
        "steps": None,
        "grid": range(-4, 2),
        "seconds": 1.0,
    }
    return Task(**{**fields, **changes})


MLP = make_task()


def without_seconds(records):
    return [{name: value for name, value in one.items() if name != "seconds"} for one in records]


def test_an_mlp_learns_and_its_seeds_do_not_mix():
    splits = [load_few_digits(seed) for seed in (0, 1)]
    together = train_point(Point(MLP, "gc", 0.1), splits, (0, 1))
    single = train_point(Point(MLP, "gc", 0.1), splits[1:], (1,))
    for name in ("test_accuracy", "train_loss", "curve", "share_removed"):
        np.testing.assert_allclose(together[1][name], single[0][name], rtol=2e-3)
    for record in together:
        assert record["test_accuracy"] > 60
        assert record["curve"][-1] < record["curve"][0]
        assert not record["collapsed"]
    assert together[0]["curve"] != together[1]["curve"]


def test_a_run_is_the_same_when_it_is_made_again():
    splits = [load_few_digits(0)] * 2
    first, again = (train_point(Point(MLP, "gc", 0.1), splits, (0, 1)) for _ in range(2))
    assert without_seconds(first) == without_seconds(again)


def test_a_collapsed_run_counts_as_guessing():
    split = load_few_digits(0)
    task = make_task(norm="none")
    records = train_point(Point(task, "none", 1e4), [split] * 2, (0, 1))
    accuracy, loss = split.guess(split.test)
    for record in records:
        assert record["collapsed"]
        assert record["test_accuracy"] == pytest.approx(accuracy)
        assert record["test_loss"] == pytest.approx(loss, rel=1e-5)
        assert np.isfinite(record["curve"]).all()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_transformer_learns_with(optimizer):
    def load(seed, data_dir=None):
        random = np.random.default_rng(seed)
        # Each character follows from the one before, which two blocks learn at once.
        codes = (random.integers(0, 5, (60, 1)) + np.arange(9)) % 5
        part = Part(codes[:, :-1].astype(np.int32), codes[:, 1:].astype(np.int32))
        return Splits(part, part, part, classes=5)

    task = make_task(family="lm", optimizer=optimizer, load=load, epochs=None, steps=20)
    (record,) = train_point(Point(task, "gc", 0.01), [load(0)], (0,))
    assert record["test_accuracy"] > 90
    assert record["curve"][-1] < record["curve"][0]


def test_a_resnet_learns_outside_of_a_scan():
    def load(seed, data_dir=None):
        splits = load_few_digits(seed)
        parts = (
            Part(part.inputs.reshape(-1, 8, 8, 1), part.labels)
            for part in (splits.train, splits.validation, splits.test)
        )
        return Splits(*parts, classes=10)

    task = make_task(family="resnet8", norm="batch", load=load)
    (record,) = train_point(Point(task, "gc", 0.1), [load(0)], (0,))
    assert record["train_accuracy"] > 60
    assert 0 < record["share_removed"] < 1
    assert len(record["curve"]) == training.MEASURES


def test_every_epoch_is_a_new_permutation_of_the_training_examples():
    assert count_steps(MLP, 127) == 60
    order = draw_order(MLP, 127, 3)
    assert order.shape == (training.MEASURES, 6, 20)
    epochs = order.reshape(10, 120)
    assert all(len(set(epoch)) == 120 for epoch in epochs.tolist())
    assert not np.array_equal(epochs[0], epochs[1])
    np.testing.assert_array_equal(order, draw_order(MLP, 127, 3))
    assert not np.array_equal(order, draw_order(MLP, 127, 4))


def test_steps_may_be_given_instead_of_epochs():
    task = make_task(epochs=None, steps=50)
    assert draw_order(task, 127, 0).shape == (training.MEASURES, 5, 20)
