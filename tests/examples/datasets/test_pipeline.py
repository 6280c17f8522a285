"""The stream of batches holds the right images, is split among processes, and can continue."""

import itertools
import json

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import datasets
from examples.datasets import pipeline, transforms
from tests.examples.datasets.toys import noisy, numbers, plain, toy


def test_an_epoch_has_every_image_once_in_an_order_of_its_own():
    batches = list(
        pipeline.train_batches(toy(23), plain, batch_size=5, seed=0, epochs=3, drop_remainder=False)
    )
    assert [len(batch["label"]) for batch in batches] == [5, 5, 5, 5, 3] * 3
    epochs = [numbers(batches[i : i + 5]) for i in (0, 5, 10)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs} | {tuple(range(23))}) == 4
    for batch in batches:
        assert batch.keys() == {"image", "label"}
        assert batch["image"].dtype == np.float32
        assert batch["image"].shape[1:] == (4, 4, 1)
        assert batch["label"].dtype == np.int32
        np.testing.assert_array_equal(batch["label"], np.array(numbers([batch])) % 3)


def test_the_remainder_is_dropped_epoch_by_epoch():
    batches = list(pipeline.train_batches(toy(23), plain, batch_size=5, seed=0, epochs=2))
    assert [len(batch["label"]) for batch in batches] == [5] * 8
    for epoch in (batches[:4], batches[4:]):
        assert len(set(numbers(epoch))) == 20


def test_epochs_none_never_ends():
    stream = iter(pipeline.train_batches(toy(7), plain, batch_size=5, seed=0))
    assert len(list(itertools.islice(stream, 100))) == 100


def test_the_seed_decides_order_and_augmentation():
    def stream(seed):
        batches = pipeline.train_batches(toy(12), noisy, batch_size=4, seed=seed, epochs=4)
        return np.concatenate([batch["image"] for batch in batches])

    np.testing.assert_array_equal(stream(3), stream(3))
    orders = {}
    for seed in range(6):
        batches = list(pipeline.train_batches(toy(12), plain, batch_size=4, seed=seed, epochs=4))
        for epoch in range(4):
            orders[seed, epoch] = tuple(numbers(batches[3 * epoch : 3 * epoch + 3]))
    # No epoch of one seed has the order of another seed's, so that runs are independent.
    assert len(set(orders.values())) == len(orders)
    noise = {seed: stream(seed) - np.round(stream(seed)) for seed in (0, 1)}
    assert np.unique(np.concatenate(list(noise.values())).round(6)).size == 2 * 4 * 12


