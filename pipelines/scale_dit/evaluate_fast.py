"""The few-step variant beside the full model: `python -m pipelines.scale_dit.evaluate_fast --n 200`.

Accuracy by the judge, seconds a picture in the same run, and diversity: the mean distance between pictures of
one prompt and different seeds, as a share of the full model's.
"""

import json
import time
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipelines.storybook.judging import WEIGHTS, evaluation_parser, measure_prompts, report, weights_key
from pipelines.storybook.prompts import one_object_prompts

SEEDS = 6


def fast_calls(steps: int) -> dict[str, Any]:
    """Arguments of a few-step call: no guidance, and four steps of each further stage, as in the studio."""
    return {"num_inference_steps": steps, "high_res_steps": 4, "guidance_scale": 1.0}


def diversity(pictures: Sequence[Image.Image]) -> float:
    """Mean root-mean-square distance of all pairs at 32 px, 0 to 1."""
    small = [
        np.asarray(picture.resize((32, 32), Image.Resampling.BOX), np.float64) / 255 for picture in pictures
    ]
    return float(np.mean([np.sqrt(np.mean((a - b) ** 2)) for a, b in combinations(small, 2)]))


def compare(pipeline: Any, steps: int, prompts: int) -> dict[str, dict[str, float]]:
    """Seconds a 256 px picture and diversity over seeds, of the full and of the few-step variant."""
    asked = [asked.text for asked in one_object_prompts(prompts, False, seed=73)]
    figures: dict[str, dict[str, float]] = {}
    for name, chosen in (("full", {}), ("fast", fast_calls(steps))):
        (pipeline.enable_lora if name == "fast" else pipeline.disable_lora)()
        pipeline(asked[0], height=256, width=256, generator=torch.Generator().manual_seed(0), **chosen)
        began, values = time.perf_counter(), []
        for text in asked:
            generators = [torch.Generator().manual_seed(seed) for seed in range(SEEDS)]
            values.append(
                diversity(
                    pipeline([text] * SEEDS, height=256, width=256, generator=generators, **chosen).images
                )
            )
        seconds = (time.perf_counter() - began) / (SEEDS * len(asked))
        figures[name] = {"seconds": seconds, "diversity": float(np.mean(values))}
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    from pipelines.scale_dit.train_fast import CALLS

    parser = evaluation_parser("pipelines.scale_dit.evaluate_fast", __doc__, WEIGHTS / "storybook-flux")
    parser.add_argument("--lora", default="fast-lora", help="folder of the LoRA below the model folder")
    parser.add_argument("--steps", type=int, default=CALLS)
    options = parser.parse_args(arguments)
    from pipelines.runtime import choose_runtime
    from pipelines.scale_dit.pipeline_scale_dit import ScaleDiTPipeline

    runtime = choose_runtime()
    pipeline = ScaleDiTPipeline.from_pretrained(options.folder, dtype=getattr(torch, runtime.dtype))
    lora = options.folder / options.lora
    pipeline.load_lora_weights(lora, adapter_name="fast")
    pipeline.to(runtime.device).set_progress_bar_config(disable=True)

    def paint(prompts: list[str], generators: list[torch.Generator]) -> list[Image.Image]:
        return pipeline(prompts, generator=generators, **fast_calls(options.steps)).images

    key = weights_key(options.folder, lora, extra=f"{options.lora}/{options.steps}")
    report(
        measure_prompts(paint, f"{options.folder.name}-fast", key, options.n, options.judge, options.cache),
        options.out,
    )
    beside = compare(pipeline, options.steps, max(4, options.n // 25))
    kept = beside["fast"]["diversity"] / beside["full"]["diversity"]
    for name, figures in beside.items():
        print(f"{name:5} {figures['seconds']:.2f} s a 256 px picture, diversity {figures['diversity']:.4f}")
    print(f"diversity kept: {kept:.0%}")
    if options.out:
        table = json.loads(options.out.read_text(encoding="utf-8"))
        count = max(4, options.n // 25)
        table["beside"] = {
            "diversity_kept": {"value": round(kept, 4), "n": count},
            "seconds_full": {"value": round(beside["full"]["seconds"], 3), "n": count, "unit": "s"},
            "seconds_fast": {"value": round(beside["fast"]["seconds"], 3), "n": count, "unit": "s"},
        }
        options.out.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
