"""The comparison of the trainer with a plain loop runs."""

import json

from examples.benchmarks import training_loop


def test_the_trainer_and_a_plain_loop_are_timed_in_turns(capsys):
    settings = training_loop.Settings(model="resnet8", images=96, batch_size=32, turns=2)
    training_loop.main(settings)
    seen = json.loads(capsys.readouterr().out)
    assert seen["trainer"] > 0
    assert seen["plain"] > 0
    assert 0 < seen["waiting_for_data"] < 1
    low, middle, high = seen["ratio_quartiles"]
    assert 0 < low <= middle <= high
