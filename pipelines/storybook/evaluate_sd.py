"""What `storybook-sd` paints at 128 px: `python -m pipelines.storybook.evaluate_sd --n 200`."""

from collections.abc import Sequence

import torch
from PIL import Image

from pipelines.storybook.guidance import SD_GUIDANCE
from pipelines.storybook.judging import WEIGHTS, evaluation_parser, measure_prompts, report, weights_key


def main(arguments: Sequence[str] | None = None) -> None:
    parser = evaluation_parser("pipelines.storybook.evaluate_sd", __doc__, WEIGHTS / "storybook-sd")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=SD_GUIDANCE)
    options = parser.parse_args(arguments)
    from diffusers import StableDiffusionPipeline

    from pipelines.runtime import choose_runtime

    runtime = choose_runtime()
    pipeline = StableDiffusionPipeline.from_pretrained(
        options.folder, torch_dtype=getattr(torch, runtime.dtype), safety_checker=None
    )
    pipeline.to(runtime.device).set_progress_bar_config(disable=True)

    def paint(prompts: list[str], generators: list[torch.Generator]) -> list[Image.Image]:
        return pipeline(
            prompts,
            generator=generators,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
        ).images

    key = weights_key(options.folder, extra=f"{options.steps}/{options.guidance}")
    report(
        measure_prompts(paint, options.folder.name, key, options.n, options.judge, options.cache), options.out
    )


if __name__ == "__main__":
    main()
