"""Drawing scenes at any size, whole or cropped."""

import math

import numpy as np
from numpy.typing import NDArray

from pipelines.storybook.canvas import RGB, Canvas, Marks
from pipelines.storybook.draw_objects import draw_object
from pipelines.storybook.draw_places import background, draw_place
from pipelines.storybook.scene import Scene


def draw_scene(
    scene: Scene,
    width: int,
    height: int,
    crop: tuple[int, int, int, int] | None = None,
    marks: Marks = Marks(),  # noqa: B008  (frozen)
) -> NDArray[np.uint8]:
    """Draw a scene, or one crop of it, with anti-aliasing.

    Args:
        scene: what to draw; its aspect should be `width / height`.
        width, height: size of the full drawing in pixels.
        crop: (left, top, width, height) in pixels of the full drawing. Default: all of it.
        marks: how grass, grain and the like come out.
    Returns:
        `[h, w, 3]` uint8. A crop holds the same shapes as that part of the full drawing.
    """
    left, top, crop_width, crop_height = crop or (0, 0, width, height)
    scale = math.sqrt(width * height)
    rows = (np.arange(top, top + crop_height) + 0.5) / scale
    canvas = Canvas(background(scene, rows, crop_width), scale, left, top, marks)
    draw_place(canvas, scene)
    below = background(scene, np.array([scene.height]), 1)[0, 0]
    ground: RGB = (int(below[0]), int(below[1]), int(below[2]))
    for item in scene.objects:
        draw_object(canvas, item, ground)
    return canvas.pixels()
