"""Tables 5 and 6 at the scale of a CPU keep the rules of PLAN.md."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

from examples import models
from examples.datasets.transforms import recipe
from examples.detection.data import PIXELS
from examples.detection.scenes import write_scenes
from examples.detection.task import Trainer, create_model
from examples.experiments.columns import Experiment
from examples.experiments.detectors import BOX_AP, MASK_AP, backbones, table5, table6
from examples.experiments.outcomes import choose
from examples.experiments.runner import Plan, make_runs
from examples.experiments.store import Store
from examples.training.sharding import make_mesh
from examples.training.steps import path_name
from tests.examples.detection.tiny import CONFIG

COLUMNS = (*table5().columns["cpu"], *table6().columns["cpu"])


def shapes_of(model):
    leaves, _ = jax.tree_util.tree_flatten_with_path(
        nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    )
    return {path_name(path): leaf.shape for path, leaf in leaves}


def test_each_column_has_eight_seeds_and_both_arms_at_every_rate():
    assert len(COLUMNS) == 5
    for column in COLUMNS:
        grid = list(column.grid_configs())
        assert len(set(grid)) == 2 * 3 * 8
        assert {config.eval_split for config in grid} == {"validation"}
        assert {config.seed for config in grid} == set(range(100, 108))
        assert column.config.eval_split == "test"


def test_the_papers_figures_stand_beside_both_metrics():
    for column in table6().columns["paper"] + table6().columns["cpu"]:
        for metric in (BOX_AP, MASK_AP):
            without, with_gc = column.paper_of(metric)
            assert 0 < with_gc - without < 1
    assert [len(table().columns["paper"]) for table in (table5, table6)] == [4, 7]
    assert BOX_AP.shown(0.25) == 25


def test_detectors_get_pixels_of_the_scale_that_their_classifiers_were_trained_with():
    gray = np.full((28, 28, 1), 77, np.uint8)
    trained = recipe("fashion_mnist")[1](gray, np.random.default_rng(0))
    for column in COLUMNS:
        order, mean, std = PIXELS[column.config.pixels]
        given = (np.repeat(gray, 3, axis=2)[..., order] - np.asarray(mean)) / np.asarray(std)
        np.testing.assert_allclose(given, np.repeat(trained, 3, axis=2), rtol=1e-4)


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
def test_the_backbone_that_a_column_starts_from_is_its_own(column):
    source = next(each for each in backbones() if each.name == column.config.pretrained)
    classifier = nnx.eval_shape(
        lambda: models.create(
            source.config.model,
            num_classes=10,
            stem=source.config.stem,
            width=source.config.width,
            norm=source.config.norm,
            weight_standardization=source.config.weight_standardization,
            rngs=nnx.Rngs(0),
        )
    )
    detector = nnx.eval_shape(lambda: create_model(column.config, 11, 0))
    given = {k: v for k, v in shapes_of(classifier).items() if not k.startswith("fc/")}
    assert given == shapes_of(detector.backbone)


def test_the_runner_makes_the_grid_and_then_what_it_chooses(compiled_once, tmp_path):
    write_scenes(tmp_path / "scenes", train=4, validation=1, test=1)
    column = dataclasses.replace(
        table5().columns["cpu"][0],
        config=dataclasses.replace(
            CONFIG,
            norm="gn",
            frozen_stages=None,
            masks=False,
            warmup_steps=0,
            epochs=1,
            evaluate_every=1,
            eval_images=None,
            eval_split="test",
        ),
        arms=("off",),
        seeds=2,
        rates=(0.01, 0.03),
    )
    experiment = Experiment("Tiny", {"cpu": (column,)}, metrics=(BOX_AP,), trainer="detector")
    trainer = Trainer(make_mesh(1), data_dir=tmp_path / "scenes")
    plan = Plan("cpu", {"tiny": experiment}, {"detector": trainer}, {})
    shown = []

    def make():
        make_runs(
            plan,
            results=tmp_path / "results",
            work=tmp_path / "work",
            show=lambda text, done, total: shown.append((done, total)),
        )

    make()
    path = tmp_path / "results/cpu/tiny.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["config"]["eval_split"] for line in lines] == ["validation"] * 4 + ["test"] * 2
    assert all(0 <= line["test_box_AP"] <= 1 for line in lines)
    chosen = choose(column, Store(path, type(CONFIG)), BOX_AP)
    assert chosen is not None
    assert [line["config"]["learning_rate"] for line in lines[4:]] == chosen["off"]
    shown.clear()
    make()
    assert shown == [(6, 6)], "nothing is missing"
