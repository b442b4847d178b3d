"""Recipes of `storybook-eyes` and `storybook-judge`, their measurement and their release.

`python -m pipelines.storybook.train eyes --state DIR` trains on drawings. This module's own command can also
mix in reconstructions of an autoencoder, and releases and measures what a run has reached:
`python -m pipelines.storybook.train_detector eyes --state DIR [--vae FOLDER] [--release FOLDER]`.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image, ImageDraw
from torch import nn

from pipelines.storybook.dataset import sample_rng, to_tensor
from pipelines.storybook.detector import (
    DenseOutput,
    Detections,
    Detector,
    StorybookEyes,
    StorybookJudge,
    box_overlap,
    detect,
)
from pipelines.storybook.detector_data import (
    ASPECTS,
    CANVASES,
    Drawing,
    DrawingPool,
    Framed,
    damage,
    frame,
    make_drawing,
)
from pipelines.storybook.scene import SceneMix, SceneObject
from pipelines.storybook.train_vae import reconstruct
from pipelines.storybook.verify import Share
from pipelines.storybook.vocabulary import COLOURS, KINDS, PATTERNS, PLACES
from pipelines.training.command import recipe_parser, run_recipe
from pipelines.training.group_norm import use_quick_group_norm
from pipelines.training.loop import LoopConfig, Task, runtime_device

CLASSES: dict[str, type[StorybookEyes] | type[StorybookJudge]] = {
    "eyes": StorybookEyes,
    "judge": StorybookJudge,
}
SEEDS = {"eyes": 21, "judge": 22}
EVALUATION_SEED = 900_101
ADAMW_NAMES = ("stem", "head.cells", "head.place", "position")


def eyes_recipe() -> LoopConfig:
    """About 20 minutes on one free core; on a GPU the time that the drawing takes."""
    return LoopConfig(
        samples=40_000, batch=((0, 16), (9_600, 32)), lr=1.5e-3, muon_lr=2e-3, warmup=100, decay_from=0.8,
        ema_decay=0.998, seed=SEEDS["eyes"], adamw_names=ADAMW_NAMES, evaluate_every_s=240,
    )  # fmt: skip


def judge_recipe() -> LoopConfig:
    """About 20 minutes on one free core; on a GPU the time that the drawing takes."""
    return LoopConfig(
        samples=52_000, batch=((0, 16), (9_600, 32)), lr=1.5e-3, muon_lr=2e-3, warmup=200, decay_from=0.6,
        ema_decay=0.998, seed=SEEDS["judge"], adamw_names=ADAMW_NAMES, evaluate_every_s=240,
    )  # fmt: skip


RECIPES = {"eyes": eyes_recipe, "judge": judge_recipe}


@dataclass(frozen=True)
class Targets:
    """What a detector should have said, cell by cell.

    Attributes:
        centre: `[B, h, w]` 1 at the cells of centres, falling off around them.
        watched: `[B, h, w]` 0 where an object is cut so much that either answer would be fair.
        weight: `[B, h, w]` how much a cell's answers about its object count.
        words: `[3, B, h, w]` kind, colour and pattern.
        sides: `[B, 4, h, w]` as in `DenseOutput`.
        place: `[B]`.
    """

    centre: torch.Tensor
    watched: torch.Tensor
    weight: torch.Tensor
    words: torch.Tensor
    sides: torch.Tensor
    place: torch.Tensor


def make_targets(framed: Sequence[Framed], drawings: Sequence[Drawing], stride: int) -> Targets:
    """Targets of a batch on one canvas; objects of which less than 45 % can be seen are left out."""
    height, width = (side // stride for side in framed[0].pixels.shape[:2])
    count = len(framed)
    centre, watched = np.zeros((count, height, width)), np.ones((count, height, width))
    words, sides = np.zeros((3, count, height, width), dtype=np.int64), np.zeros((count, 4, height, width))
    middle_y, middle_x = np.mgrid[:height, :width] + 0.5
    for index, (picture, drawing) in enumerate(zip(framed, drawings, strict=True)):
        for item, box, visible in zip(
            drawing.scene.objects, picture.boxes / stride, picture.visible, strict=True
        ):
            left, top, right, bottom = box
            if visible < 0.1:
                continue
            if visible < 0.45:
                watched[index][
                    (middle_x > left) & (middle_x < right) & (middle_y > top) & (middle_y < bottom)
                ] = 0
                continue
            x, y = (left + right) / 2, (top + bottom) / 2
            peak_x, peak_y = int(x), int(y)
            spread_x, spread_y = (max(0.55, 0.13 * extent) for extent in (right - left, bottom - top))
            bump = np.exp(-(((middle_x - x) / spread_x) ** 2 + ((middle_y - y) / spread_y) ** 2) / 2)
            bump[peak_y, peak_x] = 1.0
            own = bump > centre[index]
            centre[index][own] = bump[own]
            numbers = (KINDS.index(item.kind), COLOURS.index(item.colour), PATTERNS.index(item.pattern))
            words[:, index, own] = np.array(numbers)[:, None]
            distances = np.stack([middle_x - left, middle_y - top, right - middle_x, bottom - middle_y])
            sides[index][:, own] = np.log(np.maximum(distances, 0.1))[:, own]
    weight = np.where(centre > 0.3, centre, 0.0)
    place = torch.tensor([PLACES.index(drawing.scene.place) for drawing in drawings])
    floats = (torch.from_numpy(part).float() for part in (centre, watched, weight, sides))
    centre_t, watched_t, weight_t, sides_t = floats
    return Targets(centre_t, watched_t, weight_t, torch.from_numpy(words), sides_t, place)


def detector_loss(output: DenseOutput, targets: Targets) -> tuple[torch.Tensor, dict[str, float]]:
    """Focal loss of the centres, cross entropy of the words, distance of the sides' logarithms."""
    hit = (targets.centre == 1).float()
    says, denies = F.logsigmoid(output.centre), F.logsigmoid(-output.centre)
    sure = output.centre.sigmoid()
    focal = (
        hit * (1 - sure) ** 2 * says
        + (1 - hit) * (1 - targets.centre) ** 4 * sure**2 * denies * targets.watched
    )
    total = targets.weight.sum().clamp_min(1.0)
    losses = {"centre": -focal.sum() / hit.sum().clamp_min(1.0)}
    answers = {"kind": output.kind, "colour": output.colour, "pattern": output.pattern}
    for (name, logits), words in zip(answers.items(), targets.words, strict=True):
        losses[name] = (F.cross_entropy(logits, words, reduction="none") * targets.weight).sum() / total
    distance = F.smooth_l1_loss(output.sides, targets.sides, reduction="none", beta=0.1).sum(1)
    losses["sides"] = (distance * targets.weight).sum() / total
    losses["place"] = F.cross_entropy(output.place, targets.place)
    loss = (
        losses["centre"]
        + losses["kind"]
        + losses["colour"]
        + 0.4 * losses["pattern"]
        + losses["sides"]
        + 0.3 * losses["place"]
    )
    return loss, {name: float(value.detach()) for name, value in losses.items()}


