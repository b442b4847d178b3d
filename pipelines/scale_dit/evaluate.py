"""What `storybook-flux` paints, as the judge sees it: `python -m pipelines.scale_dit.evaluate --n 200`."""

from collections.abc import Sequence

import torch
from PIL import Image

from pipelines.storybook.judging import WEIGHTS, evaluation_parser, measure_prompts, report, weights_key


def main(arguments: Sequence[str] | None = None) -> None:
    parser = evaluation_parser("pipelines.scale_dit.evaluate", __doc__, WEIGHTS / "storybook-flux")
    parser.add_argument("--size", type=int, help="side in pixels; default: the model's base size")
    parser.add_argument("--steps", type=int, help="of the first stage; default: the pipeline's")
    parser.add_argument("--guidance", type=float, help="classifier-free guidance; default: the pipeline's")
    options = parser.parse_args(arguments)
    from pipelines.runtime import choose_runtime
    from pipelines.scale_dit.pipeline_scale_dit import ScaleDiTPipeline

    runtime = choose_runtime()
    pipeline = ScaleDiTPipeline.from_pretrained(options.folder, dtype=getattr(torch, runtime.dtype))
    pipeline.to(runtime.device).set_progress_bar_config(disable=True)
    chosen = {
        name: value
        for name, value in (
            ("height", options.size),
            ("width", options.size),
            ("num_inference_steps", options.steps),
            ("guidance_scale", options.guidance),
        )
        if value is not None
    }

    def paint(prompts: list[str], generators: list[torch.Generator]) -> list[Image.Image]:
        return pipeline(prompts, generator=generators, **chosen).images

    key = weights_key(options.folder, extra=str(chosen))
    report(
        measure_prompts(paint, options.folder.name, key, options.n, options.judge, options.cache), options.out
    )


if __name__ == "__main__":
    main()
