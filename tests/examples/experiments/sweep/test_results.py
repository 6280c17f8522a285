"""The runner makes what the plan asks for, continues where it stopped, and names bad lines."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from examples.experiments.store import RESULTS, ResultsError
from examples.experiments.sweep import training
from examples.experiments.sweep.arms import CONTROLS
from examples.experiments.sweep.effects import measure_effects, tune
from examples.experiments.sweep.rates import rate
from examples.experiments.sweep.results import METRICS, TaskResults
from examples.experiments.sweep.run import make_runs
from examples.experiments.sweep.tasks import SEEDS, TASKS, find_task, tasks_of
from examples.experiments.sweep.training import MEASURES
from examples.training.errors import SettingError

# No data is read, because no training takes place.
TASK = dataclasses.replace(TASKS["mlp-segment"], load=lambda seed, data_dir: None)
GRID = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0]


def made_up(point, seed, best, gain=0.0):
    """Returns a result whose accuracy falls by 5 points with each half-decade from the best rate."""
    distance = abs(np.log10(point.rate / best)) * 2
    accuracy = round(90 - 5 * distance + (gain if point.arm == "gc" else 0) + seed % 3, 4)
    numbers = dict.fromkeys(METRICS, 0.5)
    accuracies = {f"{part}_accuracy": accuracy for part in ("test", "train", "validation")}
    curve = [1.0 - 0.05 * i for i in range(training.MEASURES)]
    return {
        **numbers,
        **accuracies,
        "guess_accuracy": 10.0,
        "curve": curve,
        "collapsed": False,
        "seconds": 1.0,
    }


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Returns a function that runs the runner with made-up results, and returns the points made."""

    def run(best=0.1, gain=0.0, stop_after=None):
        made = []

        def train(point, splits, seeds):
            if len(made) == stop_after:
                raise KeyboardInterrupt
            made.append((point.arm, point.rate, tuple(seeds)))
            return [made_up(point, seed, best, gain) for seed in seeds]

        monkeypatch.setattr(training, "train_point", train)
        make_runs([TASK], tmp_path, None, lambda text: None)
        return made

    return run


def rates_of(made, arm):
    return sorted(value for name, value, _ in made if name == arm)


def test_both_arms_run_at_every_rate_and_controls_at_two(run, tmp_path):
    made = run(best=0.1)
    assert rates_of(made, "none") == rates_of(made, "gc") == GRID
    for arm in CONTROLS:
        assert rates_of(made, arm) == [0.1, 0.3]
    assert {seeds for *_, seeds in made} == {SEEDS}
    assert TaskResults(TASK, tmp_path).complete
    assert run() == []


@pytest.mark.parametrize(
    ("best", "more"),
    [
        (3.0, [10.0]),
        (0.01, [0.003]),
        (1e-5, [0.001, 0.003]),
        # The controls also run one above the best rate, and are compared with these arms there.
        (100.0, [10.0, 30.0, 100.0]),
    ],
)
def test_a_grid_whose_best_rate_is_at_an_end_is_extended_at_most_twice(run, best, more):
    made = run(best=best)
    assert rates_of(made, "none") == rates_of(made, "gc") == sorted([*GRID, *more])


def test_test_results_do_not_decide_the_extension(run, tmp_path, monkeypatch):
    run(best=0.1)
    path = tmp_path / f"{TASK.name}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["test_accuracy"] = 100 * (line["config"]["learning_rate"] == 3.0)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert list(TaskResults(TASK, tmp_path).grid()) == list(TASK.grid)


@pytest.mark.parametrize("stop_after", [0, 1, 7, 12, 17])
def test_a_stopped_sweep_continues_where_it_was(run, tmp_path, stop_after):
    with pytest.raises(KeyboardInterrupt):
        run(stop_after=stop_after)
    first = len(TaskResults(TASK, tmp_path).store)
    rest = run()
    assert first == stop_after * len(SEEDS)
    assert len(rest) == 18 - stop_after
    assert len(TaskResults(TASK, tmp_path).store) == 18 * len(SEEDS)


def test_a_point_that_is_half_there_gets_only_its_missing_seeds(run, tmp_path):
    run()
    path = tmp_path / f"{TASK.name}.jsonl"
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[:-5]))
    ((_, _, seeds),) = run()
    assert seeds == SEEDS[-5:]
    assert path.read_text() == whole


def test_a_whole_task_gives_the_effect_that_was_put_in(run, tmp_path):
    run(best=0.3, gain=2.0)
    effects = measure_effects(TaskResults(TASK, tmp_path))
    np.testing.assert_allclose(effects.differences, -2)
    assert effects.none.rates.tolist() == effects.gc.rates.tolist() == [0.3] * len(SEEDS)
    assert [(one.offset, round(one.difference.mean, 6)) for one in effects.by_rate] == [
        (offset, -2) for offset in range(-3, 3)
    ]
    assert effects.controls["gc"][0].mean == pytest.approx(-2)
    assert effects.controls["scaled_length"][1].mean == 0
    assert (effects.stable, effects.never, effects.steps.mean) == (0, 0, 1)
    assert effects.none.gap == 0
    # The controls change nothing here, so GC is below each of them by what it gains.
    assert effects.beyond["random_direction"][1].mean == pytest.approx(-2)