class DetectorTask:
    """Either detector on drawings of every combination.

    Detectors are shown the held-out combinations too: they have to recognise what others were never shown.

    Args:
        name: "eyes" or "judge".
        vae_folder: saved `AutoencoderKL`; a share of the drawings is then replaced by its reconstructions.
        scenes: scenes per part of an evaluation.
    """

    def __init__(self, name: str, vae_folder: Path | None = None, scenes: int = 200) -> None:
        self.name, self.seed, self.scenes = name, SEEDS[name], scenes
        torch.manual_seed(self.seed)
        self.model: nn.Module = CLASSES[name]()
        use_quick_group_norm(self.model)
        self.vae = load_autoencoder(vae_folder) if vae_folder else None
        repaint = (lambda x: reconstruct(self.vae, x)) if self.vae is not None else None
        self.pool = DrawingPool(self.seed, repaint=repaint)
        self._held: dict[str, list[Drawing]] = {}

    def loss(self, first_sample: int, batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        device, dtype = runtime_device()
        rng = sample_rng(self.seed + 1000, first_sample)
        form = rng.randrange(len(ASPECTS))
        drawings, framed = [], []
        for sample in range(first_sample, first_sample + batch):
            own = form if rng.random() < 0.85 else rng.randrange(len(ASPECTS))
            drawings.append(self.pool.pick(sample, rng, own))
            framed.append(frame(rng, drawings[-1], CANVASES[form]))
        generator = torch.Generator().manual_seed(first_sample)
        x = damage(to_tensor([picture.pixels for picture in framed]), generator)
        output = self.model(x.to(device, dtype, memory_format=torch.channels_last))
        targets = make_targets(framed, drawings, CLASSES[self.name].stride)
        moved = {name: getattr(targets, name).to(device) for name in Targets.__dataclass_fields__}
        return detector_loss(output, Targets(**moved))

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        if not self._held:
            self._held = {
                part: held_drawings(part == "held_out", self.scenes) for part in ("seen", "held_out")
            }
        metrics: dict[str, float] = {}
        for part, drawings in self._held.items():
            pictures = [Image.fromarray(drawing.pixels) for drawing in drawings]
            shown = detect(model, pictures)
            measured = measure(drawings, shown)
            metrics |= {f"{part}_{name}": share.value for name, share in measured.items()}
            save_sheet(folder / f"sheet_{part}.png", pictures[:24], shown)
        return metrics


def load_autoencoder(folder: Path) -> nn.Module:
    """A saved `AutoencoderKL`, frozen, in bf16."""
    vae = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.bfloat16).eval().requires_grad_(False)
    return vae.to(memory_format=torch.channels_last)


