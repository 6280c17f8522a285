"""The measurements along a run agree with the run itself."""

import dataclasses

import jax
import numpy as np
import pytest

from examples.classification.presets import PRESETS
from examples.classification.task import Trainer
from examples.experiments import observations
from examples.training.errors import DivergedError
from examples.training.sharding import make_mesh
from optax_gc.diagnostics import neuron_means

CONFIG = dataclasses.replace(
    PRESETS["digits"][1], width=4, epochs=3, batch_size=48, train_images=96, norm="bn"
)
STEPS = 6


@pytest.fixture(scope="module")
def trainer():
    return Trainer(make_mesh(1))


@pytest.fixture(scope="module")
def tasks(trainer):
    return {
        gc: trainer.prepare(dataclasses.replace(CONFIG, gc=gc), diagnose=True)
        for gc in ("off", "conv+fc")
    }


def test_weights_before_and_after_are_those_of_the_convolutions_from_shallow_to_deep(tasks):
    task = tasks["off"]
    seen = observations.weights(task)
    assert seen["layers"][0] == "conv1/kernel"
    assert not any(name.startswith("fc") for name in seen["layers"])
    stages = [name.split("/")[1] for name in seen["layers"][1:]]
    assert stages == sorted(stages)
    expected = neuron_means(task.job.init().params)
    for name, logarithms in zip(seen["layers"], seen["before"], strict=True):
        np.testing.assert_allclose(logarithms, np.log10(np.abs(expected[name])), atol=0.006)
    assert seen["before"] == observations.start(task)["before"]
    moved = np.concatenate(seen["after"]) - np.concatenate(seen["before"])
    assert np.abs(moved).mean() > 0.05


def test_with_gc_the_means_keep_their_initial_values(tasks):
    """eᵀw is a constant during training (Section 4.1)."""
    task = tasks["conv+fc"]
    seen = observations.weights(task)
    # Below 1e-5, rounding moves them.
    means = [10 ** np.concatenate(seen[when]) for when in ("before", "after")]
    np.testing.assert_allclose(*means, rtol=0.03, atol=1e-6)


@pytest.mark.parametrize("gc", ["off", "conv+fc"])
def test_gradients_of_both_layers_are_measured_at_each_step(gc, tasks):
    seen = observations.gradients(tasks[gc])
    assert len(seen) == 9
    assert all(len(values) == STEPS for values in seen.values())
    for layer in ("conv1/kernel", "fc/kernel"):
        before, after = (np.array(seen[f"{layer}/norm_{when}"]) for when in ("before", "after"))
        assert (after <= before * 1.001).all(), "Proposition 4.2"
        assert (np.array(seen[f"{layer}/max_before"]) <= before).all()
    assert seen["loss"][0] > seen["loss"][-1]


def test_both_arms_begin_with_the_same_gradient(tasks):
    first = [observations.gradients(tasks[gc])["conv1/kernel/norm_before"][0] for gc in tasks]
    assert first[0] == pytest.approx(first[1], rel=1e-3)


def test_both_sides_of_proposition_4_2_are_measured_along_the_run(tasks, monkeypatch):
    monkeypatch.setattr(observations, "_CHECKPOINTS", 2)
    monkeypatch.setattr(observations, "_ITERATIONS", 10)
    task = tasks["off"]
    seen = observations.curvature(task)
    assert seen["step"] == [0, STEPS]
    for name in ("gradient_norm", "hessian_norm"):
        plain, with_gc = np.array(seen[name]), np.array(seen[f"{name}_gc"])
        assert plain.shape == with_gc.shape == (2,)
        assert (with_gc <= plain * 1.02).all()
        assert (with_gc > 0).all()


def test_a_run_that_diverges_is_an_error(trainer):
    config = dataclasses.replace(CONFIG, gc="off", learning_rate=1e30)
    with pytest.raises(DivergedError, match="the loss is"):
        observations.gradients(trainer.prepare(config, diagnose=True))


def test_observing_does_not_compile_another_step(trainer, tasks):
    task = tasks["off"]
    observations.gradients(task)
    compiled = task.steps.train_step._cache_size()
    config = dataclasses.replace(CONFIG, gc="off", seed=3)
    observations.weights(trainer.prepare(config, diagnose=True))
    assert task.steps.train_step._cache_size() == compiled
    assert jax.tree.leaves(task.job.init().params)
