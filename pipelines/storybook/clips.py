"""Clips as data: a scene whose objects move, a camera that pans or zooms, and a caption that says so.

A clip is a function of time: t = 0 is its first frame, t = 1 its last, so that the same clip can be drawn
with 8 frames or more. Lengths are scene units (`scene.py`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from pipelines.storybook.captions import Caption, Mention, is_group, short_caption
from pipelines.storybook.scene import (
    AIRBORNE,
    EXTENTS,
    Box,
    Scene,
    SceneMix,
    SceneObject,
    has_held_out,
    sample_scene,
)
from pipelines.storybook.vocabulary import PLACE_PHRASES

MOTIONS = ("still", "drift", "fall", "bounce", "turn", "grow")
CAMERAS = ("still", "pan", "zoom")
OPPOSITES = {"left": "right", "right": "left", "up": "down", "down": "up", "in": "away", "away": "in"}
STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
MARGIN = 0.015  # objects keep this far from the edge of the picture
# a film of four clips shows 2.7 times the way of one: at this pace most objects can go on through it
SLOW_WAYS = (0.07, 0.2)
WAYS = (0.35, 0.85)  # of the others, as shares of the room there is
CHECKED = tuple(index / 8 for index in range(9))  # moments at which a clip's layout is looked at


@dataclass(frozen=True)
class Motion:
    """What one object does.

    Attributes:
        kind: one of `MOTIONS`.
        direction: of a drift ("left", "right", "up", "down") or turn ("left": against the clock, "right").
        amount: length of the way (drift, fall), height of the hops (bounce), angle in radians (turn), or
            factor of growth (grow).
    """

    kind: str = "still"
    direction: str = ""
    amount: float = 0.0


@dataclass(frozen=True)
class Camera:
    """How the picture's frame moves over the scene.

    Attributes:
        kind: one of `CAMERAS`.
        direction: "left" or "right" of a pan, "in" or "away" of a zoom.
        first, last: frame at t = 0 and t = 1: (left, top, share of the scene's width that is seen).
    """

    kind: str = "still"
    direction: str = ""
    first: tuple[float, float, float] = (0.0, 0.0, 1.0)
    last: tuple[float, float, float] = (0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Clip:
    """A scene as it stands at t = 0, one motion for each of its objects, and the camera."""

    scene: Scene
    motions: tuple[Motion, ...]
    camera: Camera = Camera()

    def at(self, t: float) -> tuple[Scene, tuple[float, ...]]:
        """The scene at a moment, and by how many radians each object is turned (against the clock)."""
        moved = [
            _moved(item, motion, t) for item, motion in zip(self.scene.objects, self.motions, strict=True)
        ]
        return replace(self.scene, objects=tuple(item for item, _ in moved)), tuple(
            angle for _, angle in moved
        )

    def view(self, t: float) -> tuple[float, float, float]:
        """The camera's frame at a moment, as in `Camera`."""
        first, last = self.camera.first, self.camera.last
        ease = t * t * (3 - 2 * t) if self.camera.kind == "zoom" else t
        left, top, share = (a + (b - a) * ease for a, b in zip(first, last, strict=True))
        return left, top, share

    def boxes(self, t: float) -> list[Box]:
        """Boxes of the objects in the picture, (left, top, right, bottom) relative to it (0 to 1)."""
        scene, _ = self.at(t)
        left, top, share = self.view(t)
        width, height = scene.width * share, scene.height * share
        return [
            (
                (box[0] - left) / width,
                (box[1] - top) / height,
                (box[2] - left) / width,
                (box[3] - top) / height,
            )
            for box in (item.box for item in scene.objects)
        ]


def _moved(item: SceneObject, motion: Motion, t: float) -> tuple[SceneObject, float]:
    if motion.kind == "drift":
        step = STEPS[motion.direction]
        way = motion.amount * t
        return replace(item, x=item.x + step[0] * way, y=item.y + step[1] * way), 0.0
    if motion.kind == "fall":
        return replace(item, y=item.y + motion.amount * t * t), 0.0
    if motion.kind == "bounce":  # two hops, each a parabola
        phase = 2 * t % 1.0
        return replace(item, y=item.y - motion.amount * 4 * phase * (1 - phase)), 0.0
    if motion.kind == "turn":
        return item, motion.amount * t * (1 if motion.direction == "left" else -1)
    if motion.kind == "grow":  # the foot stays where it is
        scale = item.scale * motion.amount**t
        rise = EXTENTS[item.kind][1] * (scale - item.scale)
        return replace(item, scale=scale, y=item.y - rise), 0.0
    return item, 0.0


@dataclass(frozen=True)
class ClipMix:
    """What a stream of clips is made of.

    Attributes:
        scenes: the scenes; one or two objects suit motion best.
        motions: weights of the kinds of motion of a clip's moving object, in the order of `MOTIONS`.
        cameras: weights of the kinds of camera, in the order of `CAMERAS`; it moves over still objects only.
        second_moves: share of further objects that move too.
        slow_drifts: share of drifts that go slowly, at most 0.2 in a clip, mostly with room ahead.
    """

    scenes: SceneMix = SceneMix(counts=(0.75, 0.22, 0.03), groups=0.0)
    motions: tuple[float, ...] = (0.08, 0.42, 0.12, 0.12, 0.1, 0.16)
    cameras: tuple[float, ...] = (0.82, 0.09, 0.09)
    second_moves: float = 0.25
    slow_drifts: float = 0.5


def sample_clip(rng: Random, mix: ClipMix | None = None) -> Clip:
    """Draw a clip whose objects stay inside the picture and apart from each other."""
    mix = mix or ClipMix()
    while True:
        scene = sample_scene(rng, mix.scenes)
        kind = rng.choices(CAMERAS, mix.cameras)[0]
        for _ in range(12):
            if kind != "still":
                clip = Clip(scene, (Motion(),) * len(scene.objects), _sample_camera(rng, scene, kind))
            else:
                clip = _sample_motions(rng, scene, mix)
            if clip_fits(clip) and _keeps_split(clip, mix.scenes.held_out):
                return clip


def _keeps_split(clip: Clip, held_out: bool) -> bool:
    """Whether a clip is of one side of the held-out split: objects that move come into new relations."""
    if held_out:
        return has_held_out(clip.scene)
    return not any(has_held_out(clip.at(t)[0]) for t in CHECKED)


def _sample_motions(rng: Random, scene: Scene, mix: ClipMix) -> Clip:
    lead = rng.randrange(len(scene.objects))
    objects, motions = [], []
    for index, item in enumerate(scene.objects):
        moves = index == lead or rng.random() < mix.second_moves
        kind = rng.choices(MOTIONS, mix.motions)[0] if moves else "still"
        item, motion = _sample_motion(rng, scene, item, kind, mix.slow_drifts)
        objects.append(item)
        motions.append(motion)
    return Clip(replace(scene, objects=tuple(objects)), tuple(motions))


def _sample_motion(
    rng: Random, scene: Scene, item: SceneObject, kind: str, slow_drifts: float
) -> tuple[SceneObject, Motion]:
    """A motion, and the object at the place where it begins."""
    half_width, half_height = (extent * item.scale + MARGIN for extent in EXTENTS[item.kind])
    if kind == "drift":
        sideways = item.kind not in AIRBORNE or rng.random() < 0.7
        direction = rng.choice(("left", "right") if sideways else ("up", "down"))
        room = scene.width - 2 * half_width if sideways else scene.height - 2 * half_height
        is_slow = rng.random() < slow_drifts
        way = min(rng.uniform(*SLOW_WAYS), WAYS[1] * room) if is_slow else rng.uniform(*WAYS) * room
        begin = rng.uniform(0, room - way)
        if is_slow:
            begin = min(begin, rng.uniform(0, room - way))
        if direction in ("left", "up"):
            begin = room - begin
        if sideways:
            return replace(item, x=half_width + begin), Motion("drift", direction, way)
        return replace(item, y=half_height + begin), Motion("drift", direction, way)
    if kind == "fall":
        ground = rng.uniform(scene.horizon + 0.1, 0.96) * scene.height - half_height
        top = half_height + rng.uniform(0.0, 0.08)
        return replace(item, y=top), Motion("fall", "down", max(ground - top, 0.1))
    if kind == "bounce":
        room = scene.height - 2 * half_height
        height = min(rng.uniform(0.14, 0.34), room)
        foot = max(item.y, half_height + height)
        return replace(item, y=foot), Motion("bounce", "", height)
    if kind == "turn":
        return item, Motion("turn", rng.choice(("left", "right")), rng.uniform(0.5, 1.2))
    if kind == "grow":
        factor = rng.uniform(1.35, 1.9)
        small = item.scale / factor
        foot = item.y + EXTENTS[item.kind][1] * (item.scale - small)
        # no size word fits something that grows
        return replace(item, size="medium", scale=small, y=foot), Motion("grow", "", factor)
    return item, Motion()


def _sample_camera(rng: Random, scene: Scene, kind: str) -> Camera:
    share = rng.uniform(0.6, 0.78)
    if kind == "pan":
        direction = rng.choice(("left", "right"))
        top = rng.uniform(0, 1 - share) * scene.height
        ends = ((0.0, top, share), ((1 - share) * scene.width, top, share))
        return Camera("pan", direction, *(ends if direction == "right" else ends[::-1]))
    direction = rng.choice(("in", "away"))
    item = rng.choice(scene.objects)
    left = min(max(item.x - share * scene.width / 2, 0.0), (1 - share) * scene.width)
    top = min(max(item.y - share * scene.height / 2, 0.0), (1 - share) * scene.height)
    ends = ((0.0, 0.0, 1.0), (left, top, share))
    return Camera("zoom", direction, *(ends if direction == "in" else ends[::-1]))


def backwards(clip: Clip) -> Clip | None:
    """A clip as its caption tells it when it is played from its end; None for falls and growth, whose ways
    back have no words. (Turned objects begin upright here; in the played frames they end so.)"""
    if any(motion.kind in ("fall", "grow") for motion in clip.motions):
        return None
    motions = (replace(motion, direction=OPPOSITES.get(motion.direction, "")) for motion in clip.motions)
    camera = clip.camera
    direction = OPPOSITES.get(camera.direction, "")
    return Clip(clip.at(1.0)[0], tuple(motions), Camera(camera.kind, direction, camera.last, camera.first))


def clip_fits(clip: Clip) -> bool:
    """Whether all objects stay inside the picture and none covers much of another, at every moment."""
    for t in CHECKED:
        boxes = clip.boxes(t)
        if any(min(box) < 0 or max(box) > 1 for box in boxes) or _meet(boxes):
            return False
    pairs = zip(clip.scene.objects, clip.motions, strict=True)
    # corners of a turned box reach further than its sides
    return all(motion.kind != "turn" or _room(clip.scene, item) for item, motion in pairs)


def _room(scene: Scene, item: SceneObject) -> bool:
    radius = math.hypot(*EXTENTS[item.kind]) * item.scale
    return radius < item.x < scene.width - radius and radius < item.y < scene.height - radius


def _meet(boxes: Sequence[Box]) -> bool:
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
            if width > 0 and height > 0 and width * height > 0.1 * smaller:
                return True
    return False


_VERBS = {
    "still": ("stays", "stands still"),
    "drift": ("moves", "drifts"),
    "fall": ("falls", "falls down"),
    "bounce": ("bounces", "bounces up and down"),
    "turn": ("turns",),
    "grow": ("grows",),
}


def motion_phrase(motion: Motion, rng: Random) -> str:
    """What an object does, for instance "moves to the left"; a slow drift is always called so."""
    verb = rng.choice(_VERBS[motion.kind][: 1 if motion.kind == "still" else None])
    if motion.kind == "turn":
        return f"{verb} to the {motion.direction}" if rng.random() < 0.7 else verb
    if motion.kind == "drift":
        slowly = " slowly" if motion.amount <= SLOW_WAYS[1] else ""
        where = f"to the {motion.direction}" if motion.direction in ("left", "right") else motion.direction
        return f"{verb}{slowly} {where}"
    return verb


def camera_phrase(camera: Camera) -> str:
    """What the camera does, for instance "the camera zooms in"; empty when it stands still."""
    if camera.kind == "pan":
        return f"the camera pans to the {camera.direction}"
    return f"the camera zooms {camera.direction}" if camera.kind == "zoom" else ""


def clip_caption(clip: Clip, rng: Random) -> Caption:
    """Objects, place and who moves where, in one sentence or several."""
    moving = [i for i, motion in enumerate(clip.motions) if motion.kind != "still"]
    camera = camera_phrase(clip.camera)
    if len(clip.scene.objects) == 1 and rng.random() < 0.6:
        return _one_sentence(clip, rng, camera)
    opening = short_caption(clip.scene, rng)
    text, mentions = opening.text, list(opening.mentions)
    told = moving or ([0] if not camera and rng.random() < 0.4 else [])
    for index in told:
        if is_group(clip.scene):
            break
        item = clip.scene.objects[index]
        text += f". The {item.colour} "
        mentions.append(Mention(len(text), len(text) + len(item.kind), index))
        text += f"{item.kind} {motion_phrase(clip.motions[index], rng)}"
    if camera:
        text += f". T{camera[1:]}"
    return Caption(text, tuple(mentions))


def _one_sentence(clip: Clip, rng: Random, camera: str) -> Caption:
    item, motion = clip.scene.objects[0], clip.motions[0]
    words = [item.colour]
    if rng.random() < 0.75:
        words = [word for word in (item.size, item.colour, item.pattern) if word not in ("medium", "plain")]
    article = "an" if words[0][0] in "aeiou" else "a"
    start = f"{article} {' '.join(words)} "
    text = start + item.kind
    if motion.kind != "still" or (not camera and rng.random() < 0.4):
        text += f" {motion_phrase(motion, rng)}"
    if rng.random() < 0.93:
        text += f" {PLACE_PHRASES[clip.scene.place]}"
    if camera:
        text += f", {camera}" if rng.random() < 0.5 else f". T{camera[1:]}"
    return Caption(text, (Mention(len(start), len(start) + len(item.kind), 0),))