def held_drawings(
    held_out: bool, count: int, side: int = 128, aspects: Sequence[float] = (1.0,)
) -> list[Drawing]:
    """Drawings of the evaluation stream: scenes without or with held-out combinations."""
    mix = SceneMix(aspects=tuple(aspects), held_out=held_out)
    return [make_drawing(sample_rng(EVALUATION_SEED + held_out, index), mix, side) for index in range(count)]


def measure(drawings: Sequence[Drawing], shown: Sequence[Detections]) -> dict[str, Share]:
    """Shares over all objects, matched to the surest detection that overlaps by half.

    Returns:
        "right" (kind and colour), "found", "kind", "colour" and "pattern" over objects; "false" (matching
        no object) over detections; "place" over pictures.
    """
    marks: dict[str, list[bool]] = {
        name: [] for name in ("right", "found", "kind", "colour", "pattern", "false", "place")
    }
    for drawing, detections in zip(drawings, shown, strict=True):
        marks["place"].append(detections.place == drawing.scene.place)
        free = list(detections.objects)
        for item, box in zip(drawing.scene.objects, drawing.boxes, strict=True):
            match = next((other for other in free if box_overlap(box, other.box) >= 0.5), None)
            if match:
                free.remove(match)
            marks["found"].append(match is not None)
            marks["kind"].append(match is not None and match.kind == item.kind)
            marks["colour"].append(match is not None and match.colour == item.colour)
            marks["pattern"].append(match is not None and match.pattern == item.pattern)
            marks["right"].append(marks["kind"][-1] and marks["colour"][-1])
        marks["false"] += [True] * len(free) + [False] * (len(detections.objects) - len(free))
    return {name: Share.of(answers) for name, answers in marks.items()}


def mistakes(drawings: Sequence[Drawing], shown: Sequence[Detections]) -> dict[str, int]:
    """What was taken for what ("apple > ball", "small apple > nothing"); most frequent first."""
    counts: dict[str, int] = {}
    for drawing, detections in zip(drawings, shown, strict=True):
        for item, box in zip(drawing.scene.objects, drawing.boxes, strict=True):
            match = next((other for other in detections.objects if box_overlap(box, other.box) >= 0.5), None)
            for text in _differences(item, match):
                counts[text] = counts.get(text, 0) + 1
    return dict(sorted(counts.items(), key=lambda pair: -pair[1]))


