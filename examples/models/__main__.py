"""Lists every network: ``python -m examples.models``.

FLOPs are those of the forward pass on one image. A multiplication and an addition count as two, so
tables of multiply-accumulates (MACs) show about half. Work on padding is not counted.
"""

import argparse

from examples import models

# What the paper trains each form on: ImageNet's and CIFAR-100's images and classes.
_SIZES = {"imagenet": (224, 1000), "cifar": (32, 100)}


def count(name: str, stem: "models.Stem") -> tuple[int, float]:
    """Counts a network's parameters and the FLOPs of its forward pass on one image.

    The FLOPs are XLA's count for the whole program, before it is compiled; no array is made.
    ``nnx.tabulate(compute_flops=True)`` would compile every layer of every network.
    """
    # These take seconds, which the help of the program can do without.
    import jax
    import jax.numpy as jnp
    from flax import nnx

    size, classes = _SIZES[stem]
    model = nnx.eval_shape(
        lambda: models.create(name, num_classes=classes, stem=stem, rngs=nnx.Rngs(0))
    )
    model.eval()
    graph, state = nnx.split(model)
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    lowered = jax.jit(lambda state, x: nnx.merge(graph, state)(x)).lower(state, image)
    parameters = sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
    cost = lowered.cost_analysis()
    if cost is None:
        raise RuntimeError("this backend counts no FLOPs: run with JAX_PLATFORMS=cpu")
    return parameters, cost["flops"]


def main() -> None:
    """Prints one line for each network and form, as soon as it is counted."""
    print("GFLOPs: 1e9 FLOPs of the forward pass on one image; a multiply-add counts as two.")
    print(f"{'name':<17} {'stem':<9} {'image':<9} {'classes':>7} {'parameters':>12} {'GFLOPs':>7}")
    for name in models.NAMES:
        for stem in models.forms(name):
            size, classes = _SIZES[stem]
            print(f"{name:<17} {stem:<9} {f'{size}x{size}':<9} {classes:>7} ", end="", flush=True)
            parameters, flops = count(name, stem)
            print(f"{parameters:>12,} {flops / 1e9:>7.2f}", flush=True)


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m examples.models", description=__doc__).parse_args()
    main()
