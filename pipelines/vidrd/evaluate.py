"""What `storybook-video` films, as the judge sees it: `python -m pipelines.vidrd.evaluate films --n 50`.

"films": identity, direction of motion, borders, warp error, for our hand-over and three others side by side.
About ten seconds a film and core: `--split held_out` leaves out the prompts of seen combinations.
"decoder": flicker with the temporal layers and without. "interpolation": PSNR of filled-in frames.
"memory": peak and time per clip of films of 2, 8 and 32 clips.
"""

import argparse
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipelines.storybook.guidance import FILM_GUIDANCE
from pipelines.storybook.judging import CACHE, WEIGHTS, Answers, weights_key
from pipelines.storybook.scene import is_held_out_pair
from pipelines.storybook.verify import Share
from pipelines.storybook.vocabulary import COLOURS, KINDS, PLACE_PHRASES, PLACES
from pipelines.vidrd.film_plan import FilmPlan
from pipelines.vidrd.film_sheet import film_sheet, film_strip
from pipelines.vidrd.handover import Handover
from pipelines.vidrd.motion import measure_motion

NUM_CLIPS, NUM_FRAMES = 4, 8
LENGTHS = (2, 8, 32)  # clips of the films whose memory is compared
FIRST_SEED = 5000
PARTS_OF_SPLIT = ("seen", "held_out")
SHEET_PART, SHEET_FILMS = "held_out", 6
# what an asked motion must do to the object's box: (share of the picture's side, along which axis)
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "down": (1, 1), "up": (-1, 1)}
VERBS = (
    ("moves slowly to the left", "left"),
    ("moves slowly to the right", "right"),
    ("falls", "down"),
    ("grows", "larger"),
)
# what falls comes to the ground and what grows fills the picture long before a film of four clips ends
ONCE = ("down", "larger")
LEAST_WAY = 0.03  # of the picture's side
LEAST_GROWTH = 1.15  # of the box's area
MOST_SETBACK = 0.5  # of the whole way, for what happens once in a film
JUDGED = "films 2"  # named anew when prompts or verdicts change, so that earlier answers don't count
# how clips go on from each other; None: not at all
SYSTEMS: dict[str, Handover | None] = {
    "chronological": Handover(),
    "mirror": Handover(order="mirror"),
    "overlap only": Handover(recycle=0.0, clean=False),
    "independent": None,
}


@dataclass(frozen=True)
class AskedMotion:
    """A prompt with the object and the motion it asks for: a word of `DIRECTIONS`, or "larger"."""

    text: str
    kind: str
    colour: str
    motion: str


def motion_prompts(count: int, held_out: bool, seed: int = 73) -> Iterator[AskedMotion]:
    """`a red cat moves slowly to the left in a meadow`, from one side of the held-out split."""
    rng = Random(f"{seed}/{held_out}")
    while count:
        colour, kind = rng.choice(COLOURS), rng.choice(KINDS)
        verb, motion = rng.choice(VERBS)
        if is_held_out_pair(colour, kind) == held_out:
            article = "an" if colour[0] in "aeiou" else "a"
            place = PLACE_PHRASES[rng.choice(PLACES)]
            yield AskedMotion(f"{article} {colour} {kind} {verb} {place}", kind, colour, motion)
            count -= 1


def film_with(
    pipeline: Any, text: str, seed: int, handover: Handover | None, steps: int, guidance: float
) -> list[list[Image.Image]]:
    """A film of four clips, clip by clip; without a hand-over each is filmed alone."""
    side = pipeline.base_size

    def plan(clips: int, own_seed: int) -> FilmPlan:
        return FilmPlan(
            (text,),
            ("",),
            (own_seed,),
            side,
            side,
            clips,
            NUM_FRAMES,
            steps,
            guidance,
            handover or Handover(),
        )

    if handover is None:
        films = [next(pipeline.film(plan(1, 10_000 * (number + 1) + seed))) for number in range(NUM_CLIPS)]
    else:
        films = list(pipeline.film(plan(NUM_CLIPS, seed)))
    return [[Image.fromarray(frame) for frame in clip.frames[0].numpy()] for clip in films]


