"""Two processes with two devices each compute the same as one process."""

import socket
import subprocess
import sys

import numpy as np
import pytest

from optax_gc import centralize
from tests.helpers import apply

WORKER = """
import sys
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P

address, index, spec, out = sys.argv[1:]
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(address, 2, int(index))
from optax_gc import centralize

gradient = np.random.default_rng(0).normal(1, 1, (16, 8)).astype(np.float32)
sharding = NamedSharding(jax.make_mesh((4,), ("x",)), P(*eval(spec)))
sharded = jax.make_array_from_callback(gradient.shape, sharding, lambda where: gradient[where])
tx = centralize((0,))
result, _ = jax.jit(tx.update)(sharded, tx.init(sharded))
assert jax.process_count() == 2 and len(jax.devices()) == 4
assert result.sharding.is_equivalent_to(sharding, 2), result.sharding
np.savez(out, **{f"{s.index[0].start or 0}_{s.index[1].start or 0}": np.asarray(s.data)
                 for s in result.addressable_shards})
"""


@pytest.mark.parametrize("spec", ["('x', None)", "(None, 'x')"], ids=["inputs", "outputs"])
def test_two_processes_compute_the_result_of_one(spec, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    files = [tmp_path / f"{index}.npz" for index in range(2)]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, address, str(index), spec, str(file)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, file in enumerate(files)
    ]
    try:
        errors = [worker.communicate(timeout=120)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()  # or a later test would be blamed for what is left open
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(errors)

    gradient = np.random.default_rng(0).normal(1, 1, (16, 8)).astype(np.float32)
    expected = np.asarray(apply(centralize((0,)), gradient))
    seen = np.zeros(expected.shape, bool)
    for file in files:
        with np.load(file) as parts:
            for start, part in parts.items():
                row, column = map(int, start.split("_"))
                where = np.s_[row : row + part.shape[0], column : column + part.shape[1]]
                np.testing.assert_allclose(part, expected[where], atol=1e-6)
                seen[where] = True
    assert seen.all()
