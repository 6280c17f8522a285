"""The tables of E2 and E5 find the effects that were put into results."""

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy import stats

from examples.experiments.statistics import combine
from examples.experiments.sweep import followups
from examples.experiments.sweep.images_figure import draw_images_and_steps
from examples.experiments.sweep.rates import rate
from examples.experiments.sweep.results import METRICS, TaskResults
from examples.experiments.sweep.tasks import IMAGES, SEEDS, STEPS, TASKS, tasks_of
from examples.experiments.sweep.training import MEASURES


def write_results(folder, task, gains):
    """Writes results that are best at the second rate of the grid, with a gain for each arm."""
    results, lines = TaskResults(task, folder), []
    random = np.random.default_rng([*task.name.encode()])
    for arm in task.arms:
        for number in task.grid:
            for seed in SEEDS:
                accuracy = 80 - 5 * abs(number - task.grid[1]) + gains.get(arm, 0)
                record = {
                    **dict.fromkeys(METRICS, 0.5),
                    "test_accuracy": accuracy + random.normal(0, 0.1),
                    "validation_accuracy": accuracy,
                    "guess_accuracy": 10.0,
                    "curve": np.linspace(2, 1, MEASURES).tolist(),
                    "collapsed": False,
                    "seconds": 1.0,
                }
                config = dataclasses.asdict(results.run(arm, rate(number), seed))
                lines.append(json.dumps({"config": config, **record}) + "\n")
    (folder / f"{task.name}.jsonl").write_text("".join(lines))


def gain(images, steps):
    """Returns a gain that falls by 1.5 with ten times the images and rises by 0.5 with the steps."""
    return 4 - 1.5 * math.log10(images) + 0.5 * math.log10(steps)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("e2")
    for task in tasks_of("e2"):
        if task.norm == "batch":
            write_results(folder, task, {"gc": gain(task.images, task.steps)})
    return followups.compare_gc("e2", folder)


def test_every_cell_has_its_own_images_and_steps():
    cells = [(task.norm, task.images, task.steps) for task in tasks_of("e2")]
    assert sorted(cells) == sorted(
        (norm, images, steps)
        for norm in followups.NORM_TITLES
        for images in IMAGES
        for steps in STEPS
    )


def test_the_slopes_are_those_that_were_put_in(cells):
    images, steps = followups.fit_slopes(cells)
    # A gain in accuracy lowers the error.
    assert images.mean == pytest.approx(1.5, abs=0.1)
    assert steps.mean == pytest.approx(-0.5, abs=0.1)
    # Each seed is fitted by itself, so that the interval is one over seeds.
    own = [
        np.polyfit(
            np.log10(IMAGES),
            [
                np.mean(
                    [
                        one.tuned.error[seed] - one.none.error[seed]
                        for one in cells
                        if one.task.images == count
                    ]
                )
                for count in IMAGES
            ],
            1,
        )[0]
        for seed in range(len(SEEDS))
    ]
    assert images.mean == pytest.approx(np.mean(own))
    assert images.half_width == pytest.approx(stats.sem(own) * stats.t.ppf(0.975, len(SEEDS) - 1))


def test_the_table_of_e2_shows_each_cell_once_and_says_what_is_missing(cells):
    text = followups.write_images_and_steps(cells)
    assert "16 of 32 cells are complete" in text
    (cell,) = [one for one in cells if (one.task.images, one.task.steps) == (300, 100)]
    assert text.count(f"{cell.difference.mean:+.2f} ± {cell.difference.half_width:.2f}") >= 1
    assert text.count("Ten times the images") == 1
    assert followups.write_images_and_steps([]) == ""


def test_the_picture_of_e2_has_a_line_for_each_number_of_steps(cells):
    one_group, batch = draw_images_and_steps(cells).axes
    assert [len(panel.containers) for panel in (one_group, batch)] == [len(STEPS)] * 2
    for container, steps in zip(batch.containers, STEPS, strict=True):
        drawn = np.asarray(container[0].get_ydata(), np.float64)
        expected = [
            cell.difference.mean
            for images in IMAGES
            for cell in cells
            if (cell.task.images, cell.task.steps) == (images, steps)
        ]
        assert drawn.tolist() == expected
    # No cell of the other normalization is complete.
    assert all(len(container[0].get_xdata()) == 0 for container in one_group.containers)


def test_both_places_of_gc_are_compared_with_none(tmp_path):
    task = TASKS["lm-pydoc-adam"]
    write_results(tmp_path, task, {"gc": 0.0, "gc_update": 2.0})
    on_gradient, on_update = followups.compare_places(tmp_path)
    assert (on_gradient.arm, on_update.arm) == ("gc", "gc_update")
    assert on_update.difference.mean == pytest.approx(-2, abs=0.2)
    text = followups.write_places([on_gradient, on_update])
    rows = [line for line in text.splitlines() if line.startswith("| lm-pydoc-adam |")]
    assert "| gradient |" in rows[0]
    assert "no difference" in rows[0]
    assert "| update |" in rows[1]
    assert "helps" in rows[1]
    # The update is compared with the gradient too, without a verdict.
    update, gradient = on_update.tuned.error, on_gradient.tuned.error
    assert f"| {np.mean(update - gradient):+.2f} ± " in rows[2]
    assert "1 of 8 tasks are complete" in text
    assert followups.write_places([]) == ""


def test_the_difference_of_a_cell_is_paired_by_seed(cells, tmp_path):
    cell = cells[0]
    write_results(tmp_path, cell.task, {"gc": 1.0})
    results = TaskResults(cell.task, tmp_path)
    best = cell.task.grid[1]
    none, gc = (results.values(arm, best, "test_accuracy") for arm in ("none", "gc"))
    compared = followups.compare(results, "gc")
    assert compared.difference.p_value == pytest.approx(stats.ttest_rel(none, gc)[1])


def test_the_table_of_fine_tuning_has_a_verdict_for_each_set(tmp_path):
    faces, emoji = tasks_of("e4")
    write_results(tmp_path, faces, {"gc": 2.0})
    text = followups.write_fine_tuning(followups.compare_gc("e4", tmp_path))
    (row,) = [line for line in text.splitlines() if line.startswith("| finetuned-")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[0] == "finetuned-faces"
    assert float(cells[1]) - float(cells[2]) == pytest.approx(2, abs=0.2)
    assert cells[4:7] == ["<0.001", "<0.001", "helps"]
    assert 2 <= int(cells[7]) <= 5
    assert cells[8:] == ["0.03", "0.03"]
    assert "1 of 2 tasks are complete" in text
    assert "verdicts can change" in text
    write_results(tmp_path, emoji, {"gc": 0.0})
    text = followups.write_fine_tuning(followups.compare_gc("e4", tmp_path))
    assert "no difference" in text
    assert "verdicts can change" not in text
    assert followups.write_fine_tuning([]) == ""


def test_the_net_at_full_size_stands_beside_the_prediction_of_e1_and_has_no_verdict(cells):
    overall = combine([np.array([0.1, 0.2, 0.3]), np.array([1.1, 1.0, 1.2]), np.array([0.5, 0.4])])
    (cell, *_) = cells
    text = followups.write_full_size([cell], overall)
    assert f"in a new task is {overall.new_low:+.2f} to {overall.new_high:+.2f}" in text
    errors = f"{cell.none.error.mean():.2f} | {cell.tuned.error.mean():.2f}"
    assert f"| {cell.task.name} | {errors} |" in text
    assert not any(word in text for word in ("helps", "hurts", "no difference"))
    assert followups.write_full_size([], overall) == ""
