"""Train the transformer and what belongs to it.

`python -m pipelines.scale_dit.train flux --state DIR --parts MODEL_FOLDER --minutes 9`
"""

import argparse
from pathlib import Path

from pipelines.training.command import Recipe, Uses, parse_recipe, recipe_parser, run_recipe
from pipelines.training.loop import LoopConfig, Task


def _flux(options: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.scale_dit.train_flux import FluxTask, flux_recipe

    return FluxTask(options.parts, options.cache or options.state / "cache"), flux_recipe()


def _fast(options: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.scale_dit.train_fast import FastTask, fast_recipe

    return FastTask(options.parts), fast_recipe()


def _lora(options: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.scale_dit.train_lora import LoraTask, lora_recipe

    return LoraTask(options.parts, options.cache or options.state / "cache"), lora_recipe()


def _texture(options: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.scale_dit.train_texture import TextureTask, texture_recipe

    return TextureTask(), texture_recipe()


RECIPES: dict[str, Recipe] = {"fast": _fast, "flux": _flux, "lora": _lora, "texture": _texture}
USES = {
    "fast": Uses(needs=("parts",)),
    "flux": Uses(needs=("parts",), takes=("cache",)),
    "lora": Uses(needs=("parts",), takes=("cache",)),
}


def main(arguments: list[str] | None = None) -> None:
    parser = recipe_parser("pipelines.scale_dit.train", __doc__, RECIPES)
    parser.add_argument("--parts", type=Path, help="fast, flux, lora: model folder to build on")
    parser.add_argument(
        "--cache", type=Path, help="flux, lora: latents shared between their runs; default: in the state"
    )
    run_recipe(RECIPES, parse_recipe(parser, USES, arguments))


if __name__ == "__main__":
    main()
