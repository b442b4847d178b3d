"""Train one of Storybook's base models: `python -m pipelines.storybook.train vae --state DIR --minutes 9`."""

import argparse
from pathlib import Path

from pipelines.training.command import Recipe, Uses, parse_recipe, recipe_parser, run_recipe
from pipelines.training.loop import LoopConfig, Task


def _vae(_: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.storybook.train_vae import VAETask, vae_recipe

    return VAETask(), vae_recipe()


def _t5(_: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.storybook.train_text import T5Task, t5_recipe

    return T5Task(), t5_recipe()


def _clip(options: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.storybook.train_clip import CLIPTask, clip_recipe

    return CLIPTask.from_parts(options.parts), clip_recipe()


def _eyes(_: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.storybook.train_detector import DetectorTask, eyes_recipe

    return DetectorTask("eyes"), eyes_recipe()


def _judge(_: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.storybook.train_detector import DetectorTask, judge_recipe

    return DetectorTask("judge"), judge_recipe()


def _clip_text(_: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.storybook.train_clip_text import CLIPTextTask, clip_text_recipe

    return CLIPTextTask(), clip_text_recipe()


def _vae_decoder(options: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.storybook.train_vae import VAEDecoderTask, vae_decoder_recipe

    return VAEDecoderTask(options.parts / "vae"), vae_decoder_recipe()


def _sd(options: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.storybook.train_sd import SDTask, sd_recipe

    return SDTask(options.parts, options.cache or options.state / "cache"), sd_recipe()


RECIPES: dict[str, Recipe] = {
    "clip": _clip,
    "clip-text": _clip_text,
    "eyes": _eyes,
    "judge": _judge,
    "sd": _sd,
    "t5": _t5,
    "vae": _vae,
    "vae-decoder": _vae_decoder,
}

USES = {
    "clip": Uses(needs=("parts",)),
    "sd": Uses(needs=("parts",), takes=("cache",)),
    "vae-decoder": Uses(needs=("parts",)),
}


def main(arguments: list[str] | None = None) -> None:
    parser = recipe_parser("pipelines.storybook.train", __doc__, RECIPES)
    parser.add_argument(
        "--parts",
        type=Path,
        help="clip, sd, vae-decoder: model folder to build on",
    )
    parser.add_argument("--cache", type=Path, help="sd: latents shared between runs; default: in the state")
    run_recipe(RECIPES, parse_recipe(parser, USES, arguments))


if __name__ == "__main__":
    main()
