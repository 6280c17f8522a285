"""A Mask R-CNN and its operations as programs, and what a compiler says of them."""

import collections
import functools
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import optax_gc
from examples import detection
from examples.benchmarks.compiled import cards, detector_forms, hlo, targets
from examples.benchmarks.detection_operations import HEIGHT, MAPS, WIDTH, make_proposals

Record = dict[str, Any]
_OBJECTS, _CELLS = 100, 112
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


class Program(NamedTuple):
    """A program to compile.

    Attributes:
      function: the program.
      arguments: the shapes of its arguments.
      steps: how many of its steps wait for each other, if that depends on the data and is known.
      overwritten: the places of the arguments that it may overwrite.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    steps: int | None = None
    overwritten: tuple[int, ...] = ()


def make_detector(dtype: str) -> detection.RCNN:
    """Makes the shapes of a Mask R-CNN with a ResNet-50, its stem and first stage frozen."""

    def create():
        model = detection.create(
            "resnet50",
            num_classes=91,
            masks=True,
            dtype=jnp.bfloat16 if dtype == "bfloat16" else None,
            rngs=nnx.Rngs(0),
        )
        detection.freeze(model.backbone)
        return model

    return nnx.eval_shape(create)


def make_training(dtype: str, images: int) -> Program:
    """Makes a step of training: the loss, the gradients, GC, and SGD with momentum."""
    model = make_detector(dtype)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    gc = optax_gc.centralize(optax_gc.nnx_kernel_axes(model))
    tx = optax_gc.sgd(0.02, momentum=0.9, weight_decay=1e-4, gc=gc)
    shape, places = (images, HEIGHT, WIDTH), (images, _OBJECTS)
    batch = {
        "image": _array(*shape, 3),
        "size": _array(images, 2, dtype=jnp.int32),
        "boxes": _array(*places, 4),
        "labels": _array(*places, dtype=jnp.int32),
        "valid": _array(*places, dtype=jnp.bool_),
        "masks": _array(*places, _CELLS, _CELLS, dtype=jnp.float16),
        "mask_frames": _array(*places, 4),
    }

    def step(carry, rest, batch, key):
        params, opt_state = carry
        model = nnx.merge(graph, params, rest, copy=True)
        (_, parts), gradient = nnx.value_and_grad(
            lambda model: model.losses(batch, key), has_aux=True
        )(model)
        updates, opt_state = tx.update(gradient, opt_state, params)
        return (jax.tree.map(jnp.add, params, updates), opt_state), parts

    carry = (params, jax.eval_shape(tx.init, params))
    key = jax.eval_shape(lambda: jax.random.key(0))
    return Program(step, (carry, rest, batch, key), overwritten=(0,))


def make_inference(dtype: str, images: int) -> Program:
    """Makes the search for objects in images."""
    graph, state = nnx.split(make_detector(dtype))

    def detect(state, images, sizes):
        return nnx.merge(graph, state, copy=True).detect(images, sizes)

    arrays = _array(images, HEIGHT, WIDTH, 3), _array(images, 2, dtype=jnp.int32)
    return Program(detect, (state, *arrays))


def make_nms(form: Callable, images: int) -> Program:
    """Makes the NMS of 2000 proposals, of one image or under `jax.vmap` of several."""
    boxes, scores = make_proposals(np.random.default_rng(0), 2000)
    steps = {
        detector_forms.nms_in_blocks: lambda: detector_forms.count_steps(boxes, scores)[1],
        detector_forms.nms_of_all: lambda: detector_forms.count_steps(boxes, scores, 2000)[1],
        detector_forms.nms_one_by_one: lambda: 2000,
    }[form]()
    if images == 1:
        return Program(form, (_array(2000, 4), _array(2000)), steps)
    return Program(jax.vmap(form), (_array(images, 2000, 4), _array(images, 2000)))


def make_roi_align(form: Callable, number: int, size: int, gradient: bool) -> Program:
    """Makes the pooling of regions from P2 to P5 with 256 channels, or its gradient."""
    maps = [_array(*shape, 256) for shape in MAPS[:4]]
    function = functools.partial(form, size=size)
    if gradient:
        function = jax.grad(lambda maps, boxes: (form(maps, boxes, size) ** 2).sum() / 2)
    return Program(function, (maps, _array(number, 4)))


def make_programs(images: int) -> dict[tuple[str, str], Callable[[], Program]]:
    """Returns what makes each program, by its name and its form."""
    made: dict[tuple[str, str], Callable[[], Program]] = {}
    for dtype in ("float32", "bfloat16"):
        training = functools.partial(make_training, dtype, images)
        made[f"training, {images} images", dtype] = training
        made["inference, 1 image", dtype] = functools.partial(make_inference, dtype, 1)
    for number, name in ((1, "NMS of 2000 boxes"), (5, "NMS of 5 x 2000 boxes")):
        for form, function in detector_forms.NMS_FORMS.items():
            made[name, form] = functools.partial(make_nms, function, number)
    for number, size in ((512, 7), (128, 14)):
        for gradient in (False, True):
            name = f"RoIAlign of {number} x {size} x {size}" + ", gradient" * gradient
            for form, function in detector_forms.ROI_ALIGN_FORMS.items():
                made[name, form] = functools.partial(
                    make_roi_align, function, number, size, gradient
                )
    return made


def compile_program(program: Program, card: cards.Card) -> Record:
    """Compiles a program for a card, and returns what the compiler says of it.

    Where the compiler refuses a program, for lack of memory, the record says so.
    """
    device = targets.describe_devices(card, 1)[0]
    sharding = jax.sharding.SingleDeviceSharding(device)
    arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), program.arguments
    )
    # XLA counts FLOPs and bytes before it optimizes. It counts the body of a loop once.
    cost = jax.jit(program.function).lower(*program.arguments).cost_analysis() or {}
    record = {"flops": cost.get("flops"), "bytes": cost.get("bytes accessed")}
    lowered = jax.jit(program.function, donate_argnums=program.overwritten).lower(*arguments)
    begin = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return record | {"refused": " ".join(str(error).split())[:300]}
    seconds = time.perf_counter() - begin
    memory = compiled.memory_analysis()
    assert memory is not None  # both compilers plan the memory
    instructions = hlo.parse(str(compiled.as_text()))
    cycles = count_cycles(instructions)
    bodies = [
        re.findall(r"body=%([^\s,)]+)", instruction.rest)[0]
        for instruction in instructions
        if instruction.opcode == "while"
    ]
    return record | {
        "refused": None,
        "temporary_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "kernels": hlo.count_kernels(instructions),
        "loops": len(bodies),
        # Those outside of loops, and those of one pass through each loop.
        "cycles": sum(n for name, n in cycles.items() if name not in bodies) if cycles else None,
        "loop_cycles": [cycles[name] for name in bodies] if cycles else None,
        "steps": program.steps,
        "compile_seconds": round(seconds, 1),
    }


def count_cycles(program: list[hlo.Instruction]) -> collections.Counter[str]:
    """Returns the cycles that a compiler expects of each computation, if it says so."""
    cycles: collections.Counter[str] = collections.Counter()
    for instruction in program:
        if match := _CYCLES.search(instruction.rest):
            cycles[instruction.computation] += int(match[1])
    return cycles


def _array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)
