"""The operations of detectors, made for both libraries, compared and timed."""

import importlib
import importlib.metadata
import os
import platform
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from examples.benchmarks import measure
from examples.detection.anchors import compute_strides, make_anchors
from examples.detection.box_nms import batched_nms, nms
from examples.detection.boxes import box_iou
from examples.detection.matching import match_boxes
from examples.detection.roi_align import multiscale_roi_align
from examples.training.errors import SettingError
from examples.training.provenance import commit

HEIGHT, WIDTH = 800, 1344
MAPS = ((200, 336), (100, 168), (50, 84), (25, 42), (13, 21))
MATCHING = {"high_threshold": 0.7, "low_threshold": 0.3, "allow_low_quality_matches": True}


class Operation(NamedTuple):
    """One operation of both libraries, as calls that return their results as NumPy arrays."""

    name: str
    ours: Callable[[], Any]
    torchvision: Callable[[], Any]
    bar: float
    """The largest ratio of the times, ours to torchvision's, that is good enough."""
    tolerance: float = 0.0
    """The largest difference of the results."""


def import_torch() -> tuple[Any, Any]:
    """Imports torch and torchvision.

    Raises:
      SettingError: they are not installed.
    """
    try:
        return importlib.import_module("torch"), importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        raise SettingError(
            f"{error.name} is missing, with which this compares: pip install torch torchvision"
        ) from error


