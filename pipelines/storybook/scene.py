"""Scenes as data: what stands where. Drawing, captions and metrics all read the same `Scene`.

Lengths are in units of the square root of the picture's area, so that the same numbers give the same picture
at every size and a similar one at every aspect ratio: a scene of aspect a is `sqrt(a)` wide and `1 / sqrt(a)`
high.
"""

import hashlib
import math
from dataclasses import dataclass, replace
from random import Random

from pipelines.storybook.vocabulary import COLOURS, KINDS, PLACES

Box = tuple[float, float, float, float]

# half extents (x, y) of each kind at scale 1; the drawing code keeps inside them
EXTENTS: dict[str, tuple[float, float]] = {
    "apple": (0.84, 0.96), "ball": (0.9, 0.9), "bird": (1.0, 0.82), "boat": (1.0, 0.96), "book": (0.92, 0.82),
    "car": (1.1, 0.66), "cat": (0.8, 1.0), "chair": (0.66, 1.0), "cup": (0.9, 0.8), "fish": (1.1, 0.66),
    "flower": (0.7, 1.0), "house": (0.92, 1.0), "mushroom": (0.88, 0.9), "star": (0.96, 0.94),
    "tree": (0.8, 1.05), "umbrella": (0.96, 1.0),
}  # fmt: skip
SCALES = {"small": (0.085, 0.115), "medium": (0.15, 0.19), "large": (0.22, 0.28)}
AIRBORNE = frozenset({"bird", "star", "ball", "umbrella"})


@dataclass(frozen=True)
class SceneObject:
    """One object.

    Attributes:
        kind, colour, pattern, size: words of the vocabulary; size may also be "medium" (never in captions).
        x, y: centre in scene units from the top left corner.
        scale: half height of the drawing in scene units.
        flip: mirrored left to right.
        seed: chooses pose and proportions.
    """

    kind: str
    colour: str
    pattern: str
    size: str
    x: float
    y: float
    scale: float
    flip: bool = False
    seed: int = 0

    @property
    def box(self) -> Box:
        """(left, top, right, bottom) in scene units."""
        half_width, half_height = (extent * self.scale for extent in EXTENTS[self.kind])
        return (self.x - half_width, self.y - half_height, self.x + half_width, self.y + half_height)


@dataclass(frozen=True)
class Scene:
    """A place and its objects, in drawing order (far to near)."""

    place: str
    objects: tuple[SceneObject, ...]
    aspect: float = 1.0
    horizon: float = 0.55  # share of the height at which ground begins
    seed: int = 0

    @property
    def width(self) -> float:
        return math.sqrt(self.aspect)

    @property
    def height(self) -> float:
        return 1.0 / math.sqrt(self.aspect)


@dataclass(frozen=True)
class SceneMix:
    """What a stream of scenes is made of.

    Attributes:
        counts: weights of scenes with one, two and three objects.
        groups: share of several-object scenes that show one kind and colour several times ("two red balls").
        related: share of two-object scenes laid out with a clear relation.
        kinds: kinds to draw from.
        patterned: share of objects that are striped or dotted.
        sized: share of objects that are small or large instead of medium.
        aspects: aspect ratios (width over height) to draw from.
        held_out: False: never a held-out combination (training); True: only scenes with one.
    """

    counts: tuple[float, float, float] = (0.5, 0.35, 0.15)
    groups: float = 0.15
    related: float = 0.6
    kinds: tuple[str, ...] = KINDS
    patterned: float = 0.3
    sized: float = 0.5
    aspects: tuple[float, ...] = (1.0,)
    held_out: bool = False


def _hash_tenth(text: str) -> bool:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 10 == 0


def is_held_out_pair(colour: str, kind: str) -> bool:
    """Whether colour x kind belongs to the tenth that training never draws."""
    return _hash_tenth(f"{colour} {kind}")


def is_held_out_triple(kind: str, relation: str, other: str) -> bool:
    """Whether (kind, relation, kind) belongs to the held-out tenth; "a right of b" is "b left of a"."""
    if relation in ("right of", "below"):
        kind, other = other, kind
        relation = {"right of": "left of", "below": "above"}[relation]
    return _hash_tenth(f"{kind} {relation} {other}")


def relation_between(first: SceneObject, second: SceneObject) -> str | None:
    """The strict relation of `first` to `second`, or None when neither axis separates them clearly.

    The centres must lie further apart on that axis than on the other, and by over 60 % of the mean extent.
    """
    delta_x, delta_y = second.x - first.x, second.y - first.y
    (width_a, height_a), (width_b, height_b) = EXTENTS[first.kind], EXTENTS[second.kind]
    if abs(delta_x) > abs(delta_y):
        margin = 0.6 * (width_a * first.scale + width_b * second.scale)
        return None if abs(delta_x) < margin else ("left of" if delta_x > 0 else "right of")
    margin = 0.6 * (height_a * first.scale + height_b * second.scale)
    return None if abs(delta_y) < margin else ("above" if delta_y > 0 else "below")