def judge_film(clips: Sequence[Sequence[Image.Image]], asked: AskedMotion, judge: Any) -> dict[str, Any]:
    """Answers on one film.

    Returns:
        "identity": in every clip the asked kind and colour is seen in at least half of the frames;
        "direction": the object moves as asked (`film_moves_as_asked`); and the figures of `MotionReport`.
    """
    from pipelines.storybook.detector import detect

    kept, tracks = [], []
    for clip in clips:
        boxes = []
        for seen in detect(judge, list(clip)):
            found = [item for item in seen.objects if (item.kind, item.colour) == (asked.kind, asked.colour)]
            boxes.append(max(found, key=lambda item: item.score).box if found else None)
        tracks.append([box for box in boxes if box is not None])
        kept.append(2 * len(tracks[-1]) >= len(boxes))
    direction = film_moves_as_asked(tracks, asked.motion)
    return {"identity": all(kept), "direction": direction, **asdict(measure_motion(clips))}


def film_moves_as_asked(tracks: Sequence[Sequence[Sequence[float]]], motion: str) -> bool | None:
    """Whether an object went the asked way through a film; None: it is not seen long enough.

    A motion that goes on is asked of most clips, each from where the one before left the object. One that
    happens once is asked of the whole film, in which it may not be taken back. Clips that begin anew at every
    border can't win either way.

    Args:
        tracks: clip by clip, boxes (left, top, right, bottom; 0 to 1) of the object where it is seen.
        motion: as in `AskedMotion`.
    """
    track = [box for clip in tracks for box in clip]
    if len(track) < 2:
        return None
    if motion in ONCE:
        progress = [_progress(box, motion) for box in track]
        setback = max(max(progress[: index + 1]) - value for index, value in enumerate(progress))
        whole = progress[-1] - progress[0]
        return moves_as_asked(track[0], track[-1], motion) and setback <= MOST_SETBACK * whole
    seen = [clip for clip in tracks if clip]
    stations = [*seen[0][:-1][:1], *(clip[-1] for clip in seen)]  # where it begins, and every clip's end
    moves = [moves_as_asked(*pair, motion) for pair in pairwise(stations)]
    return 2 * sum(moves) > len(moves)


def _progress(box: Sequence[float], motion: str) -> float:
    """How far it has come: down the picture, or in growth (logarithm of its area)."""
    if motion == "larger":
        return math.log(max((box[2] - box[0]) * (box[3] - box[1]), 1e-6))
    return (box[1] + box[3]) / 2


def moves_as_asked(first: Sequence[float], last: Sequence[float], motion: str) -> bool:
    """Whether a box (left, top, right, bottom; 0 to 1) went the asked way, or grew."""
    if motion == "larger":
        areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, last)]
        return areas[1] > LEAST_GROWTH * areas[0]
    sign, axis = DIRECTIONS[motion]
    ways = [(last[i] + last[i + 2] - first[i] - first[i + 2]) / 2 for i in (0, 1)]
    return sign * ways[axis] > LEAST_WAY and abs(ways[axis]) >= abs(ways[1 - axis])


@dataclass(frozen=True)
class FilmTrial:
    """What films, who judges, and where both are kept.

    Attributes:
        cache: folder of answers and of the strips that a sheet shows.
        key: changes with whatever decides about the answers. steps, guidance: of every clip.
    """

    pipeline: Any
    judge: Any
    cache: Path
    key: str
    steps: int
    guidance: float

    def film(self, asked: AskedMotion, index: int, system: str, part: str) -> list[list[Image.Image]]:
        """One film; those that belong on a sheet leave their strip."""
        clips = film_with(
            self.pipeline, asked.text, FIRST_SEED + index, SYSTEMS[system], self.steps, self.guidance
        )
        if part == SHEET_PART and index < SHEET_FILMS:
            path = self.strip_path(index, system)
            path.parent.mkdir(parents=True, exist_ok=True)
            film_strip(clips).save(path)
        return clips

    def strip_path(self, index: int, system: str) -> Path:
        return self.cache / f"storybook-video_{self.key}_strips" / f"{index}_{_file_name(system)}.png"

    def answers(self, system: str, part: str) -> Answers:
        return Answers(self.cache / f"storybook-video_{self.key}_{_file_name(system)}_{part}.jsonl")


