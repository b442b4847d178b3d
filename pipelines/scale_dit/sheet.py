"""Sixteen prompts, first seeds, nothing picked: `python -m pipelines.scale_dit.sheet --out FILE.webp`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

PROMPTS = (
    "a red ball in a meadow",
    "a blue car on a beach",
    "a yellow star under a night sky",
    "a purple house in a room",
    "an orange cat in a snowy field",
    "a green cup in a desert",
    "a white bird on a beach",
    "a black boat on a beach",
    "a red apple and a blue book in a room",
    "a blue umbrella to the left of a red chair in a meadow",
    "a yellow flower in a meadow",
    "an orange fish in a desert",
    "a red tree in a snowy field",
    "a purple mushroom in a meadow",
    "three yellow balls in a room",
    "a large white house under a night sky",
)
COLUMNS = 4


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.scale_dit.sheet", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("assets/weights/storybook-flux"))
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    from pipelines.runtime import choose_runtime
    from pipelines.scale_dit.pipeline_scale_dit import ScaleDiTPipeline

    runtime = choose_runtime()
    pipeline = ScaleDiTPipeline.from_pretrained(options.folder, dtype=getattr(torch, runtime.dtype))
    pipeline.to(runtime.device).set_progress_bar_config(disable=True)
    side = options.size
    sheet = Image.new("RGB", (COLUMNS * side, len(PROMPTS) // COLUMNS * side))
    for index, prompt in enumerate(PROMPTS):
        generator = torch.Generator().manual_seed(index)
        (picture,) = pipeline(prompt, height=side, width=side, generator=generator).images
        sheet.paste(picture, (index % COLUMNS * side, index // COLUMNS * side))
    sheet.save(options.out, quality=88, method=4)


if __name__ == "__main__":
    main()
