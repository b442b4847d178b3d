"""What k tokens keep, as the judge sees it, beside JPEG and WebP: `python -m pipelines.flextok.evaluate`.

Writes `figures.json`, curves and sheets. Single answers are kept in the output folder under the fingerprint
of the weights, so that an evaluation can be stopped and gone on with.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from pipelines.flextok.checkpoint import fingerprint
from pipelines.flextok.measures import TOKEN_BYTES, encode_within, mean_error, psnr, stops_up_to
from pipelines.storybook.dataset import sample_rng
from pipelines.storybook.draw import draw_scene
from pipelines.storybook.scene import Scene, SceneMix, is_held_out_pair, sample_scene
from pipelines.storybook.verify import Share
from pipelines.storybook.vocabulary import COLOURS, KINDS, PLACE_PHRASES, PLACES

WEIGHTS = Path("assets/weights")
ONE_OBJECT = SceneMix(counts=(1.0, 0.0, 0.0))
SEED = 9_500
BATCH = 8
GENERATED = (8, 32, 128)
CODECS = ("JPEG", "WEBP")
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


def prompts(count: int, held_out: bool) -> list[tuple[str, str, str]]:
    """(prompt, kind, colour) of one object in a place, from one side of the held-out split."""
    rng = Random(f"{SEED}/{held_out}")
    found: list[tuple[str, str, str]] = []
    while len(found) < count:
        colour, kind, place = rng.choice(COLOURS), rng.choice(KINDS), rng.choice(PLACES)
        if is_held_out_pair(colour, kind) == held_out:
            article = "an" if colour[0] in "aeiou" else "a"
            found.append((f"{article} {colour} {kind} {PLACE_PHRASES[place]}", kind, colour))
    return found


def evaluate_generation(
    pipeline: Any, judge: Any, wanted: Sequence[tuple[str, str, str]], first: int
) -> list[dict[str, Any]]:
    """Whether text -> tokens -> picture shows what was asked for, per token count."""
    generators = [torch.Generator().manual_seed(SEED + first + i) for i in range(len(wanted))]
    most = min(max(GENERATED), pipeline.num_tokens)
    ids = pipeline.generate([prompt for prompt, *_ in wanted], keep=most, generator=generators)
    rows: list[dict[str, Any]] = [{} for _ in wanted]
    for count in (n for n in GENERATED if n <= most):
        generators = [torch.Generator().manual_seed(SEED) for _ in wanted]
        pictures = pipeline.flextok.decode(list(ids), keep=count, generator=generators)
        answers = judge_one(judge, pictures, [pair for _, *pair in wanted])  # type: ignore[misc]
        for row, answer in zip(rows, answers, strict=True):
            row[f"tokens {count}"] = {"right": answer}
    return rows


def cached_rows(
    path: Path, count: int, compute: Callable[[int, int], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Rows 0 ... count - 1, computed in batches and kept in a file after each."""
    rows = json.loads(path.read_text()) if path.exists() else []
    while len(rows) < count:
        rows += compute(len(rows), min(BATCH, count - len(rows)))
        part = path.with_suffix(".part")
        part.write_text(json.dumps(rows))
        os.replace(part, path)
    return rows[:count]


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Means and shares per column of the answers."""
    table: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        answers = [row[name] for row in rows if name in row]
        table[name] = {"right": Share.of(answer["right"] for answer in answers).as_dict()}
        for figure in ("psnr", "error", "clip"):
            values = [answer[figure] for answer in answers if answer.get(figure) is not None]
            if values and np.isfinite(values).all():
                table[name][figure] = round(float(np.mean(values)), 4)
    return table


def headline(table: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The rows of the project's target table: right at all tokens, fewest tokens with 90 %, PSNR growing."""
    counts = sorted(int(name.split()[1]) for name in table if name.startswith("tokens "))
    values = {count: table[f"tokens {count}"] for count in counts}
    enough = [count for count in counts if values[count]["right"]["value"] >= 0.9]
    levels = [values[count]["psnr"] for count in counts]
    return {
        "right_at_all_tokens": values[counts[-1]]["right"],
        "smallest_count_with_90_percent": enough[0] if enough else None,
        "psnr_grows_with_tokens": all(a <= b for a, b in zip(levels, levels[1:], strict=False)),
    }


