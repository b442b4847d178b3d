"""Train the transformer and what belongs to it.

`python -m pipelines.scale_dit.train flux --state DIR --parts MODEL_FOLDER --minutes 9`
"""

import argparse
from pathlib import Path

from pipelines.training.command import Recipe, recipe_parser, run_recipe
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


def main(arguments: list[str] | None = None) -> None:
    parser = recipe_parser("pipelines.scale_dit.train", __doc__, RECIPES)
    parser.add_argument("--parts", type=Path, help="model folder with vae and text encoders")
    parser.add_argument(
        "--cache", type=Path, help="latents shared between runs of flux and lora; default: in the state"
    )
    options = parser.parse_args(arguments)
    if options.parts is None and options.recipe != "texture":
        parser.error(f"the recipe {options.recipe} needs --parts, a model folder")
    run_recipe(RECIPES, options)


if __name__ == "__main__":
    main()
