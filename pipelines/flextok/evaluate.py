"""What k tokens keep, as the judge sees it, beside JPEG and WebP: `python -m pipelines.flextok.evaluate`.

With a generator in the folder also whether text -> tokens -> picture shows what was asked for. Every answer
is kept, so that a measurement can be stopped and gone on with.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from pipelines.flextok.measures import CODECS, TOKEN_BYTES, encode_within, mean_error, psnr, stops_up_to
from pipelines.flextok.sheet import reconstruction_sheet
from pipelines.storybook.dataset import sample_rng
from pipelines.storybook.draw import draw_scene
from pipelines.storybook.judging import WEIGHTS, Answers, evaluation_parser, judge_pictures, weights_key
from pipelines.storybook.prompts import Asked, one_object_prompts
from pipelines.storybook.scene import Scene, SceneMix, sample_scene
from pipelines.storybook.verify import Share

ONE_OBJECT = SceneMix(counts=(1.0, 0.0, 0.0))
SEED = 9_500
BATCH = 8
GENERATED = (8, 32, 128)
Similarity = Callable[[Sequence[Image.Image], Sequence[Image.Image]], list[float]]


def drawings(count: int, side: int, held_out: bool) -> list[tuple[Scene, Image.Image]]:
    """Scenes with one object and their drawings, from one side of the held-out split."""
    mix = SceneMix(counts=ONE_OBJECT.counts, held_out=held_out)
    scenes = [sample_scene(sample_rng(SEED + held_out, index), mix) for index in range(count)]
    return [(scene, Image.fromarray(draw_scene(scene, side, side))) for scene in scenes]


def judge_one(judge: Any, pictures: Sequence[Image.Image], wanted: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether the judge sees an object of this (kind, colour) in each picture."""
    from pipelines.storybook.detector import detect
    from pipelines.storybook.verify import one_object_right

    seen = detect(judge, list(pictures))
    return [one_object_right(found, *pair) for found, pair in zip(seen, wanted, strict=True)]


def clip_similarity(folder: Path) -> Similarity:
    """Cosine of the vision tower's vectors of two pictures."""
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(folder).eval()
    side = model.config.vision_config.image_size

    @torch.no_grad()
    def vectors(pictures: Sequence[Image.Image]) -> torch.Tensor:
        arrays = [
            np.asarray(p.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)) for p in pictures
        ]
        x = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1
        pooled = model.vision_model(pixel_values=x).pooler_output
        return torch.nn.functional.normalize(model.visual_projection(pooled), dim=-1)

    return lambda first, second: (vectors(first) * vectors(second)).sum(-1).tolist()


def evaluate_reconstruction(
    pipeline: Any, judge: Any, pairs: Sequence[tuple[Scene, Image.Image]], similarity: Similarity | None
) -> list[dict[str, Any]]:
    """One row of answers per drawing: per token count and per codec at the same bytes."""
    stops = stops_up_to(pipeline.num_tokens)
    originals = [picture for _, picture in pairs]
    wanted = [(scene.objects[0].kind, scene.objects[0].colour) for scene, _ in pairs]
    rows: list[dict[str, Any]] = [{} for _ in pairs]

    def note(name: str, numbers: Sequence[int], pictures: Sequence[Image.Image]) -> None:
        right = judge_one(judge, pictures, [wanted[i] for i in numbers])
        kept = similarity(pictures, [originals[i] for i in numbers]) if similarity else [None] * len(numbers)
        for i, picture, answer, cosine in zip(numbers, pictures, right, kept, strict=True):
            figures = {"right": answer, "psnr": psnr(picture, originals[i]), "clip": cosine}
            rows[i][name] = {**figures, "error": mean_error(picture, originals[i])}

    everything = range(len(pairs))
    note("original", everything, originals)
    tokens = pipeline.encode(originals)
    for stop in stops:
        generators = [torch.Generator().manual_seed(SEED) for _ in pairs]
        note(f"tokens {stop}", everything, pipeline.decode(tokens, keep=stop, generator=generators))
        for codec in CODECS:
            found = {i: encode_within(originals[i], TOKEN_BYTES * stop, codec) for i in everything}
            possible = [i for i in everything if found[i] is not None]
            if possible:
                note(f"{codec} {stop}", possible, [found[i][0] for i in possible])  # type: ignore[index]
    return rows


def reconstruction_rows(
    pipeline: Any,
    judge: Any,
    pairs: Sequence[tuple[Scene, Image.Image]],
    similarity: Similarity | None,
    answers: Answers,
) -> list[dict[str, Any]]:
    """Rows of all drawings; those that are kept already are not computed again."""
    missing = [index for index in range(len(pairs)) if index not in answers.by_index]
    for first in range(0, len(missing), BATCH):
        part = missing[first : first + BATCH]
        rows = evaluate_reconstruction(pipeline, judge, [pairs[index] for index in part], similarity)
        for index, row in zip(part, rows, strict=True):
            answers.add(index, row)
    return [answers.by_index[index] for index in range(len(pairs))]