def draw_curve(table: dict[str, dict[str, Any]], path: Path) -> None:
    """PSNR over bytes (powers of two) for tokens and codecs, as a small chart."""
    width, height, left, bottom = 640, 360, 60, 40
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    series = {"tokens": "#b4432f", "JPEG": "#2f6db4", "WEBP": "#3c8a4e"}
    points = {
        name: sorted(
            (int(key.split()[1]), row["psnr"]) for key, row in table.items() if key.startswith(f"{name} ")
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


def save_sheet(pipeline: Any, pairs: Sequence[tuple[Scene, Image.Image]], path: Path) -> None:
    """One drawing per row: itself, then 1, 2, 4, ... tokens of it."""
    rows = []
    for _, picture in pairs:
        tokens = pipeline.encode(picture)[0]
        decoded = [
            image for _, image in pipeline.decode_stops(tokens, stops_up_to(pipeline.num_tokens), SEED)
        ]
        rows.append(np.concatenate([np.asarray(image) for image in (picture, *decoded)], axis=1))
    Image.fromarray(np.concatenate(rows)).save(path)


def evaluate_part(
    pipeline: Any, generator: Any, judge: Any, similarity: Similarity | None, options: argparse.Namespace,
    held_out: bool,
) -> dict[str, Any]:  # fmt: skip
    """All figures of one side of the held-out split; writes its curve and sheet."""
    part = "held_out" if held_out else "seen"
    pairs = drawings(options.n, pipeline.side, held_out)
    rows = cached_rows(
        options.out / f"reconstruction_{part}_{fingerprint(pipeline.encoder, pipeline.decoder)}.json",
        options.n,
        lambda first, count: evaluate_reconstruction(
            pipeline, judge, pairs[first : first + count], similarity
        ),
    )
    table = summary(rows)
    draw_curve(table, options.out / f"curve_{part}.png")
    save_sheet(pipeline, pairs[:4], options.out / f"sheet_{part}.png")
    figures: dict[str, Any] = {"table": table, "headline": headline(table)}
    if generator is not None:
        wanted = prompts(options.n, held_out)
        answers = cached_rows(
            options.out / f"generation_{part}_{fingerprint(generator.transformer, generator.decoder)}.json",
            options.n,
            lambda first, count: evaluate_generation(generator, judge, wanted[first : first + count], first),
        )
        figures["generation"] = summary(answers)
    return figures


def report(part: str, figures: dict[str, Any]) -> None:
    """Print one side's figures."""
    for name, row in {**figures["table"], **figures.get("generation", {})}.items():
        low, high = row["right"]["ci95"]
        level = f"{row['psnr']:6.2f} dB" if "psnr" in row else ""
        print(f"{part:9} {name:12} {row['right']['value']:6.1%} [{low:.1%}, {high:.1%}] {level}")
    print(f"{part:9} {figures['headline']}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.flextok.evaluate", description=__doc__)
    parser.add_argument("--folder", type=Path, default=WEIGHTS / "storybook-flextok")
    parser.add_argument("--judge", type=Path, default=WEIGHTS / "storybook-judge")
    parser.add_argument("--clip", type=Path, help="folder of a CLIPModel, for the similarity column")
    parser.add_argument("--n", type=int, default=200, help="pictures of each part, seen and held out")
    parser.add_argument("--out", type=Path, required=True, help="folder of answers, figures and pictures")
    options = parser.parse_args(arguments)
    from pipelines.flextok.pipeline_flexar import FlexARPipeline
    from pipelines.flextok.pipeline_flextok import FlexTokPipeline
    from pipelines.storybook.detector import StorybookJudge

    options.out.mkdir(parents=True, exist_ok=True)
    judge = StorybookJudge.from_pretrained(options.judge).eval()
    generator = None
    if (options.folder / "transformer").is_dir():
        generator = FlexARPipeline.from_pretrained(options.folder)
        generator.set_progress_bar_config(disable=True)
    pipeline = generator.flextok if generator else FlexTokPipeline.from_pretrained(options.folder)
    pipeline.set_progress_bar_config(disable=True)
    similarity = clip_similarity(options.clip) if options.clip else None
    tables = {
        name: evaluate_part(pipeline, generator, judge, similarity, options, held_out)
        for name, held_out in (("seen", False), ("held_out", True))
    }
    (options.out / "figures.json").write_text(json.dumps(tables, indent=2) + "\n")
    for name, figures in tables.items():
        report(name, figures)


if __name__ == "__main__":
    main()
