"""A detector compiled for cards that are not there: its forms are equal, and bad input is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.benchmarks.compiled import cards, detector, detector_forms, detector_programs, hlo
from examples.benchmarks.detection_operations import make_proposals
from examples.detection.box_nms import nms


def make_boxes(count):
    """Boxes around objects, whose scores have ties."""
    boxes, scores = make_proposals(np.random.default_rng(0), count)
    return boxes, np.round(scores, 2)


def test_all_forms_of_nms_keep_the_same_boxes():
    boxes, scores = map(jnp.asarray, make_boxes(600))
    indices, number = nms(boxes, scores, detector_forms.THRESHOLD)
    expected = np.isin(np.arange(600), indices[:number])
    assert 60 < number < 540
    for name, form in detector_forms.NMS_FORMS.items():
        np.testing.assert_array_equal(jax.jit(form)(boxes, scores), expected, err_msg=name)


@pytest.mark.parametrize("block", [32, 256, 600])
def test_steps_are_counted_of_the_algorithm_that_keeps_these_boxes(block):
    boxes, scores = make_boxes(600)
    indices, number = nms(jnp.asarray(boxes), jnp.asarray(scores), detector_forms.THRESHOLD)
    kept, steps = detector_forms.count_steps(boxes, scores, block)
    np.testing.assert_array_equal(kept, indices[:number])
    # The rule is applied at least twice to each block if it changes anything.
    assert 2 * (600 // block) <= steps < 600


def test_a_chain_takes_a_step_for_each_box_and_no_overlap_takes_one():
    place = np.arange(20, dtype=np.float32)
    scores = 1 - place / 20
    # The overlap of a box with the next one is 9/11, and with the one after that 8/12.
    chain = np.stack([place, 0 * place, place + 10, 0 * place + 10], axis=1)
    apart = chain + 100 * np.stack([place, 0 * place, place, 0 * place], axis=1)
    assert detector_forms.count_steps(chain, scores)[1] == 20
    assert detector_forms.count_steps(apart, scores)[1] == 1


def test_all_forms_of_roi_align_and_their_gradients_are_equal():
    rng = np.random.default_rng(0)
    maps = [jnp.asarray(rng.standard_normal((s, s + 3, 5)), jnp.float32) for s in (80, 40, 20, 10)]
    corner = rng.uniform(-20, 100, (40, 2))
    side = np.exp(rng.uniform(1, 6.5, (40, 1))) * rng.uniform(0.7, 1.4, (40, 2))
    boxes = jnp.asarray(np.concatenate([corner, corner + side], axis=1), jnp.float32)

    def compute(form):
        def loss(maps):
            pooled = form(maps, boxes, 3)
            return (pooled**2).sum(), pooled

        return jax.tree.leaves(jax.jit(jax.grad(loss, has_aux=True))(maps))

    expected, *others = map(compute, detector_forms.ROI_ALIGN_FORMS.values())
    assert all(np.asarray(x).any() for x in expected)
    for result in others:
        for a, b in zip(result, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cards": ("v5",)}, "no card is called 'v5'; there are v5"),
        ({"cards": ()}, "--cards needs at least one of"),
        ({"images": 0}, "--images must be at least 1, not 0"),
        ({"only": "masks"}, "--only masks: there are training, 2 images, inference"),
    ],
)
def test_bad_options_name_the_flag(options, message):
    with pytest.raises(ValueError, match=message):
        detector.Config(**options)


def test_the_names_of_the_programs_are_those_that_can_be_made():
    made = dict.fromkeys(name for name, _ in detector_programs.make_programs(3))
    assert tuple(made) == detector.list_programs(3)


def test_programs_that_are_in_the_file_are_not_compiled_again(tmp_path, monkeypatch):
    compiled = []

    def compile_program(program, card):
        compiled.append(program)
        return {"refused": None, "flops": 1.0}

    monkeypatch.setattr(detector_programs, "compile_program", compile_program)
    monkeypatch.setattr(detector.importlib.metadata, "version", lambda name: "1")
    out = tmp_path / "records.jsonl"
    config = detector.Config(cards=("h100",), only="NMS of 2000", out=out)
    first = detector.run(config, detector.Console(quiet=True))
    assert len(compiled) == 3
    assert [program.steps for program in compiled] == [
        *(detector_forms.count_steps(*make_proposals(np.random.default_rng(0), 2000), block)[1]
          for block in (256, 2000)),
        2000,
    ]  # fmt: skip
    assert detector.run(config, detector.Console(quiet=True)) == first
    assert len(compiled) == 3
    assert [json.loads(line) for line in out.read_text().splitlines()] == first


def test_table_says_what_does_not_fit():
    row = {"card": "v5e", "program": "training", "form": "float32"}
    whole = {
        **row,
        "refused": None,
        "temporary_bytes": 2e6,
        "kernels": 3,
        "loops": 1,
        "steps": None,
        "flops": 4e9,
        "bytes": 5e9,
        "cycles": 6e3,
        "loop_cycles": [7e3, 80],
        "compile_seconds": 7.0,
    }
    table = detector.make_table([{**row, "refused": "no room"}, whole], "v5e")
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert rows[0][2] == "too large"
    assert list(rows[1][2:]) == ["2.0", "3", "1", "", "4.0", "5.00", "6", "7.0, 0.1", "7"]


def test_cycles_are_counted_by_computation():
    text = """
%body (p: f32[8]) -> f32[8] {
  %a = f32[8]{0} fusion(%p), kind=kLoop, calls=%x, backend_config={"estimated_cycles":"12"}
  ROOT %b = f32[8]{0} fusion(%a), kind=kLoop, calls=%y, backend_config={"estimated_cycles":"30"}
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %c = f32[8]{0} copy(%p), backend_config={"estimated_cycles":"5"}
  ROOT %while = f32[8]{0} while(%c), condition=%cond, body=%body
}
"""
    assert detector_programs.count_cycles(hlo.parse(text)) == {"body": 42, "main": 5}


@pytest.mark.compilers
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", ["v5e", "h100"])
def test_compilers_take_the_operations(name):
    card = cards.find_card(name)
    program = detector_programs.make_nms(detector_forms.nms_in_blocks, 1)
    record = detector_programs.compile_program(program, card)
    assert record["refused"] is None
    assert record["loops"] >= 3
    # The overlaps of two blocks are at most what is written down.
    assert record["temporary_bytes"] < 1e6
    assert (record["cycles"] is None) == (name == "h100")
    assert (record["loop_cycles"] is None) == (name == "h100")
