"""Whether 4096 px pictures hold real detail: `python -m pipelines.scale_dit.evaluate_detail --n 6`.

The octave spectrum, textures and seams of painted pictures, beside a plain enlargement of the picture at a
quarter of the size, and beside the drawings themselves (what the instruments say of what is right).
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from pipelines.scale_dit.detail import Detail, evaluate_detail
from pipelines.scale_dit.texture import SIDE, TextureClassifier
from pipelines.storybook.judging import WEIGHTS


def figures(detail: Detail, n: int) -> dict[str, dict[str, Any]]:
    """One row of the table: factors (1 is right), and the share of crops with the right texture."""
    octaves = {f"octave_{k + 1}": {"value": round(v, 3), "n": n} for k, v in enumerate(detail.octaves)}
    return {
        "spectrum": {"value": round(detail.spectrum, 3), "n": n, "unit": "x"},
        **octaves,
        "texture": detail.texture.as_dict(),
        "seams": {"value": round(detail.seams.ratio, 3), "n": n, "unit": "x"},
        "worst_seam": {"value": round(detail.seams.worst, 3), "n": n, "unit": "x"},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.scale_dit.evaluate_detail", description=__doc__
    )
    parser.add_argument("--n", type=int, default=6, help="pictures; the six places come in turn")
    parser.add_argument("--folder", type=Path, default=WEIGHTS / "storybook-flux")
    parser.add_argument("--classifier", type=Path, default=WEIGHTS / "storybook-texture")
    parser.add_argument(
        "--size", type=int, default=SIDE, help="side in pixels; textures are those of 4096 px"
    )
    parser.add_argument("--adapter", action="store_true", help="with the folder's scale-dit-lora")
    parser.add_argument("--pictures", type=Path, help="folder to keep the painted pictures in")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args(arguments)
    from pipelines.runtime import choose_runtime
    from pipelines.scale_dit.pipeline_scale_dit import ScaleDiTPipeline
    from pipelines.storybook.detector import StorybookEyes, detect

    runtime = choose_runtime()
    pipeline = ScaleDiTPipeline.from_pretrained(options.folder, dtype=getattr(torch, runtime.dtype))
    if options.adapter:
        pipeline.load_scale_dit_lora(options.folder / "scale-dit-lora")
    pipeline.to(runtime.device).set_progress_bar_config(disable=True)
    eyes = StorybookEyes.from_pretrained(WEIGHTS / "storybook-eyes").eval()

    def paint(prompt: str, side: int, seed: int) -> Image.Image:
        generator = torch.Generator().manual_seed(seed)
        picture = pipeline(prompt, height=side, width=side, generator=generator).images[0]
        if options.pictures:
            options.pictures.mkdir(parents=True, exist_ok=True)
            picture.save(options.pictures / f"{seed}_{side}.png")
        print(f"{side} px: {prompt}", flush=True)
        return picture

    def find(picture: Image.Image) -> list[tuple[float, float, float, float]]:
        return [item.box for item in detect(eyes, [picture])[0].objects]

    classifier = TextureClassifier.from_pretrained(options.classifier).eval()
    with torch.no_grad():
        details = evaluate_detail(paint, classifier, options.n, find, options.size)
    table = {name: figures(detail, options.n) for name, detail in details.items()}
    text = json.dumps(table, indent=2)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
