"""The folder of a run belongs to one run and to one process."""

import dataclasses
import json
import os

import pytest

from examples.classification.presets import PRESETS
from examples.training.errors import StoppedError
from examples.training.folder import open_folder

CONFIG = PRESETS["digits"][1]


def test_a_folder_of_other_settings_is_refused(tmp_path):
    with open_folder(tmp_path, CONFIG):
        pass
    other = dataclasses.replace(CONFIG, gc="conv", epochs=9)
    with pytest.raises(StoppedError) as stopped, open_folder(tmp_path, other):
        pass
    assert "epochs was 15 and is 9, gc was 'conv+fc' and is 'conv'" in str(stopped.value)
    assert "Pass another --out" in str(stopped.value)


def test_a_folder_made_before_a_setting_existed_is_continued(tmp_path):
    with open_folder(tmp_path, CONFIG):
        pass
    old = json.loads((tmp_path / "config.json").read_text())
    del old["clip_norm"]
    (tmp_path / "config.json").write_text(json.dumps(old))
    with open_folder(tmp_path, CONFIG):
        pass
    with pytest.raises(StoppedError, match="clip_norm was None and is 1"):
        open_folder(tmp_path, dataclasses.replace(CONFIG, clip_norm=1.0)).__enter__()


def test_a_second_process_is_kept_out_of_a_folder(tmp_path):
    with (
        open_folder(tmp_path, CONFIG),
        pytest.raises(StoppedError, match="another process is writing this run"),
        open_folder(tmp_path, CONFIG),
    ):
        pass
    with open_folder(tmp_path, CONFIG):
        pass


def test_a_folder_without_settings_is_left_alone(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("mine")
    with pytest.raises(StoppedError, match=r"has no config\.json: pass another --out"):
        open_folder(tmp_path, CONFIG).__enter__()
    assert (tmp_path / "metrics.jsonl").read_text() == "mine"


@pytest.mark.parametrize("text", ["[]", "null", "{", "\x00"])
def test_settings_that_cannot_be_read_name_the_file(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(StoppedError, match=r"config\.json cannot be read: .*put the file back"):
        open_folder(tmp_path, CONFIG).__enter__()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoppedError, match=r"file/run: no run can be kept here"):
        open_folder(tmp_path / "file/run", CONFIG).__enter__()


def test_a_pipe_in_place_of_the_settings_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(StoppedError, match=r"config\.json cannot be read: it is not a file"):
        open_folder(tmp_path, CONFIG).__enter__()
