"""The trees have the sizes that their names state."""

import jax
import pytest

from examples.benchmarks import flags, trees


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # These are torchvision's counts. VGG-11 is the one with batch normalization.
        ("resnet18", 11_689_512),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnext101_64x4d", 83_455_272),
        ("densenet121", 7_978_856),
        ("vgg11", 132_868_840),
        ("vit_b16", 86_567_656),
    ],
)
def test_the_nets_have_their_published_numbers_of_parameters(name, parameters):
    assert trees.create(name).parameters == parameters


@pytest.mark.parametrize("name", flags.SYNTHETIC)
def test_synthetic_trees_have_the_size_of_their_name(name):
    parameters, leaves = name.split("x")
    tree = trees.create(name)
    assert len(tree.leaves) == int(leaves)
    assert tree.parameters == pytest.approx(float(parameters), rel=0.08)


def test_only_the_largest_tree_is_not_timed():
    assert trees.create("vgg11").timed
    assert not trees.create("1e9x100").timed


def test_the_transformer_knows_the_inputs_of_its_attention():
    tree = trees.create("vit_b16")
    attention = tree.axes["blocks"][11]["attention"]
    assert attention["query"] == {"kernel": (0,), "bias": None}
    assert attention["out"] == {"kernel": (0, 1), "bias": None}
    assert tree.params["blocks"][11]["attention"]["out"]["kernel"].shape == (12, 64, 768)
    # There is one mean for each output of patches, head, and q, k, v, out, up and down in 12 blocks.
    outputs = 768 + 1000 + 12 * (4 * 768 + 3072 + 768)
    assert tree.means_bytes == 4 * outputs
    kernels = [
        path
        for path, _ in jax.tree_util.tree_leaves_with_path(tree.params)
        if path[-1].key == "kernel"
    ]
    assert len(kernels) == sum(axes is not None for _, axes in tree.leaves)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="no tree is called 'resnet5'; there are resnet50") as info:
        trees.create("resnet5")
    assert all(name in str(info.value) for name in flags.TREES)
