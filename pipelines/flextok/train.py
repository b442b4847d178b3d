"""Train tokenizer, its encoder or decoder alone, or generator.

`python -m pipelines.flextok.train flextok --state DIR --minutes 9`
"""

import argparse
from pathlib import Path

from pipelines.training.command import Recipe, Uses, parse_recipe, recipe_parser, run_recipe
from pipelines.training.loop import LoopConfig, Task

WEIGHTS = Path("assets/weights")


def _cache(options: argparse.Namespace) -> Path:
    return options.cache or options.state / "cache"


def _flextok(options: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.flextok.train_tokenizer import TokenizerTask, tokenizer_recipe

    return TokenizerTask(options.parts, options.eyes, _cache(options)), tokenizer_recipe()


def _encoder(options: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.flextok.train_tokenizer import EncoderTask, encoder_recipe

    return EncoderTask(options.parts, options.eyes, _cache(options)), encoder_recipe()


def _decoder(options: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.flextok.train_tokenizer import DecoderTask, decoder_recipe

    return DecoderTask(options.parts, options.eyes, _cache(options), options.tokenizer), decoder_recipe()


def _flexar(options: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.flextok.train_flexar import FlexARTask, flexar_recipe

    return FlexARTask(options.tokenizer, options.parts, _cache(options)), flexar_recipe()


RECIPES: dict[str, Recipe] = {
    "decoder": _decoder,
    "encoder": _encoder,
    "flexar": _flexar,
    "flextok": _flextok,
}
USES = {
    "decoder": Uses(takes=("parts", "eyes", "tokenizer", "cache")),
    "encoder": Uses(takes=("parts", "eyes", "cache")),
    "flexar": Uses(takes=("parts", "tokenizer", "cache")),
    "flextok": Uses(takes=("parts", "eyes", "cache")),
}


def main(arguments: list[str] | None = None) -> None:
    parser = recipe_parser("pipelines.flextok.train", __doc__, RECIPES)
    parser.add_argument(
        "--parts",
        type=Path,
        default=WEIGHTS / "storybook-flux",
        help="folder with vae, text_encoder_2, tokenizer_2",
    )
    parser.add_argument(
        "--eyes", type=Path, default=WEIGHTS / "storybook-eyes", help="all but flexar: the frozen eyes"
    )
    parser.add_argument("--cache", type=Path, help="latents that the recipes share; default: in the state")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        default=WEIGHTS / "storybook-flextok",
        help="flexar, decoder: folder of the tokenizer",
    )
    run_recipe(RECIPES, parse_recipe(parser, USES, arguments))


if __name__ == "__main__":
    main()