def generation_shares(
    generator: Any, judge: Any, asked: Sequence[Asked], answers_of: Callable[[str], Answers]
) -> dict[str, dict[str, Any]]:
    """Whether text -> tokens -> picture shows what was asked for, per token count."""
    table = {}
    for count in (n for n in GENERATED if n <= generator.num_tokens):

        def paint(texts: list[str], sources: list[torch.Generator], keep: int = count) -> list[Image.Image]:
            return generator(texts, keep=keep, generator=sources).images

        shares = judge_pictures(paint, judge, asked, answers_of(f"tokens{count}"))
        table[f"tokens {count}"] = {name: share.as_dict() for name, share in shares.items()}
    return table


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Per column of the answers: the share that is right, and means of the figures."""
    table: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        answers = [row[name] for row in rows if name in row]
        table[name] = {"right": Share.of(answer["right"] for answer in answers).as_dict()}
        for figure, unit in (("psnr", "dB"), ("error", ""), ("clip", "")):
            values = [answer[figure] for answer in answers if answer.get(figure) is not None]
            if values and np.isfinite(values).all():
                mean = round(float(np.mean(values)), 4)
                table[name][figure] = {"value": mean, "n": len(values), "unit": unit}
    return table


def headline(table: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Right with all tokens, fewest with 90 % right (0: none), whether PSNR grows with each doubling."""
    counts = sorted(int(name.split()[1]) for name in table if name.startswith("tokens "))
    rows = [table[f"tokens {count}"] for count in counts]
    n = rows[0]["right"]["n"]
    enough = [count for count, row in zip(counts, rows, strict=True) if row["right"]["value"] >= 0.9]
    levels = [row["psnr"]["value"] for row in rows]
    grows = all(before <= after for before, after in zip(levels, levels[1:], strict=False))
    return {
        "right_with_all": rows[-1]["right"],
        "fewest_with_90": {"value": enough[0] if enough else 0, "n": n, "unit": "tokens"},
        "psnr_grows": {"value": float(grows), "n": n, "unit": ""},
    }


def draw_curve(table: dict[str, dict[str, Any]], path: Path) -> None:
    """PSNR over bytes (powers of two) for tokens and codecs, as a small chart."""
    width, height, left, bottom = 640, 360, 60, 40
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    series = {"tokens": "#b4432f", "JPEG": "#2f6db4", "WEBP": "#3c8a4e"}
    points = {
        name: sorted(
            (int(key.split()[1]), row["psnr"]["value"])
            for key, row in table.items()
            if key.startswith(f"{name} ")
        )
        for name in series
    }
    counts = [count for count, _ in points["tokens"]]
    levels = [level for values in points.values() for _, level in values]
    low, high = np.floor(min(levels)), np.ceil(max(levels))
    span = max(counts.index(counts[-1]), 1)

    def place(count: int, level: float) -> tuple[float, float]:
        x = left + (width - left - 20) * counts.index(count) / span
        return x, height - bottom - (height - bottom - 20) * (level - low) / max(high - low, 1)

    for count in counts:
        x, _ = place(count, low)
        draw.text((x - 12, height - bottom + 8), f"{TOKEN_BYTES * count} B", fill="black")
    for level in (low, (low + high) / 2, high):
        draw.text((8, place(counts[0], level)[1] - 6), f"{level:.0f} dB", fill="black")
    for row, (name, colour) in enumerate(series.items()):
        line = [place(*point) for point in points[name]]
        if len(line) > 1:
            draw.line(line, fill=colour, width=3)
        for x, y in line:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
        draw.text((left + 10, 20 + 14 * row), name, fill=colour)
    image.save(path)


def evaluate_part(
    pipeline: Any, generator: Any, judge: Any, similarity: Similarity | None, options: argparse.Namespace,
    held_out: bool,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """All figures of one side of the held-out split; draws its curve and sheet if asked to."""
    part = "held_out" if held_out else "seen"
    key = f"{weights_key(options.folder)}_{weights_key(options.judge)[:6]}"

    def answers_of(kind: str) -> Answers:
        return Answers(options.cache / f"{options.folder.name}_{key}_{kind}_{part}.jsonl")

    pairs = drawings(options.n, pipeline.side, held_out)
    kind = "reconstruction_clip" if similarity else "reconstruction"
    table = summary(reconstruction_rows(pipeline, judge, pairs, similarity, answers_of(kind)))
    part_of = {f"{name}/{part}": row for name, row in table.items()}
    figures = {f"summary/{part}": headline(table), **part_of}
    if options.pictures:
        draw_curve(table, options.pictures / f"flextok_curve_{part}.png")
        sheet = reconstruction_sheet(pipeline, [picture for _, picture in pairs[:4]], SEED)
        sheet.save(options.pictures / f"flextok_sheet_{part}.webp", quality=88, method=4)
    if generator is not None:
        asked = list(one_object_prompts(options.n, held_out, SEED))
        made = generation_shares(generator, judge, asked, answers_of)
        figures |= {f"text to {name}/{part}": row for name, row in made.items()}
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    parser = evaluation_parser("pipelines.flextok.evaluate", __doc__, WEIGHTS / "storybook-flextok")
    parser.add_argument("--clip", type=Path, help="folder of a CLIPModel, for the similarity column")
    parser.add_argument("--pictures", type=Path, help="folder for curves and sheets")
    options = parser.parse_args(arguments)
    from pipelines.flextok.pipeline_flexar import FlexARPipeline
    from pipelines.flextok.pipeline_flextok import FlexTokPipeline
    from pipelines.storybook.detector import StorybookJudge

    judge = StorybookJudge.from_pretrained(options.judge).eval()
    generator = None
    if (options.folder / "transformer").is_dir():
        generator = FlexARPipeline.from_pretrained(options.folder)
        generator.set_progress_bar_config(disable=True)
    pipeline = generator.flextok if generator else FlexTokPipeline.from_pretrained(options.folder)
    pipeline.set_progress_bar_config(disable=True)
    similarity = clip_similarity(options.clip) if options.clip else None
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
    figures: dict[str, dict[str, Any]] = {}
    for held_out in (False, True):
        figures |= evaluate_part(pipeline, generator, judge, similarity, options, held_out)
    for part, row in figures.items():
        words = (
            f"{name} {figure['value']:g} {figure.get('unit', '')}".strip() for name, figure in row.items()
        )
        print(f"{part:24} {', '.join(words)}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
