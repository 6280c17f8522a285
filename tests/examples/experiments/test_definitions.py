"""The experiments have the paper's settings, figures and arms."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from examples import datasets, models
from examples.experiments.columns import ACCURACY, ERROR
from examples.experiments.definitions import EXPERIMENTS, find
from examples.training.errors import SettingError

# Those of detectors have a file of their own.
CLASSIFIERS = {name: each for name, each in EXPERIMENTS.items() if each.trainer == "classifier"}
COLUMNS = [
    pytest.param(column, id=f"{name}-{scale}-{column.name}")
    for name, experiment in CLASSIFIERS.items()
    for scale, columns in experiment.columns.items()
    for column in columns
]


@pytest.mark.parametrize(
    ("name", "without", "with_gc"),
    [
        ("table1", (76.87, 78.82, 79.70, 70.94, 79.31), (78.82, 80.21, 80.53, 71.69, 79.68)),
        ("table2", (78.23, 71.64, 70.34, 74.02, 74.12), (79.14, 72.80, 71.58, 76.82, 75.07)),
        ("table3", (23.71, 24.50, 22.37, 23.34), (23.21, 23.53, 21.82, 22.14)),
        ("table4", (86.62, 88.66, 76.16, 82.07), (87.77, 90.03, 78.23, 83.40)),
    ],
)
def test_each_column_has_the_numbers_of_the_paper(name, without, with_gc):
    columns = EXPERIMENTS[name].columns["paper"]
    assert tuple(column.paper[0] for column in columns) == without
    assert tuple(column.paper[1] for column in columns) == with_gc
    assert EXPERIMENTS[name].metrics == (ERROR if name == "table3" else ACCURACY,)


@pytest.mark.parametrize(
    ("name", "model", "dataset", "epochs", "arm"),
    [
        ("table1", "densenet121", "cifar100", 200, "conv"),
        ("table2", "resnet50", "cifar100", 200, "conv"),
        ("table3", "resnet101", "imagenet", 100, "conv"),
        ("table4", "resnet50", "cub", 100, "conv+fc"),
        ("figure4", "resnet50", "cifar100", 200, "conv"),
        ("figure5", "resnet50", "mini_imagenet", 100, "conv+fc"),
    ],
)
def test_columns_have_the_settings_of_the_paper(name, model, dataset, epochs, arm):
    column = EXPERIMENTS[name].columns["paper"][-1]
    assert (column.config.model, column.config.dataset, column.config.epochs) == (
        model,
        dataset,
        epochs,
    )
    assert column.arms == ("off", arm)
    assert column.config.train_images is None
    assert not column.rates, "the paper's rates are taken as they are"


@pytest.mark.parametrize("column", COLUMNS)
def test_arms_differ_only_in_gc(column):
    chosen = {arm: [0.1] * column.seeds for arm in column.arms}
    configs = list(column.configs(chosen))
    assert len(configs) == column.seeds * len(column.arms)
    seeds = {}
    for config in configs:
        seeds.setdefault(config.seed, set()).add(dataclasses.replace(config, gc="off"))
        assert config.validation == 0
        assert config.learning_rate == 0.1
        assert config.weight_decay == column.config.weight_decay
    assert all(len(alike) == 1 for alike in seeds.values())


@pytest.mark.parametrize("column", COLUMNS)
def test_both_arms_have_the_same_grid_on_validation_images(column):
    grid = list(column.grid_configs())
    if not column.rates:
        assert not grid
        return
    assert len(grid) == len(set(grid)) == len(column.rates) * 12 * 2
    arms = {
        arm: {dataclasses.replace(c, gc="off") for c in grid if c.gc == arm} for arm in column.arms
    }
    first, second = arms.values()
    assert first == second
    assert all(config.validation > 0 for config in grid)
    assert {config.seed for config in grid} == set(range(100, 112))


def test_narrow_nets_with_group_normalization_have_one_group():
    columns = {column.name: column for column in EXPERIMENTS["table3"].columns["cpu"]}
    assert {name: column.config.groups for name, column in columns.items()} == {
        "R50BN": None,
        "R50GN": 1,
        "R101BN": None,
        "R101GN": 1,
    }
    assert all(c.config.groups is None for c in EXPERIMENTS["table3"].columns["paper"])


# Only these decide whether an image is large enough.
SHAPES = ("dataset", "pad", "pool", "model", "stem")
SMALL = {
    tuple(getattr(column.config, name) for name in SHAPES): column.config
    for experiment in CLASSIFIERS.values()
    for column in experiment.columns["cpu"]
    if column.config.width  # because the others are not trained
}


@pytest.mark.parametrize("config", SMALL.values(), ids=map(str, SMALL))
def test_images_of_a_small_run_are_here_and_large_enough_for_its_net(config):
    if config.dataset == "fashion_mnist":
        height, width, channels = 28, 28, 1
    else:
        shape = datasets.load(config.dataset, "test").image_shape
        assert shape is not None
        height, width, channels = shape
    height, width = ((size + 2 * config.pad) / config.pool for size in (height, width))
    assert height.is_integer()

    def logits(images):
        net = models.create(
            config.model,
            num_classes=10,
            stem=config.stem,
            norm=config.norm,
            weight_standardization=config.weight_standardization,
            width=config.width,
            in_channels=channels,
            rngs=nnx.Rngs(0),
        )
        return net(images)

    images = jax.ShapeDtypeStruct((2, int(height), int(width), channels), jnp.float32)
    assert jax.eval_shape(logits, images).shape == (2, 10)


def test_the_last_layers_rate_follows_the_grid():
    """In fine-tuning it is ten times that of the rest, as in the paper."""
    column = EXPERIMENTS["table4"].columns["cpu"][0]
    for config in [
        *column.grid_configs(),
        *column.configs({arm: [0.03] * 12 for arm in column.arms}),
    ]:
        assert config.head_learning_rate == pytest.approx(10 * config.learning_rate)


@pytest.mark.parametrize(
    ("name", "scale", "message"),
    [
        ("tabel1", "cpu", "no experiment is called 'tabel1'; there are table1, "),
        ("sources", "paper", "sources is not in the paper: pass --scale cpu"),
        ("table1", "gpu", '--scale must be "paper" or "cpu"'),
    ],
)
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(name, scale, message):
    with pytest.raises(SettingError, match=message):
        find(name, scale)
