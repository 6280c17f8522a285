"""Fixtures that the tests of detectors share."""

import pytest

from examples.detection.scenes import write_scenes


@pytest.fixture(scope="session")
def scenes_folder(tmp_path_factory):
    """Returns a folder of a few digits in scenes."""
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, train=30, validation=0, test=5)
    return folder
