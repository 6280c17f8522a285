"""The arms, the counts and the arithmetic of paired times are right. No measured time is judged."""

import functools
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from examples.benchmarks import flags, measure, trees
from optax_gc import centralize
from tests.helpers import apply


@functools.cache
def small():
    params = {
        "conv": {"kernel": (3, 3, 16, 8)},
        "heads": {"kernel": (16, 4, 8)},
        "dense": {"kernel": (64, 8), "bias": (8,)},
    }
    axes = {
        "conv": {"kernel": (0, 1, 2)},
        "heads": {"kernel": (0,)},
        "dense": {"kernel": (0,), "bias": None},
    }
    shapes = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        params,
        is_leaf=lambda node: isinstance(node, tuple),
    )
    return trees.Tree("small", shapes, axes, centralize(axes))


def gradients():
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(1, 1, leaf.shape), leaf.dtype), small().params
    )


def test_the_arms_compute_what_their_names_say():
    arms = {name: apply(tx, gradients()) for name, tx in measure.arms(small()).items()}
    assert list(arms) == ["none", "ours", "optax", "naive"]
    chex.assert_trees_all_equal(arms["none"], gradients())
    chex.assert_trees_all_equal(arms["ours"], arms["naive"])
    for leaf, axes in zip(
        jax.tree.leaves(arms["ours"]), [axes for _, axes in small().leaves], strict=True
    ):
        if axes:
            np.testing.assert_allclose(leaf.mean(axes), 0, atol=1e-6)
    conv = arms["optax"]["conv"]["kernel"]
    np.testing.assert_allclose(conv.mean((1, 2, 3)), 0, atol=1e-6)


@pytest.mark.newest_xla
@pytest.mark.parametrize("optimizer", measure.OPTIMIZERS)
def test_the_bound_equals_what_xla_counts(optimizer):
    """The naive one-liner is the same program as ours, so it is compiled only once."""
    tree = trees.create("1e7x10")
    programs = measure.compile_updates(tree, measure.optimizer(optimizer))
    ratio = programs["ours"].bytes_accessed / programs["none"].bytes_accessed
    # The means are written once and read twice. The fan-in is 1000.
    assert measure.BOUNDS[optimizer] <= ratio < measure.BOUNDS[optimizer] + 4 / 1000 / 6
    assert programs["naive"].compiled is programs["ours"].compiled
    assert programs["optax"].compiled is not programs["ours"].compiled


def test_the_memory_that_a_call_needs_is_counted():
    """It needs parameters, momentum and gradients. The outputs replace the first two."""
    tree = trees.create("1e7x10")
    program = measure.compile_updates(tree, measure.optimizer("sgdm"))["ours"]
    needed = 3 * 4 * tree.parameters
    assert needed + tree.means_bytes <= program.needed_bytes <= 1.02 * needed


@pytest.mark.parametrize("optimizer", measure.OPTIMIZERS)
def test_updates_are_timed_by_arm_and_round(optimizer):
    base = measure.optimizer(optimizer)
    programs = measure.compile_updates(small(), base)
    times, repeats = measure.time_updates(small(), base, programs, 7, 60.0)
    assert list(times) == ["none", "ours", "optax", "naive", "control"]
    assert all(its.shape == (7,) and np.all(its > 0) for its in times.values())
    assert repeats >= 1


def test_the_programs_share_one_set_of_arrays():
    """Each program continues with the arrays of the one before it, so only the programs differ."""
    seen = []

    def program(step):
        def compiled(carry, grads):
            seen.append(carry)
            return carry + step

        return SimpleNamespace(compiled=compiled)

    programs = {"a": program(1), "b": program(1)}
    measure.time_chained(programs, 0, None, "a", 6, 0.0)  # pyright: ignore[reportArgumentType]
    assert seen == list(range(len(seen)))


def test_rounds_interleave_in_changing_order():
    calls = []
    samples = {name: functools.partial(calls.append, name) for name in "abc"}
    times = measure.interleave(samples, 20)
    rounds = [tuple(calls[i : i + 3]) for i in range(0, 60, 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) == 6
    assert all(its.shape == (20,) for its in times.values())


def test_the_time_limit_ends_the_rounds_after_at_least_six():
    times = measure.interleave({"a": lambda: None}, 1000, seconds=0.0)
    assert len(times["a"]) == flags.MIN_ROUNDS


def test_ratios_are_paired_by_round():
    """With 20 rounds, the sign test's interval goes from the 6th to the 15th of the ratios."""
    base = np.random.default_rng(0).uniform(1, 2, 20)
    ratio = measure.paired_ratio(base * np.arange(20, 0, -1), base)
    assert ratio.median == pytest.approx(10.5)
    assert ratio.interval == pytest.approx((6, 15))
    assert ratio.quartiles == pytest.approx((5.75, 15.25))


def test_an_interval_needs_six_rounds():
    assert measure.paired_ratio(np.arange(1.0, 7), np.ones(6)).interval == (1, 6)
    with pytest.raises(ValueError, match="needs 6 rounds, not 5"):
        measure.paired_ratio(np.ones(5), np.ones(5))


def test_the_free_memory_of_this_machine_is_found():
    assert 2**20 < measure.available_bytes() < 2**50


def test_the_free_memory_of_an_accelerator_is_found(monkeypatch):
    device = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 100, "bytes_in_use": 30})
    monkeypatch.setattr(measure, "find_device", lambda: device)
    assert measure.available_bytes() == 70


def test_too_little_memory_is_reported_with_what_is_needed(monkeypatch):
    monkeypatch.setattr(measure, "available_bytes", lambda: 1_000_000_000)
    assert measure.lacks_memory(900_000_000) is None
    assert measure.lacks_memory(2_000_000_000) == "2.2 GB are needed, 1 GB are free"


def test_an_unknown_optimizer_lists_the_known_ones():
    with pytest.raises(
        ValueError, match="no optimizer is called 'adm'; there are adam, adamw, sgdm"
    ):
        measure.optimizer("adm")


def test_the_same_program_is_not_compiled_twice():
    shape = jax.ShapeDtypeStruct((4,), jnp.float32)
    first = measure.compile_program(lambda x: x + 1, shape)
    again = measure.compile_program(lambda y: y + 1, shape, known=(first,))
    other = measure.compile_program(lambda x: x + 2, shape, known=(first,))
    assert again.compiled is first.compiled
    assert other.compiled is not first.compiled
    assert optax.tree.norm(other.compiled(jnp.ones(4))) == 6
