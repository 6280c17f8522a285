"""Writes the files of a finished detection run: results in COCO's format, a table, and a picture."""

import csv
import io
import json
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from PIL import Image

from examples.datasets.coco import Coco
from examples.datasets.outlines import draw_mask
from examples.detection.drawing import draw_objects
from examples.detection.evaluation import Scores
from examples.detection.picture import save_picture
from examples.detection.task import Task
from examples.training.files import write_whole
from examples.training.steps import State

# The files that a finished run leaves.
_FILES = ("results.json", "classes.csv", "predictions.png")
# The images in the picture, and the least score of what is drawn.
_DRAWN = 4
_DRAWN_SCORE = 0.5


def write_scores(task: Task, state: State, folder: Path) -> None:
    """Writes the last evaluation: `results.json`, `classes.csv` and `predictions.png`.

    A run that was finished before and is only opened again has no evaluation. It is evaluated again
    if a file is missing, because a run can be stopped between its last checkpoint and its files.
    Only the first of several processes writes, and all of them must call this.

    Args:
      task: the run.
      state: its last state.
      folder: the folder of the run.
    """
    scores = task.scores()
    if scores is None:
        # All processes follow the first one, because they evaluate together.
        missing = not all((folder / name).exists() for name in _FILES)
        if not multihost_utils.broadcast_one_to_all(np.array(missing)):
            return
        task.job.evaluate(state)
        scores = task.scores()
        assert scores is not None
    if jax.process_index():
        return
    write_whole(folder / "results.json", json.dumps(scores.results))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["class", *(f"{kind}_AP" for kind in scores.classes)])
    for name in task.data.test.class_names:
        writer.writerow([name, *(f"{of[name]:.4f}" for of in scores.classes.values())])
    write_whole(folder / "classes.csv", table.getvalue())
    save_picture(
        draw_results(task.data.test, task.data.test_rows, scores), folder / "predictions.png"
    )


def draw_results(data: Coco, rows: np.ndarray, scores: Scores) -> Image.Image:
    """Draws the first images beside each other, with what was found in them."""
    drawn = []
    for row in rows[:_DRAWN]:
        image_id = int(data.image_ids[row])
        found = [
            entry
            for entry in scores.results
            if entry["image_id"] == image_id and entry["score"] > _DRAWN_SCORE
        ]
        found.sort(key=lambda entry: -entry["score"])
        size = (int(data.sizes[row, 0]), int(data.sizes[row, 1]))
        corners = np.array([entry["bbox"] for entry in found], np.float64).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        names = [data.class_names[data.category_ids.index(e["category_id"])] for e in found]
        masks = [draw_mask(e["segmentation"], size) for e in found if "segmentation" in e]
        picture = data.read_image(int(row))
        # Small images are enlarged, because names and scores take ten pixels at least.
        factor = max(1, 512 // max(size))
        drawn.append(
            draw_objects(
                picture.repeat(factor, 0).repeat(factor, 1),
                corners * factor,
                names,
                np.array([entry["score"] for entry in found]),
                np.stack(masks).repeat(factor, 1).repeat(factor, 2) if masks else None,
            )
        )
    canvas = Image.new("RGB", (sum(i.width for i in drawn), max(i.height for i in drawn)))
    left = 0
    for image in drawn:
        canvas.paste(image, (left, 0))
        left += image.width
    return canvas
