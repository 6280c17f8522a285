"""Damaged weights and results are one error, or numbers that can be used."""

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from examples import models
from examples.experiments.store import RESULTS, ResultsError, Store
from examples.models.pretrained import WeightsError, load_file
from tests.examples.fuzz.mutations import check_message, damage, limits, search
from tests.examples.models.test_pretrained import state_of


@pytest.fixture(scope="module")
def model():
    return models.create("resnet8", num_classes=3, width=1, stem="cifar", rngs=nnx.Rngs(0))


@hypothesis.given(data=st.data())
@search(percent=50)
def test_a_damaged_file_of_weights_is_one_error_or_finite_weights(model, data, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    safetensors.numpy.save_file(state_of(model), path)
    path.write_bytes(data.draw(damage(path.read_bytes())))
    before = jax.tree.leaves(nnx.state(model))
    try:
        with limits():
            load_file(model, path)
    except WeightsError as error:
        check_message(error)
        after = jax.tree.leaves(nnx.state(model))
        assert all(map(np.array_equal, before, after)), "all of them or none"
    for leaf in jax.tree.leaves(nnx.state(model)):
        assert np.isfinite(leaf).all()


@hypothesis.given(data=st.data())
@search(percent=50)
def test_a_damaged_file_of_results_names_the_line_or_is_read(data, tmp_path_factory):
    lines = (RESULTS / "cpu/table4.jsonl").read_bytes().splitlines(keepends=True)[:20]
    path = tmp_path_factory.mktemp("results") / "table4.jsonl"
    path.write_bytes(data.draw(damage(b"".join(lines))))
    try:
        with limits():
            assert len(Store(path)) <= 2 * len(lines)
    except ResultsError as error:
        check_message(error)
