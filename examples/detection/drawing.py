"""Drawing: a picture with the boxes, labels, scores and masks of its objects."""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_MASK_OPACITY = 0.45


def draw_objects(
    picture: np.ndarray,
    boxes: np.ndarray,
    names: Sequence[str],
    scores: np.ndarray,
    masks: Sequence[np.ndarray] | np.ndarray | None = None,
) -> Image.Image:
    """Draws objects on a picture, the best last, so that nothing covers it.

    Args:
      picture: (h, w, 3) uint8.
      boxes: (N, 4) in pixels of the picture.
      names: the name of each object's class. Objects of one class have one colour.
      scores: (N,) from 0 to 1, best first.
      masks: for each object (h, w) bool, if there are masks.
    """
    colours = {name: _choose_colour(i) for i, name in enumerate(sorted(set(names)))}
    order = range(len(names))[::-1]
    if masks is not None:
        picture = picture.astype(np.float32)
        for i in order:
            inside = picture[masks[i]]
            picture[masks[i]] = inside + _MASK_OPACITY * (colours[names[i]] - inside)
    image = Image.fromarray(picture.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    thickness = max(1, round(max(image.size) / 400))
    font = ImageFont.load_default(max(10, round(max(image.size) / 60)))
    for i in order:
        colour = tuple(colours[names[i]].tolist())
        x1, y1, x2, y2 = boxes[i].tolist()
        draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=thickness)
        text = f"{names[i]} {scores[i]:.2f}"
        *_, bottom = draw.textbbox((0, 0), text, font=font)
        # Above the box, or inside it if there is no room above.
        anchor = (x1 + thickness, max(y1 - bottom - thickness, 0))
        draw.rectangle(draw.textbbox(anchor, text, font=font), fill=colour)
        draw.text(anchor, text, fill=(0, 0, 0), font=font)
    return image


def _choose_colour(i: int) -> np.ndarray:
    # Steps of the golden ratio keep the hues of the first few classes far apart.
    rgb = colorsys.hsv_to_rgb((0.1 + i * 0.618034) % 1, 0.65, 1.0)
    return np.array([round(255 * x) for x in rgb])
