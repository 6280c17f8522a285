"""Killed at any point and started again, a run ends as if nothing had happened."""

from tests.examples.killing import kill_and_continue

STEPS = 100


def test_a_run_killed_six_times_ends_like_one_that_was_not(tmp_path):
    lines = kill_and_continue(
        tmp_path,
        "examples.train_classifier",
        ["digits", "--epochs", "4", "--width", "4"],
        kills=6,
        every=4,
        steps=10,
        imports=[
            "sklearn.datasets",
            "absl.logging",
            "examples.classification.task",
            "examples.training.curves",
            "examples.training.folder",
        ],
    )
    assert [line["step"] for line in lines if line["kind"] == "step"] == [*range(1, STEPS + 1)]
