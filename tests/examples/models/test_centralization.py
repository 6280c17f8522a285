"""In every net, GC centralizes each kernel over its inputs, and nothing else."""

import jax
import numpy as np
import pytest
from flax import nnx

import optax_gc
from examples import models

FORMS = [(name, stem, {}) for name in models.NAMES for stem in models.forms(name)]
FORMS += [
    ("resnet18", "imagenet", {"weight_standardization": True, "norm": "gn"}),
    ("vgg11", "imagenet", {"weight_standardization": True, "frozen_bn": True}),
]


@pytest.mark.parametrize(("name", "stem", "options"), FORMS)
def test_every_kernel_is_centralized_over_its_inputs(name, stem, options):
    model = nnx.eval_shape(
        lambda: models.create(name, num_classes=10, stem=stem, width=4, rngs=nnx.Rngs(0), **options)
    )
    rng = np.random.default_rng(0)
    gradients = jax.tree.map(
        lambda x: (1 + rng.standard_normal(x.shape)).astype(np.float32),
        nnx.state(model, nnx.Param),
    )
    gc = optax_gc.centralize(optax_gc.nnx_kernel_axes(model))
    centralized, _ = jax.jit(gc.update)(gradients, gc.init(gradients))

    before = dict(nnx.to_flat_state(gradients))
    after = dict(nnx.to_flat_state(centralized))
    assert before.keys() == after.keys()
    for path, old in before.items():
        old, new = np.asarray(old[...]), np.asarray(after[path][...])
        if path[-1] == "kernel":
            inputs = tuple(range(old.ndim - 1))
            mean = old.mean(inputs, keepdims=True, dtype=np.float64)
            np.testing.assert_allclose(new, old - mean, rtol=0, atol=1e-5)
        else:
            assert path[-1] in ("bias", "scale")
            np.testing.assert_array_equal(new, old)
