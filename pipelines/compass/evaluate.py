"""Spatial scores of a model: `python -m pipelines.compass.evaluate --folder assets/weights/storybook-flux`.

Paints two-object prompts with several seeds, keeps what each detector sees in a file (a second run goes on
where the first one stopped), and prints OA, VISOR, GenEval position and T2I-CompBench for every variant.
Pictures are chosen by one detector (the eyes) and reported by another (the judge). Prompts are those of the
Storybook world, or those of a file; detectors are Storybook's, or zero-shot ones of transformers.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.compass.evaluation import (
    LookOptions,
    PaintMany,
    SeenFile,
    fingerprint,
    look,
    scores,
    search_scores,
)
from pipelines.compass.schedule import REFERENCE_TRUE_CFG
from pipelines.compass.spatial_prompts import SpatialPrompt, read_prompts, spatial_prompts
from pipelines.storybook.guidance import FLUX_GUIDANCE, SD_GUIDANCE

WEIGHTS = Path("assets/weights")
PARTS = ("seen", "held_out")
BUDGETS = (1, 2, 4, 8)
PUBLISHED_SD_GUIDANCE = 7.5
TEXT_TOKENS = 24  # more than any prompt about two objects of the Storybook world has
COLUMNS = (
    "variant", "part", "OA", "conditional", "unconditional", "VISOR_1", "VISOR_2", "VISOR_3", "VISOR_4",
    "geneval", "t2i_spatial", "detector",
)  # fmt: skip


def model_paint(
    folder: Path, compass: str | Path | None, prompts: Sequence[SpatialPrompt], steps: int, guidance: float
) -> PaintMany:
    """A painter from a model folder, in the dtype that is fast here.

    All texts are padded to one length: a picture must not depend on what else is in its batch or run.
    """
    import torch

    from pipelines.compass.pipeline_compass import CompassPipeline
    from pipelines.runtime import choose_runtime

    runtime = choose_runtime()
    pipeline = CompassPipeline.from_pretrained(folder, compass=compass, dtype=getattr(torch, runtime.dtype))
    pipeline.to(runtime.device).set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"num_inference_steps": steps}
    if hasattr(pipeline, "transformer"):
        options["true_cfg_scale"] = guidance
        if not pipeline.transformer.config.guidance_embeds:
            longest = pipeline.text_length([prompt.text for prompt in prompts], "")
            options["max_sequence_length"] = max(longest, TEXT_TOKENS)
    else:
        options["guidance_scale"] = guidance

    def paint(texts: Sequence[str], seeds: Sequence[int]) -> Sequence[Any]:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return pipeline(list(texts), generator=generators, **options).images

    return paint


def usual_guidance(folder: Path) -> float:
    """What a model folder is painted with when nothing is asked for.

    Raises:
        ValueError: it is no model folder.
    """
    try:
        if (folder / "unet").is_dir():
            return SD_GUIDANCE if folder.name.startswith("storybook") else PUBLISHED_SD_GUIDANCE
        config = json.loads((folder / "transformer" / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} is no model folder ({error})") from None
    return REFERENCE_TRUE_CFG if config.get("guidance_embeds") else FLUX_GUIDANCE


class LatePaint:
    """A painter that loads its model when it is first needed: a complete file needs none."""

    def __init__(self, build: Callable[[], PaintMany]) -> None:
        self._build = build
        self._paint: PaintMany | None = None

    def __call__(self, texts: Sequence[str], seeds: Sequence[int]) -> Sequence[Any]:
        if self._paint is None:
            self._paint = self._build()
        return self._paint(texts, seeds)


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Lines of a Markdown table, one row for each variant."""
    yield "| " + " | ".join(COLUMNS) + " |"
    yield "|" + "---|" * len(COLUMNS)
    for row in rows:
        yield "| " + " | ".join(str(row.get(column, "")) for column in COLUMNS) + " |"


def open_detectors(options: argparse.Namespace) -> tuple[Any, Any]:
    """The one that chooses and the one that reports; the same one where both folders are the same.

    Raises:
        ValueError: a folder without a detector.
    """
    from pipelines.compass.detectors import open_detector
    from pipelines.runtime import choose_runtime

    device = choose_runtime().device
    eyes = open_detector(options.eyes, device=device)
    if options.judge.resolve() == options.eyes.resolve():
        return eyes, eyes
    report = open_detector(options.judge, device=device)
    if report.name == eyes.name:  # folders of the same name; what each sees is kept apart
        report.name = f"{report.name} ({options.judge})"
    return eyes, report


