"""Detectors, autoencoder, CLIP on held-out drawings: `python -m pipelines.storybook.evaluate_parts vae`."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pipelines.storybook.judging import WEIGHTS

Table = dict[str, dict[str, dict[str, Any]]]
SIDES = (128, 256, 1024, 4096)


def detector(name: str, n: int) -> Table:
    """Objects found and named right on drawings of both sides of the split."""
    from PIL import Image

    from pipelines.storybook.detector import StorybookEyes, StorybookJudge, detect
    from pipelines.storybook.train_detector import held_drawings, measure

    model = {"eyes": StorybookEyes, "judge": StorybookJudge}[name]
    model = model.from_pretrained(WEIGHTS / f"storybook-{name}").eval()
    table: Table = {}
    for part, held_out in (("seen", False), ("held_out", True)):
        drawings = held_drawings(held_out, n)
        shares = measure(drawings, detect(model, [Image.fromarray(d.pixels) for d in drawings]))
        table[f"drawings/{part}"] = {key: share.as_dict() for key, share in shares.items()}
    return table


def autoencoder(n: int) -> Table:
    """Mean PSNR on held-out drawings: whole at 128 and 256 px, 256 px crops of larger ones."""
    from diffusers import AutoencoderKL

    from pipelines.storybook.dataset import CropMix, crops, to_tensor
    from pipelines.storybook.scene import SceneMix
    from pipelines.storybook.train_vae import HELD_OUT_SEED, mean_psnr, reconstruct

    vae = AutoencoderKL.from_pretrained(WEIGHTS / "storybook-sd/vae").eval()
    scenes, figures = SceneMix(held_out=True), {}
    for side in SIDES:
        mix = CropMix(((side, 1.0),), min(side, 256), 0.8)
        x = to_tensor(crops(HELD_OUT_SEED, 0, n, scenes, mix))
        psnr = mean_psnr(reconstruct(vae, x), x)
        figures[f"psnr_{side}"] = {"value": round(psnr, 2), "n": n, "unit": "dB"}
    return {"held_out": figures}


def clip(n: int) -> Table:
    """Retrieval among 64 captions with place and two objects, both ways."""
    from pipelines.storybook.train_clip import CLIPTask, retrieval

    task = CLIPTask.published_at(WEIGHTS / "storybook-clip")
    groups = max(1, round(n / 64))
    return {"held_out": {"top1_of_64": retrieval(task, groups).as_dict()}}


PARTS: dict[str, Callable[[int], Table]] = {
    "eyes": lambda n: detector("eyes", n),
    "judge": lambda n: detector("judge", n),
    "vae": autoencoder,
    "clip": clip,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.storybook.evaluate_parts", description=__doc__)
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args(arguments)
    with torch.no_grad():
        table = PARTS[options.part](options.n)
    text = json.dumps(table, indent=2)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
