"""A quick look at a model in training: a sheet of pictures, and what the eyes see in them."""

from pathlib import Path
from typing import Any

import torch

from pipelines.compass.spatial_prompts import spatial_prompts
from pipelines.storybook.sheets import grid

COUNT, STEPS, SHEET_COLUMNS = 24, 12, 8


def evaluate_pictures(pipeline: Any, folder: Path, eyes: Path | None, **options: Any) -> dict[str, float]:
    """Paint the first held-out prompts into `sheet.png`; VISOR's percentages as the eyes see them."""
    import numpy as np

    prompts = spatial_prompts(COUNT, held_out=True)
    generators = [torch.Generator().manual_seed(index) for index in range(COUNT)]
    pictures = pipeline(
        [prompt.text for prompt in prompts], generator=generators, num_inference_steps=STEPS, **options
    ).images
    grid([np.asarray(picture) for picture in pictures], SHEET_COLUMNS).save(folder / "sheet.png")
    if eyes is None:
        return {}
    from pipelines.compass.detectors import StorybookDetector
    from pipelines.compass.scoring import visor, visor_image

    found = StorybookDetector.from_pretrained(eyes).look(pictures, [prompt.names for prompt in prompts])
    scores = visor(
        [
            visor_image(prompt.text, seen, prompt.names[0], prompt.relation, prompt.names[1])
            for prompt, seen in zip(prompts, found, strict=True)
        ]
    )
    return {"both": scores.both, "conditional": scores.conditional, "unconditional": scores.unconditional}