def change_lines(folder, change):
    """Changes each line of the task's results in place."""
    path = folder / f"{TASK.name}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        change(line, line["config"])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_steps_of_an_arm_count_until_the_best_loss_of_the_other(run, tmp_path):
    run(best=0.1)
    falling = np.linspace(2, 1, MEASURES)

    def change(line, config):
        # GC reaches the best loss of none at the fifth measurement. Of one seed it never does.
        line["curve"] = falling.tolist()
        if config["arm"] == "gc":
            slow = config["seed"] == SEEDS[0]
            line["curve"] = (falling + 1 if slow else np.r_[falling[5:], [0.5] * 5]).tolist()

    change_lines(tmp_path, change)
    effects = measure_effects(TaskResults(TASK, tmp_path))
    assert effects.never == 1
    reached = np.where(np.asarray(SEEDS) == SEEDS[0], MEASURES + 1, 5)
    assert effects.steps.mean == pytest.approx(np.exp(np.log(reached / MEASURES).mean()))
    # The other way round: the best loss of GC is at the sixth measurement, and none never reaches it,
    # but for the one seed, in which it does at the first.
    other = np.where(np.asarray(SEEDS) == SEEDS[0], 1 / MEASURES, (MEASURES + 1) / 6)
    assert effects.steps_of_none.mean == pytest.approx(np.exp(np.log(other).mean()))


@pytest.mark.parametrize(
    ("last", "stable", "limited"),
    [({"none": 0.1, "gc": 1.0}, 2, False), ({"none": 0.3, "gc": 1.0}, 1, False),
     ({"none": 1.0, "gc": 0.3}, -1, False), ({"none": 0.03, "gc": 3.0}, 4, True)],
)  # fmt: skip
def test_the_largest_stable_rates_are_compared_in_half_decades(
    run, tmp_path, last, stable, limited
):
    run(best=0.03)

    def change(line, config):
        if config["arm"] in last:
            if config["learning_rate"] > last[config["arm"]]:
                line["validation_accuracy"] = line["guess_accuracy"]
            else:
                line["validation_accuracy"] = 80.0 - abs(config["learning_rate"] - 0.03)

    change_lines(tmp_path, change)
    effects = measure_effects(TaskResults(TASK, tmp_path))
    assert (effects.stable, effects.limited) == (stable, limited)


def test_a_collapsed_run_stays_in_and_is_counted(run, tmp_path):
    run(best=0.1, gain=1.0)

    def change(line, config):
        if config["arm"] == "gc" and config["learning_rate"] == 0.1 and config["seed"] == SEEDS[3]:
            line.update(collapsed=True, test_accuracy=line["guess_accuracy"])

    before = measure_effects(TaskResults(TASK, tmp_path)).difference
    change_lines(tmp_path, change)
    effects = measure_effects(TaskResults(TASK, tmp_path))
    assert effects.collapsed == (0, 1)
    assert effects.difference.seeds == len(SEEDS)
    assert effects.difference.mean > before.mean


def damage(line, **changes):
    record = json.loads(line)
    for name, value in changes.items():
        if value is None:
            del record[name]
        else:
            record[name] = value
    return (json.dumps(record) + "\n").encode()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda line: line[: len(line) // 2], "it is cut short"),
        (lambda line: b"\x93NUMPY\xff\n", "codec can't decode"),
        (lambda line: line + line, "an earlier line has the result of the same run"),
        (lambda line: damage(line, test_accuracy=None), "'test_accuracy' is missing"),
        (lambda line: damage(line, curve=None), "'curve' is missing"),
        (lambda line: damage(line, test_accuracy=101.0), "test_accuracy is 101.0"),
        (lambda line: damage(line, validation_accuracy=float("nan")), "validation_accuracy is nan"),
        (lambda line: damage(line, test_accuracy=True), "test_accuracy is True"),
        (lambda line: damage(line, train_loss=-1.0), "train_loss is -1.0, which is negative"),
        (lambda line: damage(line, curve=[1.0]), "curve is not 10 losses"),
        (lambda line: damage(line, curve=["1"] * 10), "an entry of curve, which is a loss is '1'"),
        (lambda line: damage(line, curve=[True] * 10), "a loss is True"),
        (lambda line: damage(line, guess_accuracy=True), "guess_accuracy is True"),
        (lambda line: damage(line, share_removed=True), "share_removed is True"),
        (lambda line: damage(line, collapsed=1), "collapsed is 1"),
        (lambda line: damage(line, share_removed=1.5), "share_removed is 1.5"),
        (lambda line: line.replace(b'"gc"', b'"cg"'), "no arm is called 'cg'"),
        (lambda line: line.replace(b":0.01,", b":0.02,"), "learning_rate is 0.02"),
        (lambda line: line.replace(b'"seed":100', b'"seed":7'), "seed is 7"),
        (lambda line: line.replace(b":20,", b":25,"), "an older definition of mlp-segment"),
        (lambda line: line.replace(b"mlp-segment", b"mlp-letter"), "it is of another task"),
    ],
)
def test_a_bad_line_is_named_before_work_begins(run, tmp_path, change, reason):
    with pytest.raises(KeyboardInterrupt):
        run(stop_after=2)
    path = tmp_path / f"{TASK.name}.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if b'"gc"' in line)
    bad = b"".join([*lines[:first], change(lines[first])])
    path.write_bytes(bad)
    number = first + 1 + (reason.startswith("an earlier"))
    with pytest.raises(ResultsError, match=rf"mlp-segment\.jsonl, line {number}: .*{reason}"):
        run(stop_after=0)
    assert path.read_bytes() == bad