def prompts_by_part(options: argparse.Namespace, detectors: Sequence[Any]) -> dict[str, list[SpatialPrompt]]:
    """The prompts of each part: both sides of the held-out split, or those of a file.

    Raises:
        ValueError: a file without prompts, or with things that a detector doesn't know.
    """
    if options.prompts is None:
        return {
            part: spatial_prompts(options.n or 200, held_out=part == "held_out") for part in options.parts
        }
    prompts = read_prompts(options.prompts)[: options.n]
    for detector in detectors:
        unknown = {name for prompt in prompts for name in prompt.asked if not detector.knows(name)}
        if unknown:
            listed = ", ".join(sorted(unknown)[:5])
            raise ValueError(
                f"{detector.name} can't look for {listed}: give detectors that know {options.prompts}"
            )
    return {options.prompts.stem: prompts}


def evaluate_part(
    options: argparse.Namespace,
    name: str,
    compass: str | None,
    part: str,
    prompts: Sequence[SpatialPrompt],
    detectors: tuple[Any, Any],
) -> dict[str, Any]:
    """Paint and score one variant on one list of prompts."""
    eyes, report = detectors
    weights = compass if compass in (None, "auto") else Path(str(compass))
    marks = [fingerprint(path) for path in (options.folder, options.eyes, options.judge)]
    marks += [str(compass), fingerprint(weights) if isinstance(weights, Path) else ""]
    # a list of the held-out split begins with every shorter one, a file's may change
    texts = [prompt.text for prompt in prompts] if options.prompts else ""
    key = hashlib.sha256(repr([*marks, options.steps, options.guidance, part, texts]).encode()).hexdigest()[
        :16
    ]
    paint = LatePaint(partial(model_paint, options.folder, weights, prompts, options.steps, options.guidance))
    looking = LookOptions(
        options.seeds,
        options.batch,
        options.pictures / f"{name}_{part}" if options.pictures else None,
        lambda done, total: print(f"{name} {part}: {done} of {total} painted", flush=True),
    )
    file = SeenFile(options.cache / f"{name}_{part}_{key}.jsonl")
    seen = look(prompts, paint, (eyes, report), file, looking)
    per_prompt = min(4, options.seeds)
    return {
        "variant": name,
        "part": part,
        **scores(prompts, seen, report.name, per_prompt),
        "by_eyes": scores(prompts, seen, eyes.name, per_prompt),
        "search": search_scores(prompts, seen, eyes.name, report.name, BUDGETS),
    }


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.compass.evaluate", description=__doc__)
    parser.add_argument("--folder", type=Path, default=WEIGHTS / "storybook-flux", help="model folder")
    parser.add_argument(
        "--variant",
        action="append",
        metavar="NAME=WEIGHTS",
        help="CoMPaSS weights: a folder, 'auto' (those of the model folder) or 'none'; may be repeated",
    )
    parser.add_argument("--n", type=int, help="prompts of each part; default: 200, or all of the file")
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="prompts of this file: one per line (also T2I-CompBench's), VISOR's or GenEval's JSON",
    )
    parser.add_argument("--seeds", type=int, default=4, help="pictures of each prompt; 8 for all budgets")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), help="sides of the held-out split"
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, help="default: what the model paints best with")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--eyes",
        type=Path,
        default=WEIGHTS / "storybook-eyes",
        help="detector that chooses: Storybook's or a zero-shot one",
    )
    parser.add_argument(
        "--judge", type=Path, default=WEIGHTS / "storybook-judge", help="detector that reports"
    )
    parser.add_argument("--cache", type=Path, default=Path("runs/compass"), help="what was seen so far")
    parser.add_argument("--pictures", type=Path, help="keep the pictures too")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    options = build_parser().parse_args(arguments)
    if options.guidance is None:
        options.guidance = usual_guidance(options.folder)
    detectors = open_detectors(options)
    parts = prompts_by_part(options, detectors)
    rows = []
    for variant in options.variant or ["plain=none"]:
        name, _, weights = variant.partition("=")
        compass = None if weights in ("", "none") else weights
        rows += [evaluate_part(options, name, compass, *item, detectors) for item in parts.items()]
    print("\n".join(table(rows)))
    if options.out:
        part = options.out.with_name(options.out.name + ".part")
        part.write_text(json.dumps(rows, indent=2) + "\n")
        os.replace(part, options.out)


if __name__ == "__main__":
    main()
