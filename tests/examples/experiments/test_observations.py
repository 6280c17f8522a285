"""What is measured along a run, beside what the run itself says."""

import dataclasses

import jax
import numpy as np
import pytest

from examples.classifier import load_data, prepare
from examples.experiments import observations
from examples.runs import RUNS
from examples.train_classifier import DivergedError
from examples.training import mesh as meshes
from optax_gc.diagnostics import neuron_means

CONFIG = dataclasses.replace(
    RUNS["digits"][1], width=4, epochs=3, batch_size=48, train_images=96, norm="bn"
)
STEPS = 6


@pytest.fixture(scope="module")
def data():
    return load_data(CONFIG, None)


@pytest.fixture(scope="module")
def tasks(data):
    mesh = meshes.make_mesh(1)
    configs = {gc: dataclasses.replace(CONFIG, gc=gc) for gc in ("off", "conv+fc")}
    return {gc: (c, prepare(c, data, mesh, diagnose=True)) for gc, c in configs.items()}


def gradients(tasks, gc, data):
    config, task = tasks[gc]
    return observations.gradients(config, task, data)


def test_weights_before_and_after_are_those_of_the_convolutions_from_shallow_to_deep(tasks, data):
    config, task = tasks["off"]
    seen = observations.weights(config, task, data)
    assert seen["layers"][0] == "conv1/kernel"
    assert not any(name.startswith("fc") for name in seen["layers"])
    stages = [name.split("/")[1] for name in seen["layers"][1:]]
    assert stages == sorted(stages)
    expected = neuron_means(task.init(config).params)
    for name, logarithms in zip(seen["layers"], seen["before"], strict=True):
        np.testing.assert_allclose(logarithms, np.log10(np.abs(expected[name])), atol=0.006)
    assert seen["before"] == observations.start(config, task, data)["before"]
    moved = np.concatenate(seen["after"]) - np.concatenate(seen["before"])
    assert np.abs(moved).mean() > 0.05


def test_with_gc_the_means_stay_where_they_began(tasks, data):
    """eᵀw is a constant during training (Section 4.1)."""
    config, task = tasks["conv+fc"]
    seen = observations.weights(config, task, data)
    # Below 1e-5, rounding moves them.
    means = [10 ** np.concatenate(seen[when]) for when in ("before", "after")]
    np.testing.assert_allclose(*means, rtol=0.03, atol=1e-6)


@pytest.mark.parametrize("gc", ["off", "conv+fc"])
def test_gradients_of_both_layers_at_each_step(gc, tasks, data):
    seen = gradients(tasks, gc, data)
    assert len(seen) == 9
    assert all(len(values) == STEPS for values in seen.values())
    for layer in ("conv1/kernel", "fc/kernel"):
        before, after = (np.array(seen[f"{layer}/norm_{when}"]) for when in ("before", "after"))
        assert (after <= before * 1.001).all(), "Proposition 4.2"
        assert (np.array(seen[f"{layer}/max_before"]) <= before).all()
    assert seen["loss"][0] > seen["loss"][-1]


def test_both_arms_begin_with_the_same_gradient(tasks, data):
    first = [gradients(tasks, gc, data)["conv1/kernel/norm_before"][0] for gc in tasks]
    assert first[0] == pytest.approx(first[1], rel=1e-3)


def test_both_sides_of_proposition_4_2_along_the_run(tasks, data, monkeypatch):
    monkeypatch.setattr(observations, "_CHECKPOINTS", 2)
    monkeypatch.setattr(observations, "_ITERATIONS", 10)
    config, task = tasks["off"]
    seen = observations.curvature(config, task, data)
    assert seen["step"] == [0, STEPS]
    for name in ("gradient_norm", "hessian_norm"):
        plain, with_gc = np.array(seen[name]), np.array(seen[f"{name}_gc"])
        assert plain.shape == with_gc.shape == (2,)
        assert (with_gc <= plain * 1.02).all()
        assert (with_gc > 0).all()


def test_a_run_that_diverges_says_so(tasks, data):
    config, task = tasks["off"]
    config = dataclasses.replace(config, learning_rate=1e30)
    with pytest.raises(DivergedError, match="the loss is"):
        observations.gradients(config, task, data)


def test_observing_compiles_no_step_of_its_own(tasks, data):
    config, task = tasks["off"]
    observations.gradients(config, task, data)
    compiled = task.train_step._cache_size()
    observations.weights(dataclasses.replace(config, seed=3), task, data)
    assert task.train_step._cache_size() == compiled
    assert jax.tree.leaves(task.init(config).params)
