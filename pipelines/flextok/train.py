"""Train tokenizer or generator: `python -m pipelines.flextok.train flextok --state DIR --minutes 9`."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipelines.training.command import recipe_parser
from pipelines.training.loop import LoopConfig, Run

WEIGHTS = Path("assets/weights")


def _flextok(options: argparse.Namespace) -> tuple[Any, LoopConfig]:
    from pipelines.flextok.train_tokenizer import TokenizerTask, tokenizer_recipe

    return TokenizerTask(options.parts, options.eyes, options.state / "cache"), tokenizer_recipe()


def _flexar(options: argparse.Namespace) -> tuple[Any, LoopConfig]:
    from pipelines.flextok.train_flexar import FlexARTask, flexar_recipe

    return FlexARTask(options.tokenizer, options.parts, options.state / "cache"), flexar_recipe()


RECIPES: dict[str, Callable[[argparse.Namespace], tuple[Any, LoopConfig]]] = {
    "flexar": _flexar,
    "flextok": _flextok,
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
        "--eyes", type=Path, default=WEIGHTS / "storybook-eyes", help="flextok: the frozen eyes"
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        default=WEIGHTS / "storybook-flextok",
        help="flexar: folder of the tokenizer",
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    task, config = RECIPES[options.recipe](options)
    if options.samples is not None:
        config = replace(config, samples=options.samples)
    # a pipeline folder holds several models: the task knows which of them it goes on with
    start = task.starting_weights(options.start_from) if options.start_from else None
    Run(task, config, options.state, start).train(options.minutes)


if __name__ == "__main__":
    main()
