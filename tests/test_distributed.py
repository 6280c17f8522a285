"""Two processes with two devices each compute the same as one process."""

import sys

import numpy as np
import pytest

from optax_gc import centralize
from tests.helpers import apply, run_pair

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
    files = [tmp_path / f"{index}.npz" for index in range(2)]
    done = run_pair(
        lambda address, index: [
            sys.executable,
            "-c",
            WORKER,
            address,
            str(index),
            spec,
            files[index],
        ]
    )
    assert [worker.returncode for worker in done] == [0, 0], [worker.stderr for worker in done]

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


def test_two_processes_whose_port_is_taken_are_started_once_more(tmp_path):
    code = """
import pathlib, sys, time
index, first = sys.argv[1], pathlib.Path(sys.argv[2])
if index == "1" and not first.exists():
    time.sleep(1000)  # waits for the other process
if not first.exists():
    first.touch()
    sys.exit("RuntimeError: Address already in use")
print(index)
"""
    command = [sys.executable, "-c", code]
    done = run_pair(lambda address, index: [*command, str(index), tmp_path / "first"])
    assert [process.stdout for process in done] == ["0\n", "1\n"]