@given(
    size=st.integers(8, 40),
    share=st.integers(1, 3),
    processes=st.integers(1, 4),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_all_processes_together_see_the_batches_of_one_process(size, share, processes, seed):
    batch_size = share * processes
    size = max(size, batch_size)

    def stream(index, count):
        return list(
            pipeline.train_batches(
                toy(size),
                noisy,
                batch_size=batch_size,
                seed=seed,
                epochs=2,
                process_index=index,
                process_count=count,
            )
        )

    alone = stream(0, 1)
    shares = [stream(index, processes) for index in range(processes)]
    for batch, *parts in zip(alone, *shares, strict=True):
        assert all(len(part["label"]) == share for part in parts)
        images = np.concatenate([part["image"] for part in parts])
        # They are equal to the bit, including the augmentation. Only the order within a batch differs.
        assert sorted(x.tobytes() for x in images) == sorted(x.tobytes() for x in batch["image"])


@given(size=st.integers(1, 30), share=st.integers(1, 4), processes=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_evaluation_covers_every_image_once(size, share, processes):
    seen, lengths = [], set()
    for index in range(processes):
        batches = list(
            pipeline.eval_batches(
                toy(size),
                plain,
                batch_size=share * processes,
                process_index=index,
                process_count=processes,
            )
        )
        lengths.add(len(batches))
        for batch in batches:
            assert batch.keys() == {"image", "label", "mask"}
            assert {len(value) for value in batch.values()} == {share}
            assert batch["mask"].dtype == np.float32
            assert set(batch["mask"]) <= {0, 1}
            np.testing.assert_array_equal(batch["label"], np.array(numbers([batch])) % 3)
            seen += [k for k, m in zip(numbers([batch]), batch["mask"], strict=True) if m]
    assert sorted(seen) == list(range(size))
    assert lengths == {-(-size // (share * processes))}  # or one process would wait for another


def test_evaluation_keeps_the_order_and_is_the_same_twice():
    batches = pipeline.eval_batches(toy(10), plain, batch_size=4)
    for _ in range(2):
        passed = list(batches)
        assert numbers(passed)[:10] == list(range(10))
        np.testing.assert_array_equal(passed[-1]["mask"], [1, 1, 0, 0])


def test_evaluation_refuses_a_random_transform():
    with pytest.raises(TypeError, match="is it used for evaluation"):
        list(pipeline.eval_batches(toy(4), transforms.flip, batch_size=2))


@pytest.mark.parametrize("steps", [0, 1, 3, 4, 7, 12])
def test_a_restored_iterator_continues_with_the_same_batches(steps, tmp_path):
    def start():
        stream = pipeline.train_batches(toy(17), noisy, batch_size=4, seed=1, epochs=3)
        return iter(stream)

    whole = list(start())
    first = start()
    for _ in range(steps):
        next(first)
    state = json.loads(json.dumps(first.get_state()))
    handler = ocp.CheckpointManager(tmp_path)
    handler.save(steps, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(first)))
    handler.wait_until_finished()
    by_state, by_file = start(), start()
    next(by_state)  # wherever it stands
    by_state.set_state(state)
    handler.restore(
        steps, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(by_file))
    )
    handler.close()
    assert by_file.get_state() == state
    for again in (first, by_state, by_file):
        rest = list(again)
        assert len(rest) == 12 - steps
        for batch, expected in zip(rest, whole[steps:], strict=True):
            np.testing.assert_array_equal(batch["image"], expected["image"])
            np.testing.assert_array_equal(batch["label"], expected["label"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 11}, "10 training images do not fill a batch of 11"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"batch_size": 4, "process_count": 3}, "4 does not divide among 3"),
        ({"batch_size": 4, "process_count": 2, "process_index": 2}, "process_index 2"),
        ({"batch_size": 4, "process_count": 2, "drop_remainder": False}, "different sizes"),
        ({"batch_size": 4, "epochs": 0}, "epochs 0"),
        ({"batch_size": 4, "workers": -1}, "workers -1"),
        ({"batch_size": 4, "seed": -1}, "seed -1"),
    ],
)
def test_impossible_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        pipeline.train_batches(toy(10), plain, **({"seed": 0} | arguments))


def test_an_empty_evaluation_set_is_an_error():
    with pytest.raises(ValueError, match="no images"):
        pipeline.eval_batches(toy(0), plain, batch_size=2)


def test_a_broken_file_is_named_by_the_stream_too(tmp_path, monkeypatch):
    from tests.examples.datasets import builders

    builders.published(monkeypatch, "imagenet", 12, 6, 3)
    builders.imagenet(tmp_path, flat=False)
    path = tmp_path / "train" / builders.WNIDS[1] / f"{builders.WNIDS[1]}_2.JPEG"
    path.write_bytes(path.read_bytes()[:-100])
    data = datasets.load("imagenet", "train", tmp_path)
    with pytest.raises(datasets.DatasetError, match=path.name):
        list(pipeline.train_batches(data, plain, batch_size=4, seed=0, epochs=1))


def test_a_closed_iterator_is_done():
    stream = iter(pipeline.train_batches(toy(8), plain, batch_size=4, seed=0))
    next(stream)
    stream.close()
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        next(stream)


def test_an_endless_stream_can_be_restored_at_a_distant_batch():
    stream = pipeline.train_batches(toy(9), noisy, batch_size=4, seed=0)
    far, near = iter(stream), iter(stream)
    far.set_state({"batches": 10**6})
    near.set_state({"batches": 10**6 - 1})
    next(near)
    np.testing.assert_array_equal(next(far)["image"], next(near)["image"])
