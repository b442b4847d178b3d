"""How much of a page reaches the picture, as the judge sees it.

    python -m pipelines.longalign.evaluate --n 200 --out table.json --grid grid.png

Ways to read the page, side by side on held-out pages and the same seeds: cut off at 77 tokens, chunks of 75
tokens, segments without training, LongAlign's stages, a text encoder stretched to 248 tokens. Every answer is
kept in the cache, so that a measurement resumes.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from pipelines.longalign.baselines import Embeds, encode_chunks, encode_truncated
from pipelines.longalign.encoding_time import measure_encoding
from pipelines.longalign.measures import (
    FeatureSpace,
    attributes_present,
    diversity,
    frechet_distance,
    look,
)
from pipelines.longalign.pages import Page, held_out_pages
from pipelines.longalign.parts import FEW_STEPS, FULL_PICTURE, INDEX, T5_PARTS, LongAlignParts
from pipelines.longalign.pipeline_longalign import LongAlignPipeline
from pipelines.storybook.guidance import SD_GUIDANCE
from pipelines.storybook.judging import WEIGHTS, Answers, evaluation_parser, weights_key
from pipelines.storybook.verify import Share

Encode = Callable[[Any, Sequence[str]], Embeds]
BATCH = 10
FIRST_SEED = 5000
ATTRIBUTES = ("kind", "colour", "pattern", "place", "relation")


def encode_segments(pipe: LongAlignPipeline, prompts: Sequence[str]) -> Embeds:
    """LongAlign's own conditioning, trained or not."""
    return pipe.long_encoder()(list(prompts)).arguments()


@dataclass(frozen=True)
class Reading:
    """One way to read a page.

    Attributes:
        name: as the table calls it.
        encode: prompts to embeddings.
        loras: of the LongAlign folder, merged; with an "lcm" among them four steps are taken.
        long_clip: whether the text encoder is the stretched one.
    """

    name: str
    encode: Encode
    loras: tuple[str, ...] = ()
    long_clip: bool = False

    @property
    def few_steps(self) -> bool:
        return "lcm" in self.loras


def readings(available: Sequence[str]) -> list[Reading]:
    """All ways that the LoRAs of a folder allow."""
    found = [
        Reading("truncated at 77", encode_truncated),
        Reading("chunks of 75", encode_chunks),
        Reading("long-clip 248", encode_truncated, long_clip=True),
        Reading("segments, untrained", encode_segments),
    ]
    stages = {
        "align": FULL_PICTURE[:1],
        "align + reward": FULL_PICTURE,
        "4 steps": FEW_STEPS[:2],
        "4 steps + reward": FEW_STEPS,
    }
    for name, loras in stages.items():
        if set(loras) <= set(available):
            found.append(Reading(name, encode_segments, loras))
    return found


@dataclass(frozen=True)
class Setting:
    """Folders and numbers of one evaluation."""

    folder: Path
    longalign: Path | None
    long_clip: Path | None
    judge: Path
    cache: Path
    n: int
    steps: int
    guidance: float
    diverse_prompts: int
    seeds: int

    def key(self, reading: Reading) -> str:
        """Changes with whatever changes this reading's pictures or the judge, and with nothing else."""
        folders, facts = [self.folder, self.judge], f"{reading.name}/{self.steps}/{self.guidance}"
        if reading.loras and self.longalign is not None:
            parts = LongAlignParts.read(self.longalign)
            folders += [self.longalign / name for name in (*reading.loras, *T5_PARTS, "adapter")]
            facts += f"/{parts.mode}/{parts.rows}/{parts.t5}"
        if reading.long_clip and self.long_clip is not None:
            folders.append(self.long_clip)
        return weights_key(*folders, extra=facts)


