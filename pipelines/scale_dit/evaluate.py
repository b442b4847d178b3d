"""What `storybook-flux` paints, as the judge sees it: `python -m pipelines.scale_dit.evaluate --n 200`."""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch

from pipelines.storybook.scene import is_held_out_pair
from pipelines.storybook.verify import Share
from pipelines.storybook.vocabulary import COLOURS, KINDS, PLACE_PHRASES, PLACES

WEIGHTS = Path("assets/weights")
BATCH = 20


def one_object_prompts(count: int, held_out: bool, seed: int = 71) -> Iterator[tuple[str, str, str, str]]:
    """(prompt, colour, kind, place) of objects from one side of the held-out split."""
    rng = Random(f"{seed}/{held_out}")
    while count:
        colour, kind, place = rng.choice(COLOURS), rng.choice(KINDS), rng.choice(PLACES)
        if is_held_out_pair(colour, kind) == held_out:
            article = "an" if colour[0] in "aeiou" else "a"
            yield f"{article} {colour} {kind} {PLACE_PHRASES[place]}", colour, kind, place
            count -= 1


def evaluate_one_object(pipeline: Any, judge: Any, count: int, held_out: bool) -> dict[str, Share]:
    """Shares of pictures with the right colour, kind, place, and their combinations.

    Colour is right when some detected object has it; the combined figures ask for one object that has both.
    """
    from pipelines.storybook.detector import detect
    from pipelines.storybook.verify import one_object_right, place_right

    answers: dict[str, list[bool]] = {}
    wanted = list(one_object_prompts(count, held_out))
    for first in range(0, count, BATCH):
        part = wanted[first : first + BATCH]
        generators = [torch.Generator().manual_seed(1000 + first + i) for i in range(len(part))]
        pictures = pipeline([prompt for prompt, *_ in part], generator=generators).images
        for seen, (_, colour, kind, place) in zip(detect(judge, pictures), part, strict=True):
            of_colour, of_kind = one_object_right(seen, None, colour), one_object_right(seen, kind, None)
            both, there = one_object_right(seen, kind, colour), place_right(seen, place)
            results = {
                "colour": of_colour,
                "kind": of_kind,
                "kind_and_colour": both,
                "place": there,
                "colour_and_place": of_colour and there,
                "kind_colour_and_place": both and there,
            }
            for name, right in results.items():
                answers.setdefault(name, []).append(right)
    return {name: Share.of(values) for name, values in answers.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.scale_dit.evaluate", description=__doc__)
    parser.add_argument("--folder", type=Path, default=WEIGHTS / "storybook-flux")
    parser.add_argument("--judge", type=Path, default=WEIGHTS / "storybook-judge")
    parser.add_argument("--n", type=int, default=200, help="prompts of each part, seen and held out")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args(arguments)
    from pipelines.runtime import choose_runtime
    from pipelines.scale_dit.pipeline_scale_dit import ScaleDiTPipeline
    from pipelines.storybook.detector import StorybookJudge

    runtime = choose_runtime()
    pipeline = ScaleDiTPipeline.from_pretrained(options.folder, dtype=getattr(torch, runtime.dtype))
    pipeline.to(runtime.device).set_progress_bar_config(disable=True)
    judge = StorybookJudge.from_pretrained(options.judge).eval()
    table = {
        part: evaluate_one_object(pipeline, judge, options.n, held_out)
        for part, held_out in (("seen", False), ("held_out", True))
    }
    for part, shares in table.items():
        for name, share in shares.items():
            low, high = share.interval
            print(f"{part:9} {name:24} {share.value:6.1%}  n={options.n}  95 % [{low:.1%}, {high:.1%}]")
    if options.out:
        figures = {
            part: {name: share.as_dict() for name, share in shares.items()} for part, shares in table.items()
        }
        options.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
