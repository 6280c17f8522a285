"""The losses and gradients of whole detectors equal torchvision's, and are finite for any objects."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from examples import detection
from examples.detection import pretrained
from examples.detection.box_head import Rois
from examples.detection.rpn import Proposals
from tests.examples.detection.nets import NETS, REFERENCES, make_images, make_net, make_tiny_net
from tests.examples.detection.references import load_arrays

close = functools.partial(np.testing.assert_allclose, atol=1e-4, rtol=1e-4)


@pytest.fixture(params=REFERENCES)
def name(request):
    return request.param


def make_batch(name):
    """Makes the batch on which torchvision computed the losses of a reference."""
    images, sizes = make_images(name)
    arrays = load_arrays(name)
    targets = []
    for i in range(len(images)):
        target = {k: arrays[f"target/{k}_{i}"] for k in ("boxes", "labels")}
        if NETS[name]["config"]["masks"]:
            masks = np.unpackbits(arrays[f"target/masks_{i}"], axis=-1).astype(np.float32)
            # torchvision's mask ends with the image. Beside the last pixel, its own value counts.
            rows, columns = np.subtract(images.shape[1:3], masks.shape[1:])
            target["masks"] = np.pad(masks, [(0, 0), (0, rows), (0, columns)], mode="edge")
        targets.append(target)
    return {"image": images, "size": sizes, **detection.stack_targets(targets, 6)}


@functools.cache
def train(name):
    """Computes the losses of a reference, and the anchors and regions that they see."""

    @nnx.jit
    def run(model, batch, key):
        pyramid = model.pyramid(batch["image"])
        anchors = model.anchors(batch["image"].shape[1:3], pyramid)
        logits, codes = model.rpn(pyramid)
        proposals = model.proposals(logits, codes, anchors, batch["size"], training=True)
        drawn, rois = model.draw(key, np.concatenate(anchors), proposals, batch)
        return *model.losses(batch, key), drawn, rois

    return jax.tree.map(np.asarray, run(make_net(name), make_batch(name), jax.random.key(0)))


def test_losses_equal_torchvisions(name):
    expected = load_arrays(name)
    loss, parts, _, _ = train(name)
    assert {f"train/loss/{part}" for part in parts} == {
        key for key in expected if key.startswith("train/loss/")
    }
    for part, value in parts.items():
        np.testing.assert_allclose(value, expected[f"train/loss/{part}"], rtol=1e-5)
    np.testing.assert_allclose(loss, sum(parts.values()), rtol=1e-6)


def test_draws_and_targets_equal_torchvisions(name):
    expected = load_arrays(name)
    _, _, anchors, rois = train(name)
    np.testing.assert_array_equal(anchors.labels, expected["train/rpn_labels"])
    for i in range(2):
        labels = expected[f"train/roi_labels_{i}"]
        # Here the regions of objects are in front.
        order = np.argsort(labels == 0, stable=True)
        assert rois.valid[i].tolist() == [place < len(order) for place in range(460)]
        found = Rois(*(x[i, : len(order)] for x in rois))
        np.testing.assert_array_equal(found.labels, labels[order])
        boxes = expected[f"train/train_proposals_{i}"][order]
        np.testing.assert_allclose(found.boxes, boxes, atol=1e-2)
        if len(expected[f"target/labels_{i}"]):
            np.testing.assert_array_equal(found.matched, expected[f"train/roi_matched_{i}"][order])
            close(found.targets, expected[f"train/roi_targets_{i}"][order], atol=1e-3)
        assert np.isfinite(found.targets).all()


# Without optimization, convolutions in float64 take longer than it does.
@pytest.mark.usefixtures("x64", "optimized")
def test_gradients_equal_torchvisions_in_float64(name):
    expected = load_arrays(name)
    model = nnx.clone(make_net(name))
    state = jax.tree.map(lambda x: x.astype(jnp.float64), nnx.state(model))
    nnx.update(model, state)
    batch = {
        k: jnp.asarray(x, jnp.float64) if x.dtype == np.float32 else jnp.asarray(x)
        for k, x in make_batch(name).items()
    }
    (_, parts), gradient = nnx.jit(
        nnx.value_and_grad(lambda m, b, k: m.losses(b, k), has_aux=True)
    )(model, batch, jax.random.key(0))
    for part, value in parts.items():
        np.testing.assert_allclose(value, expected[f"train/loss/{part}"], rtol=1e-6)
    places = pretrained.find_detector_places(model)
    gradient = dict(nnx.to_flat_state(gradient))
    for key, norm in zip(NETS[name]["params"], expected["train/grad_l2"], strict=True):
        found = np.linalg.norm(np.asarray(gradient[places[key].path]).ravel())
        np.testing.assert_allclose(found, norm, rtol=1e-6, err_msg=key)
    for key in expected:
        if key.startswith("train/grad/"):
            place = places[key.removeprefix("train/grad/")]
            np.testing.assert_allclose(
                gradient[place.path][...], place.to_flax(expected[key]), rtol=1e-4, atol=1e-6
            )


@functools.cache
def make_tiny_step():
    """Makes the compiled losses and gradients of the tiny detector, and counts its traces."""
    traces = []

    @nnx.jit
    def step(model, batch, key):
        traces.append(1)
        return nnx.value_and_grad(lambda m: m.losses(batch, key), has_aux=True)(model)

    return step, traces


def make_tiny_batch(boxes, valid):
    rng = np.random.default_rng(0)
    return {
        "image": rng.standard_normal((2, 64, 64, 3)).astype(np.float32),
        "size": np.array([[64, 64], [50, 40]]),
        "boxes": np.asarray(boxes, np.float32),
        "labels": np.ones((2, 3), np.int32),
        "valid": np.asarray(valid),
        "masks": np.ones((2, 3, 64, 64), np.float32),
    }


GOOD = [[10, 10, 30, 34], [5, 20, 25, 38], [30, 2, 39, 12]]


@pytest.mark.parametrize(
    ("boxes", "valid"),
    [
        ([GOOD, GOOD], [[True] * 3, [True, False, False]]),
        # No object in one image, and none at all.
        ([GOOD, GOOD], [[True] * 3, [False] * 3]),
        ([GOOD, GOOD], [[False] * 3] * 2),
        # Padding that holds anything.
        ([[[np.nan] * 4] * 3, [[np.inf] * 4] * 3], [[False] * 3] * 2),
        # Boxes without area, turned around, off the image, and larger than it.
        ([[[9, 9, 9, 30], [30, 30, 9, 9], [5, 5, 5, 5]]] * 2, [[True] * 3] * 2),
        ([[[900, 900, 950, 950], [-80, -80, -60, -60], [-9, -9, 99, 99]]] * 2, [[True] * 3] * 2),
        # Smaller than a pixel.
        ([[[9, 9, 9.01, 9.01], *GOOD[:2]]] * 2, [[True] * 3] * 2),
    ],
)
def test_losses_and_gradients_are_finite_for_any_objects(boxes, valid):
    step, traces = make_tiny_step()
    (loss, parts), gradient = step(
        make_tiny_net(), make_tiny_batch(boxes, valid), jax.random.key(0)
    )
    assert np.isfinite(loss)
    assert all(np.isfinite(x) for x in parts.values())
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(gradient))
    assert parts["loss_objectness"] > 0
    assert len(traces) == 1


def test_a_step_is_traced_once_for_each_bucket_whatever_its_images_hold():
    graph, state = nnx.split(make_tiny_net())
    traces = []

    @jax.jit
    def compute(state, batch, key):
        traces.append(batch["image"].shape[1:3])
        return nnx.merge(graph, state, copy=True).losses(batch, key)

    buckets = ((64, 96), (96, 64))
    for height, width in buckets * 2:
        for valid in ([True] * 3, [False] * 3):
            batch = make_tiny_batch([GOOD] * 2, [valid] * 2)
            batch["image"] = np.zeros((2, height, width, 3), np.float32)
            batch["size"] = np.array([[height, width], [height - 9, width - 20]])
            compute.eval_shape(state, batch, jax.random.key(len(traces)))
    assert traces == list(buckets)


def test_objects_without_area_are_no_objects():
    step, _ = make_tiny_step()
    without = make_tiny_batch([GOOD] * 2, [[True, False, False]] * 2)
    degenerate = make_tiny_batch([GOOD] * 2, [[True] * 3] * 2)
    degenerate["boxes"][:, 1:] = [20, 20, 20, 40]
    (a, _), _ = step(make_tiny_net(), without, jax.random.key(0))
    (b, _), _ = step(make_tiny_net(), degenerate, jax.random.key(0))
    assert a == b


def test_draw_of_an_image_depends_on_the_key_and_not_on_other_images():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 40, (2, 60, 2))
    boxes = np.concatenate([corners, corners + 10], axis=-1).astype(np.float32)
    proposals = Proposals(jnp.asarray(boxes), jnp.ones((2, 60)), jnp.ones((2, 60), bool))
    draw = jax.jit(lambda key, batch: make_tiny_net().draw(key, boxes[0], proposals, batch))
    batch = make_tiny_batch([GOOD] * 2, [[True] * 3] * 2)
    other = make_tiny_batch([GOOD, GOOD[::-1]], [[True] * 3, [False, False, True]])
    first, second, third = (
        jax.tree.map(lambda x: np.asarray(x[0]), draw(jax.random.key(seed), objects))
        for seed, objects in ((0, batch), (0, other), (1, batch))
    )
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert (first[0].labels != third[0].labels).any()


def test_batch_with_no_place_for_objects_trains():
    batch = make_tiny_batch([GOOD] * 2, [[False] * 3] * 2)
    batch = {
        k: x[:, :0] if k in ("boxes", "labels", "valid", "masks") else x for k, x in batch.items()
    }
    _, parts = nnx.eval_shape(
        lambda m, b, k: m.losses(b, k), make_tiny_net(), batch, jax.random.key(0)
    )
    assert len(parts) == 5


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"masks": None, "size": None}, "batches of this detector need size, masks"),
        (
            {"image": np.ones((2, 64, 64, 1), np.float32)},
            r"must be \(B, H, W, 3\), not \(2, 64, 64",
        ),
        ({"image": np.ones((2, 64, 64, 3), np.uint8)}, "normalised floats, not uint8"),
        ({"labels": np.ones((2, 4), np.int32)}, r"labels is \(2, 4\), valid is \(2, 3\)"),
        ({"masks": np.ones((2, 64, 64), np.float32)}, r"masks is \(2, 64, 64\)"),
        ({"size": np.ones(2, np.int32)}, r"size is \(2,\)"),
    ],
)
def test_batches_whose_arrays_do_not_fit_are_refused(arrays, message):
    batch = {**make_tiny_batch([GOOD] * 2, [[True] * 3] * 2), **arrays}
    batch = {name: x for name, x in batch.items() if x is not None}
    with pytest.raises(ValueError, match=message):
        make_tiny_net().losses(batch, jax.random.key(0))