class Painter:
    """Pictures of pages by one reading."""

    def __init__(self, reading: Reading, setting: Setting) -> None:
        from pipelines.runtime import choose_runtime

        runtime = choose_runtime()
        dtype = getattr(torch, runtime.dtype)
        self.reading, self.setting = reading, setting
        pipe = LongAlignPipeline.from_pretrained(setting.folder, dtype=dtype)
        if reading.long_clip:
            _use_long_clip(pipe, setting.long_clip)
        if reading.loras:
            assert setting.longalign is not None
            pipe.load_longalign(setting.longalign, dict.fromkeys(reading.loras, 1.0), merge=True)
        self.pipe = pipe.to(runtime.device)
        self.pipe.set_progress_bar_config(disable=True)
        if reading.few_steps:
            self.pipe.use_few_steps()

    @torch.no_grad()
    def paint(self, texts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """One picture for each text."""
        steps, guidance = (4, 0.0) if self.reading.few_steps else (self.setting.steps, self.setting.guidance)
        embeds = self.reading.encode(self.pipe, texts)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        options = {"num_inference_steps": steps, "guidance_scale": guidance, "generator": generators}
        return self.pipe(**embeds, **options).images


def long_clip_note(folder: Path | None) -> str:
    """What has to be said about the text encoder of 248 positions, or ""."""
    from transformers import CLIPTextModel

    from pipelines.longalign.long_clip import is_plain_stretch

    if folder is not None:
        tower = CLIPTextModel.from_pretrained(folder / "text_encoder")
        table = getattr(tower, "text_model", tower).embeddings.position_embedding.weight
        if not is_plain_stretch(table.detach()):
            return ""
    return "untrained stretch"


def _use_long_clip(pipe: LongAlignPipeline, folder: Path | None) -> None:
    """Give a pipeline the text encoder of a folder, or its own stretched one."""
    from transformers import CLIPTextModel, CLIPTokenizer

    from pipelines.longalign.long_clip import stretch_text_encoder, stretch_tokenizer

    if folder is not None:
        pipe.text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").to(pipe.unet.dtype)
        pipe.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    else:
        pipe.text_encoder = stretch_text_encoder(pipe.text_encoder)
        length = pipe.text_encoder.config.max_position_embeddings
        pipe.tokenizer = stretch_tokenizer(pipe.tokenizer, length)


def answer_all(
    paint: Callable[[], Painter], judge: Any, jobs: Sequence[tuple[Page, int]], answers: Answers
) -> None:
    """Paint and judge the jobs (page, seed) that have no answer yet; the painter is built when needed."""
    missing = [index for index in range(len(jobs)) if index not in answers.by_index]
    painter = paint() if missing else None
    for first in range(0, len(missing), BATCH):
        part = missing[first : first + BATCH]
        assert painter is not None
        pictures = painter.paint([jobs[i][0].text for i in part], [jobs[i][1] for i in part])
        seen, features = look(judge, pictures)
        for index, detections, own in zip(part, seen, features, strict=True):
            present = attributes_present(detections, jobs[index][0])
            answers.add(index, {"present": present, "features": [round(value, 4) for value in own.tolist()]})


def measure(reading: Reading, setting: Setting, judge: Any, space: FeatureSpace, drawn: torch.Tensor) -> dict:
    """All figures of one reading: shares of attributes, distance to drawings, diversity over seeds."""
    pages = held_out_pages(setting.n)
    name = "".join(c if c.isalnum() else "_" for c in reading.name)
    stem = f"longalign_{setting.folder.name}_{name}_{setting.key(reading)}"
    single = Answers(setting.cache / f"{stem}.jsonl")
    painters: list[Painter] = []

    def painter() -> Painter:
        if not painters:
            painters.append(Painter(reading, setting))
        return painters[0]

    answer_all(painter, judge, [(page, FIRST_SEED + i) for i, page in enumerate(pages)], single)
    jobs = [(page, FIRST_SEED + s) for page in pages[: setting.diverse_prompts] for s in range(setting.seeds)]
    several = Answers(setting.cache / f"{stem}_seeds{setting.seeds}.jsonl")
    answer_all(painter, judge, jobs, several)
    kept = [single.by_index[index] for index in range(len(pages))]
    shares = {kind: Share.of(x for one in kept for x in one["present"][kind]) for kind in ATTRIBUTES}
    shares["all"] = Share.of(x for one in kept for kind in ATTRIBUTES for x in one["present"][kind])
    painted = space.project(torch.tensor([one["features"] for one in kept]))
    spread = space.project(torch.tensor([several.by_index[i]["features"] for i in range(len(jobs))]))
    return {
        "attributes": {kind: share.as_dict() for kind, share in shares.items()},
        "frechet": round(frechet_distance(painted, drawn), 3),
        "diversity": round(diversity(spread.unflatten(0, (-1, setting.seeds))), 3),
    }


def drawings_of(pages: Sequence[Page], judge: Any) -> torch.Tensor:
    """The judge's features `[N, F]` of the drawings that the pages were written about."""
    from pipelines.storybook.draw import draw_scene

    pictures = [Image.fromarray(draw_scene(page.scene, 128, 128)) for page in pages]
    return look(judge, pictures)[1]


def evaluate(setting: Setting, only: Sequence[str] | None = None) -> dict[str, Any]:
    """Figures of every reading, and the time that encoding takes."""
    from pipelines.storybook.detector import StorybookJudge

    judge = StorybookJudge.from_pretrained(setting.judge).eval()
    pages = held_out_pages(max(setting.n, 2))
    features = drawings_of(pages, judge)
    space = FeatureSpace(features)
    drawn = space.project(features)
    table = {}
    for reading in chosen_readings(setting, only):
        table[reading.name] = figures = measure(reading, setting, judge, space, drawn)
        if reading.long_clip and (note := long_clip_note(setting.long_clip)):
            figures["note"] = note
        print(row(reading.name, figures), flush=True)
    pipe = LongAlignPipeline.from_pretrained(setting.folder)
    times = measure_encoding(pipe.text_encoder, pipe.tokenizer)
    for name, seconds in times.items():
        print(f"{name:28} {seconds * 1000:8.1f} ms")
    return {"n": setting.n, "readings": table, "encoding_s": times}


def chosen_readings(setting: Setting, only: Sequence[str] | None) -> list[Reading]:
    available = LongAlignParts.read(setting.longalign).loras if setting.longalign is not None else ()
    found = readings(available)
    unknown = sorted(set(only or ()) - {reading.name for reading in found})
    if unknown:
        raise ValueError(f"readings {unknown} are not among {[reading.name for reading in found]}")
    return [reading for reading in found if only is None or reading.name in only]


def row(name: str, figures: dict[str, Any]) -> str:
    """One line of the table."""
    share = figures["attributes"]["all"]
    low, high = share["ci95"]
    parts = "  ".join(f"{kind} {figures['attributes'][kind]['value']:.1%}" for kind in ATTRIBUTES)
    ends = f"frechet {figures['frechet']:.2f}  diversity {figures['diversity']:.2f}"
    note = f"  ({figures['note']})" if "note" in figures else ""
    return f"{name:20} {share['value']:6.1%} [{low:.1%}, {high:.1%}]  {parts}  {ends}{note}"


def paint_grid(setting: Setting, only: Sequence[str] | None, columns: int = 6) -> Image.Image:
    """The first pages by every reading: a row each, on the seeds of the table."""
    pages = held_out_pages(columns)
    seeds = [FIRST_SEED + index for index in range(columns)]
    rows = [
        Painter(reading, setting).paint([page.text for page in pages], seeds)
        for reading in chosen_readings(setting, only)
    ]
    width, height = rows[0][0].size
    grid = Image.new("RGB", (width * columns, height * len(rows)))
    for down, pictures in enumerate(rows):
        for across, picture in enumerate(pictures):
            grid.paste(picture, (across * width, down * height))
    return grid


def main(arguments: Sequence[str] | None = None) -> None:
    parser = evaluation_parser("pipelines.longalign.evaluate", __doc__, WEIGHTS / "storybook-sd")
    parser.add_argument(
        "--longalign", type=Path, help="default: the folder's own `longalign`, where it has one"
    )
    parser.add_argument(
        "--long-clip", type=Path, help="a text encoder of 248 positions (default: untrained stretch)"
    )
    parser.add_argument("--only", nargs="+", help="names of readings (default: all)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=SD_GUIDANCE)
    parser.add_argument("--seeds", type=int, default=4, help="pictures a prompt for the diversity")
    parser.add_argument("--diverse-prompts", type=int, default=20)
    parser.add_argument("--grid", type=Path, help="write a grid of pictures")
    options = parser.parse_args(arguments)
    setting = setting_of(options)
    table = evaluate(setting, options.only)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        part = options.out.with_name(f"{options.out.name}.part")
        part.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
        os.replace(part, options.out)
    if options.grid:
        part = options.grid.with_name(f"{options.grid.stem}.part{options.grid.suffix}")
        paint_grid(setting, options.only).save(part)
        os.replace(part, options.grid)


def setting_of(options: argparse.Namespace) -> Setting:
    """The options as a setting."""
    own = options.folder / "longalign"
    longalign = options.longalign or (own if (own / INDEX).exists() else None)
    return Setting(
        folder=options.folder, longalign=longalign, long_clip=options.long_clip, judge=options.judge,
        cache=options.cache, n=options.n, steps=options.steps, guidance=options.guidance,
        diverse_prompts=min(options.diverse_prompts, options.n), seeds=options.seeds,
    )  # fmt: skip


if __name__ == "__main__":
    main()