def make_proposals(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes boxes (N, 4) around 40 objects, as a region proposal network does, and scores."""
    centre = rng.uniform(0, 1, (40, 2)) * (WIDTH, HEIGHT)
    side = np.exp(rng.uniform(np.log(16), np.log(400), (40, 2)))
    of = rng.integers(0, 40, count)
    sides = side[of] * np.exp(rng.normal(0, 0.15, (count, 2)))
    centres = centre[of] + side[of] * rng.normal(0, 0.15, (count, 2))
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    # A permutation has no ties, whose order torchvision does not always keep.
    scores = (rng.permutation(count) + 0.5) / count
    return boxes.astype(np.float32), scores.astype(np.float32)


def make_objects(rng: np.random.Generator, count: int) -> np.ndarray:
    """Makes boxes (N, 4) of 16 to 700 pixels inside the image."""
    side = np.exp(rng.uniform(np.log(16), np.log(700), (count, 2)))
    corner = rng.uniform(0, 1, (count, 2)) * np.maximum((WIDTH, HEIGHT) - side, 0)
    boxes = np.concatenate([corner, corner + side], axis=1)
    return np.minimum(boxes, (WIDTH, HEIGHT, WIDTH, HEIGHT)).astype(np.float32)


def make_nms(torch: Any, torchvision: Any, rng: np.random.Generator, count: int) -> Operation:
    boxes, scores = make_proposals(rng, count)
    theirs = torch.tensor(boxes), torch.tensor(scores)
    compiled = jax.jit(partial(nms, iou_threshold=0.7)).lower(boxes, scores).compile()
    ours = jnp.asarray(boxes), jnp.asarray(scores)
    return Operation(
        f"nms of {count} boxes",
        lambda: _kept(*compiled(*ours)),
        lambda: torchvision.ops.nms(*theirs, 0.7).numpy(),
        bar=1.0,
    )


def make_nms_of_levels(torch: Any, torchvision: Any, rng: np.random.Generator) -> Operation:
    boxes, scores = map(np.stack, zip(*[make_proposals(rng, 2000) for _ in range(5)], strict=True))
    theirs = list(zip(torch.tensor(boxes), torch.tensor(scores), strict=True))
    function = jax.vmap(partial(nms, iou_threshold=0.7))
    compiled = jax.jit(function).lower(boxes, scores).compile()
    ours = jnp.asarray(boxes), jnp.asarray(scores)

    def run_ours():
        indices, numbers = map(np.asarray, compiled(*ours))
        return np.concatenate([i[:n] for i, n in zip(indices, numbers, strict=True)])

    return Operation(
        "nms of 5 x 2000 boxes, vmap",
        run_ours,
        lambda: np.concatenate([torchvision.ops.nms(*pair, 0.7).numpy() for pair in theirs]),
        bar=0.5,
    )


def make_detection(torch: Any, torchvision: Any, rng: np.random.Generator) -> Operation:
    """The best 100 of 1000 boxes in 80 classes, above a score of 0.05."""
    boxes = np.repeat(make_proposals(rng, 1000)[0], 80, axis=0)
    boxes += rng.normal(0, 2, boxes.shape).astype(np.float32)
    classes = np.tile(np.arange(80, dtype=np.int32), 1000)
    scores = ((rng.permutation(80_000) + 0.5) / 80_000).astype(np.float32) ** 160
    find = partial(batched_nms, iou_threshold=0.5, max_outputs=100)
    function = jax.jit(lambda b, s, c: find(b, s, c, valid=s > 0.05))
    ours = jnp.asarray(boxes), jnp.asarray(scores), jnp.asarray(classes)
    compiled = function.lower(*ours).compile()
    theirs = torch.tensor(boxes), torch.tensor(scores), torch.tensor(classes)

    def run_torchvision():
        (above,) = torch.where(theirs[1] > 0.05)
        kept = torchvision.ops.batched_nms(*(x[above] for x in theirs), 0.5)
        return above[kept[:100]].numpy()

    return Operation(
        "100 detections of 80,000 candidates",
        lambda: _kept(*compiled(*ours)),
        run_torchvision,
        bar=1.5,
    )


def make_matching(torch: Any, torchvision: Any, rng: np.random.Generator) -> Operation:
    strides = compute_strides((HEIGHT, WIDTH), MAPS)
    anchors = np.concatenate(make_anchors(MAPS, strides, (32, 64, 128, 256, 512)))
    objects = make_objects(rng, 100)
    matcher = importlib.import_module("torchvision.models.detection._utils").Matcher(0.7, 0.3, True)
    theirs = torch.tensor(objects), torch.tensor(anchors)
    ours = jnp.asarray(anchors), jnp.asarray(objects), jnp.ones(100, bool)
    function = jax.jit(lambda a, o, valid: match_boxes(box_iou(a, o), valid, **MATCHING))
    compiled = function.lower(*ours).compile()
    return Operation(
        f"matching of {len(anchors):,} anchors with 100 objects",
        lambda: np.asarray(compiled(*ours)),
        lambda: matcher(torchvision.ops.box_iou(*theirs)).numpy(),
        bar=0.3,
    )


def make_roi_align(
    torch: Any,
    torchvision: Any,
    rng: np.random.Generator,
    count: int,
    size: int,
    gradient: bool,
) -> Operation:
    maps = [rng.standard_normal((1, 256, *shape), np.float32) for shape in MAPS[:4]]
    boxes = make_objects(rng, count)
    pool = torchvision.ops.MultiScaleRoIAlign(["0", "1", "2", "3"], size, 2)
    tensors = {str(i): torch.tensor(x, requires_grad=gradient) for i, x in enumerate(maps)}
    box_tensor = torch.tensor(boxes)
    arrays = [jnp.asarray(x[0].transpose(1, 2, 0)) for x in maps]
    function = partial(multiscale_roi_align, output_size=size)
    if gradient:
        function = jax.grad(lambda f, b: (multiscale_roi_align(f, b, size) ** 2).sum() / 2)
    compiled = jax.jit(function).lower(arrays, boxes).compile()
    box_array = jnp.asarray(boxes)

    def run_ours():
        result = jax.block_until_ready(compiled(arrays, box_array))
        return result if gradient else [result]

    def run_torchvision():
        pooled = pool(tensors, [box_tensor], [(HEIGHT, WIDTH)])
        if not gradient:
            return [pooled.permute(0, 2, 3, 1)]
        for tensor in tensors.values():
            tensor.grad = None
        (pooled.square().sum() / 2).backward()
        return [x.grad[0].permute(1, 2, 0) for x in tensors.values()]

    what = "forward and gradient" if gradient else "forward"
    name = f"RoIAlign of {count} x 256 x {size} x {size}, {what}"
    # Coordinates up to 336 in float32, and in the gradient sums of many cells.
    bar, tolerance = (0.6, 5e-3) if gradient else (1.3, 1e-3)
    return Operation(name, run_ours, run_torchvision, bar, tolerance)


def make_operations() -> dict[str, Callable[[], Operation]]:
    """Returns all operations by name. Each is made when it is called."""
    torch, torchvision = import_torch()

    def begin(function: Callable[..., Operation], *args: Any) -> Callable[[], Operation]:
        return lambda: function(torch, torchvision, np.random.default_rng(0), *args)

    made = {f"nms {count}": begin(make_nms, count) for count in (1000, 2000)}
    made |= {"nms levels": begin(make_nms_of_levels), "detections": begin(make_detection)}
    made["matching"] = begin(make_matching)
    for count, size in ((512, 7), (128, 14)):
        made[f"roi_align {size}"] = begin(make_roi_align, count, size, False)
        made[f"roi_align {size} gradient"] = begin(make_roi_align, count, size, True)
    return made


def compare(operation: Operation, rounds: int) -> dict[str, Any]:
    """Checks that both sides agree, and times them in turns.

    Raises:
      ValueError: their results differ by more than the tolerance.
    """
    ours, theirs = jax.tree.leaves(operation.ours()), jax.tree.leaves(operation.torchvision())
    differences = []
    for our, their in zip(map(np.asarray, ours), theirs, strict=True):
        their = np.asarray(their.detach() if hasattr(their, "detach") else their)
        same_shape = our.shape == their.shape
        differences.append(np.abs(our - their).max() if same_shape else np.inf)
    difference = float(np.max(differences))  # NaN if one is NaN
    if not difference <= operation.tolerance:
        raise ValueError(f"{operation.name}: results differ by {difference:.3g}")
    sides = {"ours": operation.ours, "torchvision": operation.torchvision}
    times = measure.interleave(sides, rounds)
    return {
        "kind": "operation",
        "operation": operation.name,
        "bar": operation.bar,
        "difference": difference,
        "rounds": rounds,
        "milliseconds": {name: 1e3 * float(np.median(its)) for name, its in times.items()},
        "ratio": measure.paired_ratio(times["ours"], times["torchvision"])._asdict(),
    }


def describe_machine() -> dict[str, Any]:
    """Returns the first record: on what machine and from which commit the times were taken."""
    packages = ("jax", "jaxlib", "numpy", "torch", "torchvision")
    return {
        "kind": "machine",
        "commit": commit(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


def _kept(indices: jax.Array, number: jax.Array) -> np.ndarray:
    return np.asarray(indices)[: int(number)]