def evaluate_films(
    trial: FilmTrial, n: int, sheet: Path | None = None, parts: Sequence[str] = PARTS_OF_SPLIT
) -> dict[str, dict[str, Any]]:
    """Shares and means by system and side of the held-out split; answers are kept, so it resumes.

    Args:
        n: prompts of each side.
        sheet: where to write a contact sheet of the first held-out films of all systems.
        parts: sides of the split.
    """
    table: dict[str, dict[str, Any]] = {}
    for part in parts:
        wanted = list(motion_prompts(n, part == "held_out"))
        for name in SYSTEMS:
            answers = trial.answers(name, part)
            for index, asked in enumerate(wanted):
                if index not in answers.by_index:
                    clips = trial.film(asked, index, name, part)
                    answers.add(index, judge_film(clips, asked, trial.judge))
            table[f"{part}/{name}"] = summary([answers.by_index[index] for index in range(n)])
    if sheet is not None:
        write_sheet(trial, min(n, SHEET_FILMS), sheet)
    return table


def write_sheet(trial: FilmTrial, count: int, path: Path) -> None:
    """The first `count` held-out prompts, a row per system; strips that aren't kept are filmed again."""
    films = []
    for index, asked in enumerate(motion_prompts(count, SHEET_PART == "held_out")):
        rows = {}
        for name in SYSTEMS:
            strip = trial.strip_path(index, name)
            if not strip.exists():
                trial.film(asked, index, name, SHEET_PART)
            with Image.open(strip) as picture:
                rows[name] = picture.convert("RGB")
        films.append((asked.text, rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    film_sheet(films).save(path)


def _file_name(system: str) -> str:
    return system.replace(" ", "_")


def summary(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Shares of the yes-or-no answers, means of the figures; frozen films count as moving the wrong way."""
    identity = Share.of(answer["identity"] for answer in answers)
    direction = Share.of(bool(answer["direction"]) for answer in answers)
    out: dict[str, Any] = {"identity": identity.as_dict(), "direction": direction.as_dict()}
    for name in ("border_ratio", "turn_cosine", "flow_px", "warp_error", "mawe", "scene_cuts", "drift"):
        values = [min(float(answer[name]), 1e6) for answer in answers]
        out[name] = round(float(np.median(values) if name == "mawe" else np.mean(values)), 5)
    return out


def evaluate_decoder(vae: Any, n: int, cache: Path) -> dict[str, float]:
    """Flicker on static pixels and PSNR, temporal layers on and off, on held-out clips.

    Raises:
        ValueError: the autoencoder has no temporal layers.
    """
    from dataclasses import replace

    from pipelines.storybook.clip_latents import ClipStream
    from pipelines.storybook.clips import ClipMix
    from pipelines.storybook.dataset import to_tensor
    from pipelines.vidrd.autoencoder_vidrd import VidRDAutoencoderKL
    from pipelines.vidrd.train_decoder import decoder_figures

    if not isinstance(vae, VidRDAutoencoderKL):
        raise ValueError("the model's autoencoder has no layers along time; publish a trained decoder first")
    mix = ClipMix(scenes=replace(ClipMix().scenes, held_out=True))
    stream = ClipStream(vae, cache / "clips", n, NUM_FRAMES, mix, 900_075)
    latents, _ = stream.batch(0, n)
    clips = [to_tensor(stream.draw(slot)) for slot in range(n)]
    return {name: round(value, 5) for name, value in decoder_figures(vae, list(latents), clips)[0].items()}


def evaluate_interpolation(
    methods: dict[str, Callable], n: int, side: int = 128
) -> dict[str, dict[str, float]]:
    """PSNR in dB of the frames that each method puts between every second and fourth frame of drawn clips."""
    from pipelines.storybook.clips import sample_clip
    from pipelines.storybook.draw_clips import draw_clip
    from pipelines.vidrd.interpolation import FACTORS, WINDOW, psnr

    rng = Random(900_076)
    clips = [[Image.fromarray(f) for f in draw_clip(sample_clip(rng), WINDOW, side, side)] for _ in range(n)]
    table: dict[str, dict[str, float]] = {}
    for name, fill in methods.items():
        for factor in FACTORS:
            new = [index for index in range(WINDOW) if index % factor]
            values = []
            for clip in clips:
                filled = fill(clip[::factor], factor)
                values.append(psnr([filled[i] for i in new], [clip[i] for i in new]))
            table.setdefault(name, {})[f"psnr_{factor}"] = round(sum(values) / n, 3)
    return table


def _films(options: argparse.Namespace, pipeline: Any) -> dict[str, Any]:
    from pipelines.storybook.detector import StorybookJudge

    judge = StorybookJudge.from_pretrained(options.judge).eval()
    key = weights_key(options.folder, options.judge, extra=f"{JUDGED}/{options.steps}/{options.guidance}")
    trial = FilmTrial(pipeline, judge, options.cache, key, options.steps, options.guidance)
    parts = (options.split,) if options.split else PARTS_OF_SPLIT
    return evaluate_films(trial, options.n, options.sheet, parts)


def _decoder(options: argparse.Namespace, pipeline: Any) -> dict[str, Any]:
    return {"held_out": evaluate_decoder(pipeline.vae, options.n, options.cache)}


def _interpolation(options: argparse.Namespace, pipeline: Any) -> dict[str, Any]:
    from pipelines.vidrd.interpolation import ModelInterpolator, interpolate_flow, interpolate_linear
    from pipelines.vidrd.unet_vidrd import VidRDUNet3DModel

    methods: dict[str, Callable] = {"linear": interpolate_linear, "flow": interpolate_flow}
    if (options.folder / "interpolator").is_dir():
        unet = VidRDUNet3DModel.from_pretrained(options.folder / "interpolator", dtype=pipeline.unet.dtype)
        methods["model"] = ModelInterpolator(
            unet.to(pipeline.device).eval(),
            pipeline.encode_pictures,
            pipeline.decode_latents,
            pipeline.scheduler,
            pipeline.encode_prompt(""),
        )
    return evaluate_interpolation(methods, options.n, pipeline.base_size)


def evaluate_memory(pipeline: Any, store: Path, steps: int, guidance: float) -> dict[str, dict[str, float]]:
    """Largest resident size so far and seconds per clip, of films of 2, then 8, then 32 clips.

    A peak never falls: what the longest film adds to that of the shortest is all that its length costs.

    Args:
        store: folder that keeps finished clips, as the studio does; it is made anew and removed.
        steps, guidance: of each clip.
    """
    from pipelines.runtime import peak_bytes
    from pipelines.vidrd.clip_store import ClipStore

    table, side = {}, pipeline.base_size
    for clips in LENGTHS:
        plan = FilmPlan(("a red ball moves slowly to the right",), ("",), (1,), side, side, clips, NUM_FRAMES,
                        steps, guidance, Handover())  # fmt: skip
        shutil.rmtree(store, ignore_errors=True)
        began, cpu = time.monotonic(), time.process_time()
        for _ in pipeline.film(plan, store=ClipStore(store, plan, {})):
            pass
        table[f"{clips} clips"] = {
            "peak_mb": round(peak_bytes() / 1e6, 1),
            "seconds_per_clip": round((time.monotonic() - began) / clips, 3),
            "cpu_seconds_per_clip": round((time.process_time() - cpu) / clips, 3),
        }
    shutil.rmtree(store, ignore_errors=True)
    return table


def _memory(options: argparse.Namespace, pipeline: Any) -> dict[str, Any]:
    return evaluate_memory(pipeline, options.cache / "memory_clips", options.steps, options.guidance)


PARTS: dict[str, Callable[[argparse.Namespace, Any], dict[str, Any]]] = {
    "films": _films,
    "decoder": _decoder,
    "interpolation": _interpolation,
    "memory": _memory,
}


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.vidrd.evaluate", description=__doc__)
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("--folder", type=Path, default=WEIGHTS / "storybook-video", help="model folder")
    parser.add_argument("--judge", type=Path, default=WEIGHTS / "storybook-judge")
    parser.add_argument("--n", type=int, default=50, help="prompts of each part, or clips")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=FILM_GUIDANCE)
    parser.add_argument("--cache", type=Path, default=CACHE, help="answers are kept here; it resumes")
    parser.add_argument("--split", choices=PARTS_OF_SPLIT, help="films: one side of the held-out split")
    parser.add_argument("--sheet", type=Path, help="films: write a sheet of the first held-out films")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args(arguments)
    from pipelines.runtime import choose_runtime
    from pipelines.vidrd.pipeline_vidrd import VidRDPipeline

    runtime = choose_runtime()
    pipeline = VidRDPipeline.from_pretrained(options.folder, dtype=getattr(torch, runtime.dtype))
    pipeline.to(runtime.device).set_progress_bar_config(disable=True)
    options.cache.mkdir(parents=True, exist_ok=True)
    table = PARTS[options.part](options, pipeline)
    for name, figures in table.items():
        print(f"{name:24} " + "  ".join(f"{key} {_shown(value)}" for key, value in figures.items()))
    if options.out:
        options.out.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def _shown(value: Any) -> str:
    return f"{value['value']:.1%} (n={value['n']})" if isinstance(value, dict) else f"{value:.4g}"


if __name__ == "__main__":
    main()
