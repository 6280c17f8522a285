"""The tables say what the results say, and the picture shows every complete task."""

import dataclasses
import json
import re
import sys

import matplotlib.image
import numpy as np
import pytest
from scipy import stats

from examples.experiments.sweep import controls, law, report, sections
from examples.experiments.sweep.arms import ARMS, CONTROLS
from examples.experiments.sweep.figure import draw
from examples.experiments.sweep.findings import find_all
from examples.experiments.sweep.rates import rate
from examples.experiments.sweep.results import METRICS, TaskResults
from examples.experiments.sweep.share_figure import draw_shares
from examples.experiments.sweep.tasks import SEEDS, TASKS, tasks_of
from examples.experiments.sweep.training import MEASURES

# The change of the accuracy that GC makes in each of these tasks, in points.
GAINS = {
    "mlp-segment": 3.0,
    "mlp-segment-layer": 0.0,
    "resnet8-mnist300-batch": -3.0,
    "vit-mnist2500-layer-adamw": 0.2,
    "lm-pydoc-muon": 0.1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Writes the results of five tasks. They are best at the third rate of their grid."""
    folder = tmp_path_factory.mktemp("sweep")
    for place, (name, gain) in enumerate(GAINS.items()):
        task, lines = TASKS[name], []
        results = TaskResults(task, folder)
        random = np.random.default_rng(0)
        for arm in ARMS if "gc_update" in task.arms else ARMS[:-1]:
            for number in task.grid:
                distance = abs(number - task.grid[2])
                if arm in CONTROLS and number - task.grid[2] not in (0, 1):
                    continue
                for seed in SEEDS:
                    value = 80 - 5 * distance + gain * (arm == "gc") + random.normal(0, 0.2)
                    record = {
                        **dict.fromkeys(METRICS, 0.5),
                        "test_accuracy": value,
                        "validation_accuracy": 80 - 5 * distance,
                        "share_removed": 0.1 * place,
                        "guess_accuracy": 10.0,
                        "curve": np.linspace(2, 1, MEASURES).tolist(),
                        "collapsed": False,
                        "seconds": 1.0,
                    }
                    config = dataclasses.asdict(results.run(arm, rate(number), seed))
                    lines.append(json.dumps({"config": config, **record}) + "\n")
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def findings(folder):
    return find_all(folder)


@pytest.fixture(scope="module")
def text(findings):
    """Returns the report of the five tasks."""
    return sections.write_report(findings)


def row_of(text, section, task):
    """Returns the cells of a task's row in a section of the report."""
    table = text.partition(f"## {section}")[2].partition("\n## ")[0]
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {task} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_verdicts_are_those_of_the_effects_that_were_put_in(findings):
    verdicts = {finding.effects.task.name: finding.verdict for finding in findings}
    assert verdicts["mlp-segment"] == "helps"
    assert verdicts["mlp-segment-layer"] == "no difference"
    assert verdicts["resnet8-mnist300-batch"] == "hurts"


def test_the_primary_table_agrees_with_scipy(folder, text):
    lines = (folder / "mlp-segment.jsonl").read_text().splitlines()
    errors = {"none": {}, "gc": {}}
    for line in map(json.loads, lines):
        config = line["config"]
        if config["arm"] in errors and config["learning_rate"] == 0.1:
            errors[config["arm"]][config["seed"]] = 100 - line["test_accuracy"]
    difference = np.asarray([errors["gc"][seed] - errors["none"][seed] for seed in SEEDS])
    half = stats.sem(difference) * stats.t.ppf(0.975, len(SEEDS) - 1)
    cells = row_of(text, "Primary outcome", "mlp-segment")
    assert cells[3] == f"{difference.mean():+.2f} ± {half:.2f}"
    assert cells[8] == "helps"
    assert cells[10] == "0.1 / 0.1"


def test_the_law_is_the_rank_correlation_over_the_tasks(findings, text):
    shares = np.arange(len(GAINS))
    means = [finding.effects.difference.mean for finding in findings]
    expected = stats.spearmanr(shares, means)[0]
    assert f"With the difference at the chosen rates: {expected:+.2f} (" in text
    # The largest stable rate is the same for both arms in all of these tasks.
    assert "With the ratio of the largest stable learning rates: too few tasks differ." in text


def test_the_counts_of_the_controls_are_those_of_paired_tests(folder, findings, text):
    def errors(name, arm):
        lines = map(json.loads, (folder / f"{name}.jsonl").read_text().splitlines())
        best = rate(TASKS[name].grid[2])
        return [
            100 - line["test_accuracy"]
            for line in lines
            if line["config"]["arm"] == arm and line["config"]["learning_rate"] == best
        ]

    pairs = [(errors(name, "gc"), errors(name, "scaled_length")) for name in GAINS]
    tests = sorted((stats.ttest_rel(*pair).pvalue, np.mean(np.subtract(*pair))) for pair in pairs)
    below = above = 0
    # Holm: the smallest is compared with a fifth of 0.05, the next with a fourth, and so on.
    for place, (p_value, mean) in enumerate(tests):
        if p_value >= 0.05 / (len(tests) - place):
            break
        below, above = below + (mean < 0), above + (mean > 0)
    assert (below, above) == (1, 1)
    assert re.search(
        r"\| the best learning rate without GC \| scaled length \| \d \| \d \| 1 \| 1 \|", text
    )
    counts = re.findall(r"\d, (\d) and \d", controls.summarize_controls(findings))
    assert counts[:2] == ["1", "1"]


def test_the_mean_over_data_sets_counts_each_set_once(findings, text):
    means = {one.effects.task.name: one.effects.difference.mean for one in findings}
    segment = (means["mlp-segment"] + means["mlp-segment-layer"]) / 2
    mnist = (means["resnet8-mnist300-batch"] + means["vit-mnist2500-layer-adamw"]) / 2
    expected = np.mean([segment, mnist, means["lm-pydoc-muon"]])
    assert f"The mean over the means of the 3 data sets is {expected:+.2f} ± " in text


def test_a_sweep_with_missing_tasks_says_so(findings, text):
    assert f"5 of {len(tasks_of('e1'))} tasks are complete" in text
    assert "verdicts can change until all are complete" in text
    assert sections.write_report([]).count("\n## ") == 0
    # Two tasks have tables, and no mean over tasks.
    few = sections.write_report(findings[:2])
    assert "## Primary outcome" in few
    assert "## Over the tasks" not in few


def test_a_task_with_a_missing_run_is_left_out(folder, findings, tmp_path):
    lines = (folder / "mlp-segment.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "mlp-segment.jsonl").write_text("".join(lines[:-1]))
    assert find_all(tmp_path) == []
    (tmp_path / "mlp-segment.jsonl").write_text("".join(lines))
    (found,) = find_all(tmp_path)
    assert found.effects.difference == findings[0].effects.difference


def test_the_picture_has_a_line_and_a_row_for_each_task(findings):
    left, right = draw(findings).axes
    drawn = [line for line in left.get_lines() if len(np.asarray(line.get_xdata())) == 6]
    # The mean over the tasks is one more.
    assert len(drawn) == len(findings) + 1
    labels = [label.get_text().split()[0] for label in right.get_yticklabels()]
    means = {one.effects.task.name: one.effects.difference.mean for one in findings}
    assert labels == sorted(means, key=lambda name: means[name], reverse=True)
    stars = {
        label.get_text().split()[0] for label in right.get_yticklabels() if "*" in label.get_text()
    }
    assert stars == {one.effects.task.name for one in findings if one.verdict in ("helps", "hurts")}


def test_one_task_can_be_drawn(findings):
    assert len(draw(findings[:1]).axes) == len(draw_shares(findings[:1]).axes) == 2


def test_the_picture_of_shares_has_a_dot_for_each_task_and_the_correlation(findings):
    left, right = draw_shares(findings).axes
    drawn = {
        (x, y)
        for line in left.get_lines()
        if line.get_marker() == "o"
        for x, y in zip(*map(np.ravel, line.get_data()), strict=True)
    }
    effects = [finding.effects for finding in findings]
    assert drawn == {(100 * one.share_removed, one.difference.mean) for one in effects}
    shares = np.arange(len(GAINS))
    expected = stats.spearmanr(shares, [one.difference.mean for one in effects])[0]
    assert left.get_title().startswith(f"rank correlation {expected:+.2f} (")
    # The largest stable rate is the same everywhere, so there is no correlation.
    assert right.get_title() == ""


def test_the_program_writes_the_tables_and_the_picture(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["report", "--results", str(folder)])
    report.main()
    text = capsys.readouterr().out
    assert (folder / "report.md").read_text() == text
    assert matplotlib.image.imread(folder / "sweep.png").shape[0] > 400


def test_a_bad_line_stops_the_table(folder, tmp_path, monkeypatch):
    line = (folder / "mlp-segment.jsonl").read_text().splitlines()[0]
    record = json.loads(line)
    del record["test_accuracy"]
    (tmp_path / "mlp-segment.jsonl").write_text(json.dumps(record) + "\n")
    monkeypatch.setattr(sys, "argv", ["report", "--results", str(tmp_path)])
    with pytest.raises(
        SystemExit, match=r"mlp-segment\.jsonl, line 1: .*'test_accuracy' is missing"
    ):
        report.main()
    assert not (tmp_path / "report.md").exists()


def test_the_committed_tables_are_those_of_the_committed_results():
    committed = report.Arguments().results
    tables = sections.write_all(committed, find_all(committed))
    assert (committed / "report.md").read_text() == tables


def test_the_committed_results_are_of_clean_commits():
    lines = [
        line
        for path in report.Arguments().results.glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert len(lines) > 1000
    for line in lines:
        assert re.fullmatch("[0-9a-f]{40}", json.loads(line)["commit"])


def test_the_summary_has_a_row_for_each_kind_of_net(findings):
    text = sections.write_summary(findings)
    assert text.startswith(f"5 of {len(tasks_of('e1'))} tasks are complete")
    assert "- Verdicts: helps: " in text
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == len(GAINS)
    assert [row.split(" |")[0] for row in rows[-2:]] == [
        "| transformer, AdamW",
        "| transformer, Muon",
    ]
    (batch,) = [row for row in rows if row.startswith("| ResNet-8, batch norm |")]
    mean = next(
        one.effects.difference.mean
        for one in findings
        if one.effects.task.name == "resnet8-mnist300-batch"
    )
    assert f"| 1 | {mean:+.2f} ({mean:+.2f} to {mean:+.2f}) | 0 | 1 | 0 | 0 |" in batch


@pytest.mark.parametrize(
    ("correlations", "words"),
    [
        ((0.0, 0.0), "does not say whether GC lowers its error"),
        ((-0.5, 0.0), "the lower its error is with GC"),
        ((0.5, 0.0), "the higher its error is with GC"),
        ((0.0, 0.6), "the larger the largest stable learning rate with GC tends to be"),
        ((0.0, -0.6), "the smaller the largest stable learning rate with GC tends to be"),
    ],
)
def test_the_advice_for_a_new_net_follows_from_the_correlations(correlations, words):
    advice = law._advise(*correlations)
    assert words in advice
    assert ("does not say" in advice) == (correlations[0] == 0)


def test_the_summary_is_written_between_the_comments_of_a_page(
    folder, findings, tmp_path, monkeypatch
):
    page = tmp_path / "README.md"
    page.write_text("# Title\n\n<!-- sweep -->\nold\n<!-- end of sweep -->\n\nrest\n")
    monkeypatch.setattr(sys, "argv", ["report", "--results", str(folder), "--readme", str(page)])
    report.main()
    summary = sections.write_summary(findings)
    expected = f"# Title\n\n<!-- sweep -->\n{summary}\n<!-- end of sweep -->\n\nrest\n"
    assert page.read_text() == expected
    page.write_text("# Title\n")
    with pytest.raises(SystemExit, match=r"README\.md: it lacks the comments"):
        report.main()
    assert page.read_text() == "# Title\n"
