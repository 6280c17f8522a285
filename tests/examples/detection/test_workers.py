"""Data workers make the same batches of scenes, and what is wrong with a file is one line."""

import json
import shutil
import subprocess

from tests.examples.detection import worker_program
from tests.examples.programs import ENVIRONMENT, PYTHON


def run(folder):
    """Runs the program with two workers."""
    return subprocess.run(
        [*PYTHON, "-m", worker_program.__name__, str(folder), "2"],
        env=ENVIRONMENT,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_workers_change_no_batch(scenes_folder):
    done = run(scenes_folder)
    assert done.returncode == 0, done.stderr
    shared, alone = json.loads(done.stdout), worker_program.digests(scenes_folder, 0)
    assert [len(set(batches)) for batches in alone.values()] == [16, 8]
    assert shared == alone


def test_a_broken_image_that_a_worker_meets_is_one_line(scenes_folder, tmp_path):
    shutil.copytree(scenes_folder, tmp_path / "scenes")
    broken = tmp_path / "scenes/train/000005.png"
    # The first and the last bytes are good, so reading the annotations does not find it.
    content = broken.read_bytes()
    broken.write_bytes(content[:500] + content[-12:])
    done = run(tmp_path / "scenes")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "000005" in line]
    assert line.startswith(f"stopped: {broken}: expected an image, but reading it failed: ")
