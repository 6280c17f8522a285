"""The program runs as a user starts it, and reports what it cannot measure."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from matplotlib.figure import Figure

from examples.benchmarks import flags, measure, overhead, overhead_records, report, step, trees
from optax_gc import nnx_kernel_axes
from tests.examples.programs import ENVIRONMENT


def create_small(rngs):
    return nnx.Sequential(
        lambda images: images.reshape(len(images), -1),
        nnx.Linear(48, 8, dtype=jnp.bfloat16, rngs=rngs),
        nnx.relu,
        nnx.Linear(8, 4, dtype=jnp.bfloat16, rngs=rngs),
    )


SMALL = step.Net(create_small, 4, 4)


def run(*flags, cwd):
    command = [sys.executable, "-W", "error", "-m", "examples.benchmarks.overhead"]
    environment = ENVIRONMENT | {"COLUMNS": "160"}
    return subprocess.run(
        [*command, *map(str, flags)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_whole_program_writes_records_and_a_picture(tmp_path):
    flags = (
        "--platform cpu --trees resnet20 1e9x100 --optimizers sgdm --rounds 6 --seconds 0 --batch 2"
    )
    done = run(*flags.split(), "--step-rounds", 6, "--out", tmp_path / "cost.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cost.jsonl", "cost.png"]
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")
    records = [json.loads(line) for line in (tmp_path / "cost.jsonl").read_text().splitlines()]
    kinds = [record["kind"] for record in records]
    # There are five arms for each of two trees, three for the step, and three for each of three layouts.
    assert kinds == ["run"] + ["update"] * 10 + ["step"] * 3 + ["collectives"] * 9 + ["end"]
    assert {"jax", "optax"} <= set(records[0]["versions"])
    assert records[0]["cores"] >= 1
    assert records[0]["platform"] == "cpu"
    assert records[0]["config"]["trees"] == ["resnet20", "1e9x100"]
    assert records[-1]["seconds"] > 0
    for unit in report.by_unit(records):
        assert set(unit) == {"none", "ours", "optax", "naive", "control"}
        assert unit["naive"]["same_program_as"] == "ours"
        assert unit["ours"]["bytes_ratio"] == pytest.approx(7 / 6, rel=0.01)
        for row in unit.values():
            assert ("ratio" in row) == (row["tree"] != "1e9x100")
            assert row.get("rounds", 6) == 6
    (whole,) = [row for row in records if row["kind"] == "step" and row["arm"] == "ours"]
    assert (whole["net"], whole["batch"]) == ("resnet20", 2)
    low, high = whole["ratio"]["interval"]
    assert 0 < low <= whole["ratio"]["median"] <= high
    sent = {
        record["layout"]: record["collectives"]
        for record in records
        if record["kind"] == "collectives" and record["arm"] == "ours"
    }
    assert sent == {"replicated": 0, "fsdp": 1, "outputs": 0}
    assert "1e9x100, sgdm: not timed: only counted at this size" in done.stdout
    for word in ("Update step, time", "Update step, counted", "Whole training step", "Collectives"):
        assert word in done.stdout


def test_a_whole_step_in_bfloat16_trains_and_keeps_the_means_of_kernels():
    """The path of resnet50 and vit_b16 with a net that compiles quickly. Weights are float32."""
    net, base = SMALL, measure.optimizer("sgdm")
    programs = step.compile_steps(net, base, 2)
    first = jax.device_get(step.create_state(net, base))
    model = nnx.eval_shape(lambda: net.make(nnx.Rngs(0)))
    axes = jax.tree.leaves(
        nnx_kernel_axes(model)(first.params),
        is_leaf=lambda node: node is None or type(node) is tuple,
    )

    def largest_shift_of_a_mean(arm):
        state = jax.tree.map(jnp.array, first)
        after = programs[arm].compiled(state, *step.create_batch(net, 2)).params
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(after))
        moved = jax.tree.leaves(jax.tree.map(jnp.subtract, after, first.params))
        return max(
            float(abs(its.mean(inputs)).max())
            for its, inputs in zip(moved, axes, strict=True)
            if inputs
        )

    assert largest_shift_of_a_mean("none") > 1e-5
    assert largest_shift_of_a_mean("ours") < 1e-7
    times = step.time_steps(programs, jax.tree.map(jnp.array, first), net, 2, 6)
    assert list(times) == ["none", "ours", "control"]
    assert all(its.shape == (6,) and (its > 0).all() for its in times.values())


@pytest.mark.parametrize("name", ["resnet50", "vit_b16"])
def test_the_large_nets_of_whole_steps_compute_in_bfloat16(name):
    net = step.NETS[name]
    model = nnx.eval_shape(lambda: net.make(nnx.Rngs(0)))
    graph, state = nnx.split(model)
    images = jax.ShapeDtypeStruct((2, net.size, net.size, 3), jnp.float32)
    logits = jax.eval_shape(lambda s, x: nnx.merge(graph, s, copy=True)(x), state, images)
    assert (logits.shape, logits.dtype) == ((2, net.classes), jnp.bfloat16)
    weights = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert {leaf.dtype.name for leaf in weights} == {"float32"}
    assert sum(leaf.size for leaf in weights) == trees.create(name).parameters


def test_a_device_that_is_not_there_is_refused_before_any_work(tmp_path):
    done = run("--platform", "tpu", "--out", tmp_path / "cost.jsonl", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "--platform tpu: JAX finds no such device, only cpu. If there is one, install JAX for it: "
        'python -m pip install -U "jax[tpu]"\n'
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.newest_xla
def test_too_little_memory_is_noticed_before_anything_is_allocated(monkeypatch):
    def allocate(*args):
        raise AssertionError("allocated")

    monkeypatch.setattr(measure, "available_bytes", lambda: 1000)
    monkeypatch.setattr(measure, "time_updates", allocate)
    monkeypatch.setattr(step, "time_steps", allocate)
    monkeypatch.setitem(step.NETS, "resnet20", SMALL)
    rows = list(overhead_records.measure_update("1e7x10", "adam", 6, 0.0))
    for row in rows:
        assert row["not_timed"] == "0.176 GB are needed, 1e-06 GB are free"
        assert "ratio" not in row
    assert rows[1]["bytes_ratio"] == pytest.approx(1.1, rel=0.001)
    steps = list(overhead_records.measure_step("resnet20", "sgdm", 2, 6, 0.0))
    assert [row["not_timed"].split(", ")[1] for row in steps] == ["1e-06 GB are free"]
    titles = [table.title for table in report.make_tables(rows + steps)]
    assert titles == ["Update step, time", "Update step, counted"]
    assert isinstance(report.make_picture(rows + steps), Figure)


def test_every_tree_and_optimizer_is_measured_by_default():
    config = overhead.Config()
    assert config.trees == flags.TREES
    assert config.optimizers == ("sgdm", "adam", "adamw")


def test_the_flags_accept_what_can_be_measured():
    assert tuple(measure.OPTIMIZERS) == tuple(measure.BOUNDS) == flags.OPTIMIZERS
    assert tuple(step.NETS) == flags.STEP_NETS


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"trees": ("resnet19",)}, "no tree is called 'resnet19'; there are resnet1"),
        ({"optimizers": ("lion",)}, "no optimizer is called 'lion'; there are"),
        ({"trees": ()}, "need at least one name each"),
        ({"optimizers": ()}, "need at least one name each"),
        ({"rounds": 5}, "--rounds 5: an interval needs at least 6 rounds"),
        ({"rounds": 0}, "--rounds 0: an interval needs at least 6 rounds"),
        ({"step_rounds": 5}, "--step-rounds 5: an interval needs at least 6 rounds"),
        ({"seconds": -1.0}, "--seconds -1.0: it must be 0 or more"),
        ({"seconds": float("nan")}, "--seconds nan: it must be 0 or more"),
        (
            {"steps": ("resnet5",)},
            "--steps resnet5: unknown; there are resnet20, resnet50, vit_b16",
        ),
        ({"steps": ()}, "--steps needs at least one name"),
        ({"batch": 0}, "--batch 0: it must be at least 1"),
        ({"out": Path("cost.json")}, "the name must end in .jsonl"),
        ({"out": Path("nowhere/cost.jsonl")}, "no file can be written there"),
    ],
)
def test_a_flag_that_makes_no_sense_is_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        overhead.Config(**flags)


def test_an_unknown_tree_is_refused_before_any_work(tmp_path):
    done = run("--trees", "resnet19", cwd=tmp_path)
    assert done.returncode == 2
    assert "no tree is called 'resnet19'" in done.stdout + done.stderr
    assert "vit_b16" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_failure_of_the_process_with_eight_devices_is_reported():
    with pytest.raises(subprocess.CalledProcessError, match="resnet19"):
        list(overhead_records.measure_collectives(("resnet19",), "sgdm"))
