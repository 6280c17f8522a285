"""Collectives are counted in the compiled text, and GC sends only the means."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from examples.benchmarks import sharded_updates, trees
from optax_gc import centralize

TEXT = """
  %add.1 = f32[8]{0} add(%a, %b)
  %all-reduce.1 = (f32[64]{0}, bf16[2,3]{1,0}, /*index=2*/f32[]) all-reduce(%x, %y, %z), channel_id=1
  %all-gather = f32[16,2]{1,0} all-gather(%w), dimensions={0}
  ROOT %get-tuple-element = f32[64]{0} get-tuple-element(%all-reduce.1), index=0
"""


def test_collectives_are_counted_in_number_and_bytes():
    assert sharded_updates.count_collectives(TEXT) == (2, 64 * 4 + 6 * 2 + 4 + 32 * 4)
    assert sharded_updates.count_collectives("%add.1 = f32[8]{0} add(%a, %b)") == (0, 0)


@pytest.mark.eight_devices
@pytest.mark.parametrize(
    ("layout", "query", "out", "stem"),
    [
        ("replicated", (None,) * 3, (None,) * 3, (None,) * 4),
        ("fsdp", ("devices", None, None), (None, "devices", None), (None,) * 4),
        ("outputs", (None, None, "devices"), (None, None, "devices"), (None,) * 3 + ("devices",)),
    ],
)
def test_layouts_split_the_largest_axis_that_the_devices_divide(layout, query, out, stem):
    mesh = Mesh(np.array(jax.devices()), ("devices",))
    vit = sharded_updates.shard(trees.create("vit_b16"), layout, mesh)
    attention = vit["blocks"][0]["attention"]
    assert attention["query"]["kernel"].sharding.spec == P(*query)
    assert attention["out"]["kernel"].sharding.spec == P(*out)
    assert attention["query"]["bias"].sharding.spec == P(None, None)
    # The inputs are 7x7x3, and 8 divides none of these axes.
    net = sharded_updates.shard(trees.create("resnet18"), layout, mesh)
    (conv,) = [leaf for leaf in jax.tree.leaves(net) if leaf.shape == (7, 7, 3, 64)]
    assert conv.sharding.spec == P(*stem)


@pytest.mark.eight_devices
def test_the_larger_of_two_axes_is_split():
    kernel = jax.ShapeDtypeStruct((8, 64, 5), np.float32)
    tree = trees.Tree("pair", {"kernel": kernel}, {"kernel": (0, 1)}, centralize())
    mesh = Mesh(np.array(jax.devices()), ("devices",))
    sharded = sharded_updates.shard(tree, "fsdp", mesh)["kernel"]
    assert sharded.sharding.spec == P(None, "devices", None)


@pytest.mark.eight_devices
@pytest.mark.parametrize("optimizer", ["sgdm", "adamw"])
def test_the_means_travel_once_and_only_under_fsdp(optimizer):
    found = {
        (record["layout"], record["arm"]): (record["collectives"], record["bytes"])
        for record in sharded_updates.records("1e7x10", optimizer)
    }
    means = trees.create("1e7x10").means_bytes
    for layout in sharded_updates.LAYOUTS:
        assert found[layout, "none"] == (0, 0)
        assert found[layout, "ours"] == ((1, means) if layout == "fsdp" else (0, 0))
    # It averages over outputs: of these kernels it needs every device where ours needs none.
    assert found["outputs", "optax"] == (1, means)
