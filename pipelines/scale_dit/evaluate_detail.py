"""Whether 4096 px pictures hold real detail: `python -m pipelines.scale_dit.evaluate_detail --n 6`.

The octave spectrum, textures and seams of painted pictures, beside a plain enlargement of the picture at a
quarter of the size, and beside the drawings themselves (what the instruments say of what is right).
`--crops FILE` keeps crops of all three at 100 %; `--orders` paints a picture in Hilbert and in raster order.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from pipelines.scale_dit.detail import Detail, evaluate_detail
from pipelines.scale_dit.texture import CROP, SIDE, TextureClassifier
from pipelines.storybook.judging import WEIGHTS


def figures(detail: Detail, n: int) -> dict[str, dict[str, Any]]:
    """One row of the table: factors (1 is right), and the share of crops with the right texture.

    The 95 % intervals of factors come from drawing the pictures anew; one picture has none.
    """

    def factor(name: str, value: float) -> dict[str, Any]:
        ends = detail.intervals.get(name)
        ci95 = {"ci95": [round(end, 3) for end in ends]} if ends else {}
        return {"value": round(value, 3), "n": n, "unit": "x", **ci95}

    return {
        "spectrum": factor("spectrum", detail.spectrum),
        **{f"octave_{k}": factor(f"octave_{k}", value) for k, value in enumerate(detail.octaves, 1)},
        "texture": detail.texture.as_dict(),
        "seams": factor("seams", detail.seams.ratio),
        "worst_seam": factor("worst_seam", detail.seams.worst),
    }


class CropSheet:
    """Crops of 256 px at 100 %, one row a picture, in the columns that were given first.

    The crop lies where the picture's ground begins to fill it: half way across, below the middle.
    """

    def __init__(self) -> None:
        self.columns: list[str] = []
        self._rows: list[tuple[str, list[Image.Image]]] = []

    def add(self, prompt: str, pictures: dict[str, Image.Image]) -> None:
        """Take in one picture's versions, all of one size of at least 256 px."""
        self.columns = self.columns or list(pictures)
        cut = []
        for name in self.columns:
            width, height = pictures[name].size
            left, top = (width - CROP) // 2, min(round(0.62 * height), height - CROP)
            cut.append(pictures[name].crop((left, top, left + CROP, top + CROP)))
        self._rows.append((prompt, cut))

    def sheet(self) -> Image.Image:
        """All rows under each other, with the columns' names above and the prompts between them."""
        line = 20
        size = (CROP * len(self.columns), line + (CROP + line) * len(self._rows))
        out = Image.new("RGB", size, "white")
        draw, font = ImageDraw.Draw(out), ImageFont.load_default(13)
        for column, name in enumerate(self.columns):
            draw.text((CROP * column + 4, 2), name, "black", font)
        for row, (prompt, cut) in enumerate(self._rows):
            top = line + (CROP + line) * row
            for column, picture in enumerate(cut):
                out.paste(picture, (CROP * column, top))
            draw.text((4, top + CROP + 2), prompt, "black", font)
        return out


def compare_orders(pipeline: Any, prompt: str, side: int) -> dict[str, dict[str, Any]]:
    """A picture in Hilbert and in raster order: seconds of each, and how far pixels are apart (0 to 255).

    The sliding box does not depend on the order, so only rounding may differ.
    """
    from pipelines.scale_dit.high_res import HighResOptions

    seconds, pictures = [], []
    for order in ("window_hilbert", "raster"):
        began = time.perf_counter()
        painted = pipeline(
            prompt, height=side, width=side, generator=torch.Generator().manual_seed(0),
            high_res=HighResOptions(order=order),
        ).images[0]  # fmt: skip
        seconds.append(time.perf_counter() - began)
        pictures.append(np.asarray(painted).astype(int))
    apart = np.abs(pictures[0] - pictures[1])
    return {
        "hilbert_seconds": {"value": round(seconds[0], 2), "n": 1, "unit": "s"},
        "raster_seconds": {"value": round(seconds[1], 2), "n": 1, "unit": "s"},
        "mean_difference": {"value": round(float(apart.mean()), 4), "n": 1},
        "largest_difference": {"value": int(apart.max()), "n": 1},
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
    parser.add_argument("--crops", type=Path, help="write a sheet of crops at 100 %%")
    parser.add_argument("--orders", action="store_true", help="paint one picture in two token orders, too")
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

    classifier, crops = TextureClassifier.from_pretrained(options.classifier).eval(), CropSheet()
    with torch.no_grad():
        details = evaluate_detail(paint, classifier, options.n, find, options.size, crops.add)
    table = {name: figures(detail, options.n) for name, detail in details.items()}
    if options.orders:
        table["orders"] = compare_orders(pipeline, "a red ball in a meadow", options.size)
    if options.crops:
        options.crops.parent.mkdir(parents=True, exist_ok=True)
        crops.sheet().save(options.crops, quality=88, method=4)
    text = json.dumps(table, indent=2)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
