"""A plain Optax chain follows every step of SGD with momentum in the paper's own PyTorch code."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_gc import centralize, conv_kernels

DATA = Path(__file__).parent / "data" / "official_torch"
GC, CONV_ONLY, OFF = centralize(), centralize(mask=conv_kernels), optax.identity()


@pytest.mark.parametrize(
    ("file", "gc", "weight_decay", "nesterov", "tolerance"),
    [
        ("P_sgd_gc_m0.9_wd0", GC, 0.0, False, 1e-12),
        ("P_sgd_gc_m0.9_wd0.0005", GC, 5e-4, False, 1e-12),
        ("P_sgd_gc_m0.9_wd0.0005_f32", GC, 5e-4, False, 2e-6),
        ("P_sgd_gc_nag0.9_wd0.0005", GC, 5e-4, True, 1e-12),
        ("P_sgd_gcc_m0.9_wd0", CONV_ONLY, 0.0, False, 1e-12),
        ("P_sgd_gcc_m0.9_wd0.0005", CONV_ONLY, 5e-4, False, 1e-12),
        ("P_sgd_off_m0.9_wd0", OFF, 0.0, False, 1e-12),
        ("P_sgd_off_m0.9_wd0.0005", OFF, 5e-4, False, 1e-12),
    ],
)
def test_sgd_with_momentum_follows_the_official_trajectory(
    file, gc, weight_decay, nesterov, tolerance, x64
):
    """First ĝ = P(g + λw), and then the momentum (Section 3.4 and Algorithm 1)."""
    official = np.load(DATA / f"{file}.npz")
    dtype = official["traj/conv"].dtype
    inputs = np.load(DATA / "inputs_P.npz")
    names = [key.removeprefix("traj/") for key in official if key.startswith("traj/")]
    params: Any = {name: jnp.asarray(inputs[f"init/flax/{name}"], dtype) for name in names}
    tx = optax.chain(
        optax.add_decayed_weights(weight_decay), gc, optax.sgd(0.1, momentum=0.9, nesterov=nesterov)
    )

    @jax.jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for t in range(20):
        grads = {name: jnp.asarray(inputs[f"grads/flax/{name}"][t], dtype) for name in names}
        params, state = step(params, state, grads)
        for name in names:
            np.testing.assert_allclose(
                params[name], official[f"traj/{name}"][t + 1], rtol=0, atol=tolerance, err_msg=name
            )