def _differences(item: SceneObject, match: object) -> list[str]:
    if match is None:
        return [f"{item.size} {item.kind} > nothing"]
    pairs = ((getattr(item, name), getattr(match, name)) for name in ("kind", "colour"))
    return [f"{had} > {got}" for had, got in pairs if had != got]


def save_sheet(
    path: Path, pictures: Sequence[Image.Image], shown: Sequence[Detections], columns: int = 6
) -> None:
    """Pictures with what was found in them, enlarged twice."""
    side = 256
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * side, rows * side))
    for index, (picture, detections) in enumerate(zip(pictures, shown, strict=False)):
        tile = picture.resize((side, side))
        draw = ImageDraw.Draw(tile)
        for item in detections.objects:
            box = [value * side for value in item.box]
            draw.rectangle(box, outline=(255, 0, 255), width=2)
            text = f"{item.colour} {item.kind} {item.score:.2f}"
            _label(draw, min(box[0], side - 110), min(box[3], side - 26), text)
        _label(draw, 0, side - 13, f"{detections.place} {detections.place_score:.2f}")
        sheet.paste(tile, (index % columns * side, index // columns * side))
    sheet.save(path)


def _label(draw: ImageDraw.ImageDraw, left: float, top: float, text: str) -> None:
    draw.rectangle(draw.textbbox((left + 1, top), text), fill=(0, 0, 0))
    draw.text((left + 1, top), text, fill=(255, 255, 255))


def full_report(model: Detector, vae_folder: Path | None, scenes: int = 300) -> dict[str, dict[str, object]]:
    """A release's figures: drawings at three sizes, wide and high ones, damaged ones, reconstructions."""
    report: dict[str, dict[str, object]] = {}
    vae = load_autoencoder(vae_folder) if vae_folder else None

    def note(
        name: str, held_out: bool, drawings: list[Drawing], pictures: Sequence[Image.Image] | torch.Tensor
    ) -> None:
        shares = measure(drawings, detect(model, pictures))
        part = "held_out" if held_out else "seen"
        report[f"{name}/{part}"] = {key: share.as_dict() for key, share in shares.items()}

    for held_out in (False, True):
        for side in (128, 256, 512):
            drawings = held_drawings(held_out, scenes if side == 128 else scenes // 3, side)
            note(f"drawings_{side}", held_out, drawings, [Image.fromarray(d.pixels) for d in drawings])
        wide = held_drawings(held_out, scenes // 3, 256, (1.5, 0.667, 1.78))
        note("other_aspects_256", held_out, wide, [Image.fromarray(drawing.pixels) for drawing in wide])
        plain = held_drawings(held_out, scenes)
        x = to_tensor([drawing.pixels for drawing in plain])
        note("damaged_128", held_out, plain, damage(x, torch.Generator().manual_seed(EVALUATION_SEED)))
        if vae is not None:
            note("reconstructions_128", held_out, plain, reconstruct(vae, x))
    return report


def release(name: str, state: Path, folder: Path) -> Detector:
    """Write the averaged weights of a run in half precision, as `from_pretrained` reads them."""
    model = CLASSES[name]()
    model.load_state_dict(torch.load(state / "ema.pt", weights_only=True))
    model.half().save_pretrained(folder)
    return CLASSES[name].from_pretrained(folder).eval()


def _detector(options: argparse.Namespace) -> tuple[Task, LoopConfig]:
    return DetectorTask(options.recipe, options.vae), RECIPES[options.recipe]()


def main(arguments: list[str] | None = None) -> None:
    table = dict.fromkeys(CLASSES, _detector)
    parser = recipe_parser("pipelines.storybook.train_detector", __doc__, table)
    parser.add_argument("--vae", type=Path, help="autoencoder whose reconstructions are mixed in or measured")
    parser.add_argument("--release", type=Path, help="don't train: write the weights here and measure them")
    options = parser.parse_args(arguments)
    if not options.release:
        run_recipe(table, options)
        return
    torch.set_num_threads(options.threads)
    report = full_report(release(options.recipe, options.state, options.release), options.vae)
    (options.state / "report.json").write_text(json.dumps(report, indent=1))
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
