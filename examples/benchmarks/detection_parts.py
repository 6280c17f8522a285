"""The parts of a Mask R-CNN's training step, and its inference: compiled and timed."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console

import optax_gc
from examples import detection
from examples.benchmarks.detection_operations import import_torch
from examples.detection import pretrained
from examples.detection.rcnn import BOX_POOL, MASK_POOL

if TYPE_CHECKING:
    from examples.benchmarks.detection_step import Config

_OBJECTS = 10


def make_model(backbone: str) -> detection.RCNN:
    """Makes a Mask R-CNN for 91 classes with random weights, and its stem and first stage frozen."""
    model = nnx.eval_shape(
        lambda: detection.create(backbone, num_classes=91, masks=True, rngs=nnx.Rngs(0))
    )
    rng = np.random.default_rng(0)

    def fill(x):
        if len(x.shape) < 2:
            return jnp.ones(x.shape, x.dtype)
        # Kernels keep the size of what passes through them.
        values = rng.standard_normal(x.shape, np.float32) / np.sqrt(np.prod(x.shape[:-1]))
        return jnp.asarray(values, x.dtype)

    nnx.update(model, jax.tree.map(fill, nnx.state(model)))
    detection.freeze(model.backbone)
    return model


def make_batch(config: "Config") -> dict[str, jax.Array]:
    """Makes a batch of noise with a few objects in each image."""
    rng = np.random.default_rng(0)
    shape = (config.images, config.height, config.width)
    corner = rng.uniform(0, 0.6, (config.images, _OBJECTS, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.05, 0.4, corner.shape)], axis=-1)
    boxes = boxes * np.array([config.width, config.height] * 2)
    batch = {
        "image": rng.standard_normal((*shape, 3), np.float32),
        "size": np.tile(shape[1:], (config.images, 1)),
        "boxes": boxes.astype(np.float32),
        "labels": rng.integers(1, 91, (config.images, _OBJECTS)),
        "valid": np.ones((config.images, _OBJECTS), bool),
        "masks": np.ones((config.images, _OBJECTS, 112, 112), np.float32),
        "mask_frames": boxes.astype(np.float32),
    }
    return jax.tree.map(jnp.asarray, batch)


def time_parts(config: "Config", console: Console) -> list[dict[str, Any]]:
    """Times every part of a training step, and the step."""
    model, batch, key = make_model(config.backbone), make_batch(config), jax.random.key(0)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    gc = optax_gc.centralize(optax_gc.nnx_kernel_axes(model))
    tx = optax_gc.sgd(0.02, momentum=0.9, weight_decay=1e-4, gc=gc)
    opt_state = tx.init(params)
    image_size = (config.height, config.width)
    records = []

    def measure(name: str, function: Callable[..., Any], *args: Any) -> Any:
        """Times a function of the model and other arguments, and returns its result."""

        def run(params, rest, *args):
            return function(nnx.merge(graph, params, rest, copy=True), *args)

        with console.status(name):
            begin = time.perf_counter()
            compiled = jax.jit(run).lower(params, rest, *args).compile()
            compile_seconds = time.perf_counter() - begin
            times, result = [], None
            for _ in range(config.rounds):
                begin = time.perf_counter()
                result = jax.block_until_ready(compiled(params, rest, *args))
                times.append(time.perf_counter() - begin)
        record = {"part": name, "seconds": float(np.median(times)), "rounds": config.rounds}
        record["compile_seconds"] = compile_seconds
        if memory := compiled.memory_analysis():
            record["peak_bytes"] = (
                memory.argument_size_in_bytes
                + memory.output_size_in_bytes
                + memory.temp_size_in_bytes
            )
        records.append(record)
        return result

    def propose(model, logits, codes, sizes):
        anchors = model.anchors(image_size, jax.eval_shape(model.pyramid, batch["image"]))
        return model.proposals(logits, codes, anchors, sizes, training=True)

    def draw(model, proposals, batch):
        anchors = model.anchors(image_size, jax.eval_shape(model.pyramid, batch["image"]))
        return model.draw(key, np.concatenate(anchors), proposals, batch)

    def find_gradient(model, batch, key):
        return nnx.value_and_grad(lambda m: m.losses(batch, key), has_aux=True)(model)

    def update(model, gradient, opt_state):
        params = nnx.state(model, nnx.Param)
        updates, opt_state = tx.update(gradient, opt_state, params)
        return jax.tree.map(jnp.add, params, updates), opt_state

    def step(model, opt_state, batch, key):
        loss, gradient = find_gradient(model, batch, key)
        return loss, update(model, gradient, opt_state)

    levels = measure("backbone", lambda m, x: m.backbone.features(x), batch["image"])
    pyramid = measure("pyramid", lambda m, x: m.fpn(x), levels)
    logits, codes = measure("proposal network", lambda m, x: m.rpn(x), pyramid)
    proposals = measure("proposals", propose, logits, codes, batch["size"])
    _, rois = measure("targets", draw, proposals, batch)
    pooled = measure(
        "RoIAlign of the box head", lambda m, x, b: m.pool(x, b, BOX_POOL), pyramid, rois.boxes
    )
    measure("box head", lambda m, x: m.box_predictor(m.box_head(x)), pooled)
    places = int(model.settings.roi_samples * model.settings.roi_positives)
    boxes = rois.boxes[:, :places]
    pooled = measure(
        "RoIAlign of the mask head", lambda m, x, b: m.pool(x, b, MASK_POOL), pyramid, boxes
    )
    measure("mask head", lambda m, x: m.mask_head(x), pooled)
    measure("loss", lambda m, b, k: m.losses(b, k), batch, key)
    _, gradient = measure("loss and gradient", find_gradient, batch, key)
    measure("update", update, gradient, opt_state)
    measure("step", step, opt_state, batch, key)
    return records


def time_inference(config: "Config", console: Console) -> list[dict[str, Any]]:
    """Times the inference of both libraries on one image, in turns, with the same weights.

    Raises:
      ValueError: the scores of their detections differ.
    """
    torch, torchvision = import_torch()
    torch.manual_seed(0)
    # Without a threshold both find as many objects as they may, so both mask heads work.
    theirs = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        min_size=config.height,
        max_size=config.width,
        box_score_thresh=0.0,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
    ).eval()
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    ours = pretrained.create_from_state(state, norm_epsilon=1e-5, score_threshold=0.0)
    image = np.random.default_rng(0).standard_normal((config.height, config.width, 3), np.float32)
    tensor, sizes = torch.tensor(image).permute(2, 0, 1), np.array([image.shape[:2]])

    def run_ours():
        return jax.block_until_ready(detection.detect(ours, image[None], sizes))

    def run_theirs():
        with torch.no_grad():
            return theirs([tensor])[0]

    with console.status("compiling, and comparing the detections"):
        found, expected = run_ours(), run_theirs()
        number = int(found.valid.sum())
        scores = expected["scores"].numpy()
        difference = abs(np.asarray(found.scores[0, :number]) - scores).max()
        if number != len(scores) or not difference < 1e-4:
            raise ValueError(f"scores of {number} and {len(scores)} objects differ by {difference}")
    times = {"ours": [], "torchvision": []}
    for _ in range(config.rounds):
        for name, run in (("ours", run_ours), ("torchvision", run_theirs)):
            with console.status(name):
                begin = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - begin)
    ratio = float(np.median(np.divide(times["ours"], times["torchvision"])))
    return [
        {"part": f"inference, {name}", "seconds": float(np.median(its)), "rounds": config.rounds}
        for name, its in times.items()
    ] + [{"part": "ratio of inference, ours to torchvision's", "ratio": ratio}]
