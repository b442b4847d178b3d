"""Train the transformer: `python -m pipelines.scale_dit.train flux --state DIR --parts DIR --minutes 9`."""

import argparse
from pathlib import Path

from pipelines.training.command import Recipe, recipe_parser, run_recipe
from pipelines.training.loop import LoopConfig, Task


def _flux(options: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.scale_dit.train_flux import FluxTask, flux_recipe

    return FluxTask(options.parts, options.cache or options.state / "cache"), flux_recipe()


def _fast(options: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.scale_dit.train_fast import FastTask, fast_recipe

    return FastTask(options.parts, options.cache or options.state / "cache"), fast_recipe()


def _lora(options: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.scale_dit.train_lora import LoraTask, lora_recipe

    return LoraTask(options.parts, options.cache or options.state / "cache"), lora_recipe()


RECIPES: dict[str, Recipe] = {"fast": _fast, "flux": _flux, "lora": _lora}


def main(arguments: list[str] | None = None) -> None:
    parser = recipe_parser("pipelines.scale_dit.train", __doc__, RECIPES)
    parser.add_argument("--parts", type=Path, required=True, help="model folder with vae and text encoders")
    parser.add_argument("--cache", type=Path, help="latents shared between runs; default: below the state")
    run_recipe(RECIPES, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
