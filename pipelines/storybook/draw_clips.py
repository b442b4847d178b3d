"""Drawing clips: frames of a moving scene, and pseudo-video by zooming and panning over a still picture."""

import math
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.storybook.canvas import RGB, Canvas, Points
from pipelines.storybook.clips import Clip
from pipelines.storybook.draw_objects import draw_object
from pipelines.storybook.draw_places import background, draw_place


class _TurnedCanvas(Canvas):
    """The same pixels, but shapes are turned about a point: against the clock for positive angles."""

    def __init__(self, canvas: Canvas, centre: tuple[float, float], angle: float) -> None:
        vars(self).update(vars(canvas))
        self._centre = np.asarray(centre)
        cos, sin = math.cos(angle), math.sin(angle)
        self._matrix = np.array([[cos, -sin], [sin, cos]])  # rows are points, y looks down
        self._shadow_is_next = True

    def _turned(self, points: Points) -> Points:
        return (points - self._centre) @ self._matrix + self._centre

    def polygon(self, points: Points, colour: RGB, alpha: float = 1.0) -> None:
        # an object's first shape is its shadow on the ground, which doesn't turn
        points = points if self._shadow_is_next else self._turned(points)
        self._shadow_is_next = False
        super().polygon(points, colour, alpha)

    def line(
        self, points: Points, colour: RGB, width: float, alpha: float = 1.0, closed: bool = False
    ) -> None:
        super().line(self._turned(points), colour, width, alpha, closed)


def draw_clip_frame(clip: Clip, t: float, width: int, height: int) -> NDArray[np.uint8]:
    """`[height, width, 3]` uint8: the clip at moment t (0 to 1), seen through its camera."""
    scene, angles = clip.at(t)
    left, top, share = clip.view(t)
    scale = math.sqrt(width * height) / share
    rows = (np.arange(height) + 0.5) / scale + top
    canvas = Canvas(background(scene, rows, width), scale, left * scale, top * scale)
    draw_place(canvas, scene)
    below = background(scene, np.array([scene.height]), 1)[0, 0]
    ground: RGB = (int(below[0]), int(below[1]), int(below[2]))
    for item, angle in zip(scene.objects, angles, strict=True):
        draw_object(_TurnedCanvas(canvas, (item.x, item.y), angle) if angle else canvas, item, ground)
    return canvas.pixels()


def draw_clip(clip: Clip, num_frames: int, width: int, height: int) -> list[NDArray[np.uint8]]:
    """All frames of a clip, the first at t = 0 and the last at t = 1.

    Raises:
        ValueError: fewer than two frames.
    """
    if num_frames < 2:
        raise ValueError(f"a clip has at least 2 frames, got {num_frames}")
    return [draw_clip_frame(clip, index / (num_frames - 1), width, height) for index in range(num_frames)]


def pseudo_clip(
    picture: Image.Image, rng: Random, num_frames: int, width: int, height: int
) -> list[Image.Image]:
    """Frames that zoom and pan over a still picture (image data as video, arXiv 2309.03549).

    Two random crops of the wanted aspect, 0.7 to 1 times the largest possible; their corners move linearly or
    with ease from one to the other, and each frame is resampled from the whole picture.
    """
    largest = min(picture.width / width, picture.height / height)
    ends = []
    for _ in range(2):
        share = rng.uniform(0.7, 1.0) * largest
        left = rng.uniform(0, picture.width - share * width)
        top = rng.uniform(0, picture.height - share * height)
        ends.append(np.array([left, top, left + share * width, top + share * height]))
    is_eased = rng.random() < 0.5
    frames = []
    for index in range(num_frames):
        t = index / max(num_frames - 1, 1)
        t = t * t * (3 - 2 * t) if is_eased else t
        box = ends[0] + (ends[1] - ends[0]) * t
        left, right = (min(max(float(x), 0.0), picture.width) for x in box[::2])  # rounding stays inside
        top, bottom = (min(max(float(y), 0.0), picture.height) for y in box[1::2])
        corners = (left, top, right, bottom)
        frames.append(picture.resize((width, height), Image.Resampling.LANCZOS, box=corners))
    return frames