def test_lines_that_start_from_different_nets_stop_the_reader(run, tmp_path):
    run()
    change_lines(tmp_path, lambda line, config: line.update(pretrained=str(config["seed"] > 105)))
    with pytest.raises(ResultsError, match=r"mlp-segment\.jsonl: lines start from different nets"):
        TaskResults(TASK, tmp_path)


def test_every_committed_line_is_of_a_run_that_is_needed():
    """Otherwise a line of an old rate or a misspelt file would be left, and read by nobody."""
    paths = [*(RESULTS / "sweep").glob("*.jsonl")]
    assert len(paths) > 30
    for path in paths:
        task = find_task(path.stem)
        results = TaskResults(task, RESULTS / "sweep")
        needed = {
            results.run(arm, rate(number), seed)
            for arm in task.arms
            for number in results.numbers(arm)
            for seed in task.seeds
        }
        if task.controls and all(results.store.get(one) for one in needed):
            needed |= {
                results.run(arm, rate(number), seed)
                for arm in ("none", "gc", *CONTROLS)
                for number in results.control_numbers()
                for seed in task.seeds
            }
        assert set(results.store) <= needed, path.name


def test_the_nearest_task_is_named():
    with pytest.raises(SettingError, match=r"no task is called 'mlp-leter'.*mlp-letter"):
        find_task("mlp-leter")


def test_the_tasks_are_those_of_the_plan():
    counts: dict[Any, int] = {"e1": 39, "e2": 32, "e3": 2, "e4": 2, "e5": 4}
    assert {experiment: len(tasks_of(experiment)) for experiment in counts} == counts
    for task in tasks_of("e1"):
        # Six half-decades span two and a half decades.
        assert len(task.grid) == 6
    for task in TASKS.values():
        assert (task.epochs is None) != (task.steps is None)
    both = [task.name for task in TASKS.values() if "gc_update" in task.arms]
    assert len(both) == 8


def test_an_experiment_without_controls_ends_with_its_grid(tmp_path, monkeypatch):
    task = dataclasses.replace(TASK, controls=False, arms=("none", "gc", "gc_update"))
    made = []

    def train(point, splits, seeds):
        made.append((point.arm, point.rate, tuple(seeds)))
        return [made_up(point, seed, 0.1) for seed in seeds]

    monkeypatch.setattr(training, "train_point", train)
    make_runs([task], tmp_path, None, lambda text: None)
    assert [rates_of(made, arm) for arm in task.arms] == [GRID] * 3
    assert len(made) == 18
    assert TaskResults(task, tmp_path).complete


def fill(task, folder, bests):
    """Writes all missing results of a task, each arm best at its own rate."""
    results = TaskResults(task, folder)
    while points := results.missing_points():
        for seed in results.missing_seeds(points[0]):
            record = made_up(points[0], seed, bests[points[0].arm])
            results.store.add(results.run(points[0].arm, points[0].rate, seed), record)
    return results


def test_a_net_at_full_size_takes_each_arms_two_rates_from_another_task(tmp_path):
    task = TASKS["resnet20-fashion10000-batch"]
    source = dataclasses.replace(TASKS["resnet8-fashion1000-batch"], controls=False)
    waiting = TaskResults(task, tmp_path)
    assert waiting.waits_for == source.name
    assert waiting.missing_points() == []
    assert not waiting.complete
    shown = []
    make_runs([task], tmp_path, None, shown.append)
    assert shown[0] == f"{task.name} waits for {source.name}, whose results decide its rates"

    bests = {"none": 0.1, "gc": 1.0, **dict.fromkeys(CONTROLS, 0.1)}
    fill(TASKS[source.name], tmp_path, bests)
    results = fill(task, tmp_path, bests)
    assert results.complete
    # From 0.1 it is a factor of 3 to 0.3 and of 3.3 to 0.03, and the other way round from 1.
    rates = {arm: {run.learning_rate for run in results.store if run.arm == arm} for arm in bests}
    assert rates["none"] == {0.1, 0.3}
    assert rates["gc"] == {1.0, 3.0}
    assert len(results.store) == 2 * 2 * 4
    np.testing.assert_array_equal(tune(results, "gc").rates, [1.0] * 4)