def has_held_out(scene: Scene) -> bool:
    """Whether a scene contains a held-out pair or triple."""
    if any(is_held_out_pair(item.colour, item.kind) for item in scene.objects):
        return True
    for i, first in enumerate(scene.objects):
        for second in scene.objects[i + 1 :]:
            relation = relation_between(first, second)
            if relation and is_held_out_triple(first.kind, relation, second.kind):
                return True
    return False


def sample_scene(rng: Random, mix: SceneMix | None = None) -> Scene:
    """Draw a scene from `mix`; scenes of the wrong side of the held-out split are drawn again."""
    mix = mix or SceneMix()
    while True:
        scene = _sample_any(rng, mix)
        if has_held_out(scene) == mix.held_out:
            return scene


def _sample_any(rng: Random, mix: SceneMix) -> Scene:
    aspect = rng.choice(mix.aspects)
    scene = Scene(rng.choice(PLACES), (), aspect, rng.uniform(0.45, 0.62), rng.getrandbits(31))
    count = rng.choices((1, 2, 3), mix.counts)[0]
    grouped = count > 1 and rng.random() < mix.groups
    related = count == 2 and not grouped and rng.random() < mix.related
    for _ in range(40):
        objects = _sample_objects(rng, mix, scene, count, grouped)
        if related:
            objects = _lay_out_pair(rng, scene, objects)
        if not _crowded(objects):
            break
    else:
        objects = objects[:1]
    return replace(scene, objects=tuple(sorted(objects, key=lambda item: item.box[3])))


def _sample_objects(rng: Random, mix: SceneMix, scene: Scene, count: int, grouped: bool) -> list[SceneObject]:
    objects: list[SceneObject] = []
    kinds = [rng.choice(mix.kinds)] * count if grouped else rng.sample(mix.kinds, count)
    colour = rng.choice(COLOURS)
    pattern = rng.choice(("striped", "dotted")) if rng.random() < mix.patterned else "plain"
    for index, kind in enumerate(kinds):
        if not grouped and index:
            colour = rng.choice(COLOURS)
            pattern = rng.choice(("striped", "dotted")) if rng.random() < mix.patterned else "plain"
        size = rng.choice(("small", "large")) if rng.random() < mix.sized else "medium"
        if grouped or (count == 3 and size == "large"):
            size = "medium"
        low, high = SCALES[size]
        scale = rng.uniform(low, high)
        x, y = _place(rng, scene, kind, scale)
        objects.append(
            SceneObject(kind, colour, pattern, size, x, y, scale, rng.random() < 0.5, rng.getrandbits(31))
        )
    return objects


def _place(rng: Random, scene: Scene, kind: str, scale: float) -> tuple[float, float]:
    half_width, half_height = (extent * scale + 0.02 for extent in EXTENTS[kind])
    x = rng.uniform(half_width, scene.width - half_width)
    ground = scene.horizon * scene.height
    if kind in AIRBORNE and rng.random() < 0.6:
        y = rng.uniform(half_height, max(half_height, ground))
    else:  # the foot stands on the ground
        y = rng.uniform(ground + 0.02, scene.height - 0.03) - half_height
    return x, min(max(y, half_height), scene.height - half_height)


def _lay_out_pair(rng: Random, scene: Scene, objects: list[SceneObject]) -> list[SceneObject]:
    """Move two objects so that they stand clearly beside or above each other."""
    first, second = objects
    if rng.random() < 0.5:  # side by side
        left = rng.uniform(0.16, 0.34) * scene.width
        right = rng.uniform(0.66, 0.84) * scene.width
        y = rng.uniform(0.4, 0.72) * scene.height
        first = replace(first, x=left, y=y + rng.uniform(-0.06, 0.06))
        second = replace(second, x=right, y=y + rng.uniform(-0.06, 0.06))
    else:
        top = rng.uniform(0.17, 0.3) * scene.height
        bottom = rng.uniform(0.7, 0.82) * scene.height
        x = rng.uniform(0.3, 0.7) * scene.width
        first = replace(first, y=top, x=x + rng.uniform(-0.08, 0.08))
        second = replace(second, y=bottom, x=x + rng.uniform(-0.08, 0.08))
    pair = [first, second] if rng.random() < 0.5 else [replace(second, x=first.x, y=first.y),
                                                        replace(first, x=second.x, y=second.y)]  # fmt: skip
    return [_inside(scene, item) for item in pair]


def _inside(scene: Scene, item: SceneObject) -> SceneObject:
    half_width, half_height = (extent * item.scale + 0.015 for extent in EXTENTS[item.kind])
    x = min(max(item.x, half_width), scene.width - half_width)
    y = min(max(item.y, half_height), scene.height - half_height)
    return replace(item, x=x, y=y)


def _crowded(objects: list[SceneObject]) -> bool:
    """Whether two boxes share more than a tenth of the smaller one."""
    for i, first in enumerate(objects):
        for second in objects[i + 1 :]:
            a, b = first.box, second.box
            width = min(a[2], b[2]) - max(a[0], b[0])
            height = min(a[3], b[3]) - max(a[1], b[1])
            if width > 0 and height > 0:
                smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
                if width * height > 0.1 * smaller:
                    return True
    return False
