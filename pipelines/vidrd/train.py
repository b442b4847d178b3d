"""Train the video models: `python -m pipelines.vidrd.train video --state DIR --parts DIR --minutes 9`."""

import argparse
from pathlib import Path

from pipelines.training.command import Recipe, Uses, parse_recipe, recipe_parser, run_recipe
from pipelines.training.loop import LoopConfig, Task


def _video(options: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.vidrd.train_video import VideoTask, video_recipe

    return VideoTask(options.parts, _cache(options), text=options.text), video_recipe()


def _video_attention(options: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.vidrd.train_video import VideoTask, video_attention_recipe

    task = VideoTask(options.parts, _cache(options), with_attention=True, text=options.text)
    return task, video_attention_recipe()


def _text(options: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.vidrd.train_text import TextTask, text_recipe

    return TextTask(options.parts), text_recipe()


def _decoder(options: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.vidrd.train_decoder import CRITIC_FROM, DecoderTask, decoder_recipe

    config = decoder_recipe()
    late = round(CRITIC_FROM * (options.samples or config.samples))
    return DecoderTask(options.parts, _cache(options), critic_from=late), config


def _interpolation(options: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.vidrd.train_interpolation import InterpolationTask, interpolation_recipe

    return InterpolationTask(options.parts, _cache(options)), interpolation_recipe()


def _cache(options: argparse.Namespace) -> Path:
    return options.cache or options.state / "cache"


RECIPES: dict[str, Recipe] = {
    "text": _text,
    "video": _video,
    "video-attention": _video_attention,
    "decoder": _decoder,
    "interpolation": _interpolation,
}

USES = {
    **dict.fromkeys(("video", "video-attention"), Uses(takes=("cache", "text"))),
    **dict.fromkeys(("decoder", "interpolation"), Uses(takes=("cache",))),
}


def main(arguments: list[str] | None = None) -> None:
    parser = recipe_parser("pipelines.vidrd.train", __doc__, RECIPES)
    parser.add_argument(
        "--parts", type=Path, required=True, help="storybook-sd (interpolation: storybook-video) model folder"
    )
    parser.add_argument("--cache", type=Path, help="folder of the clips' latents. Default: in --state")
    parser.add_argument(
        "--text", type=Path, help="video: folder whose text_encoder reads captions. Default: --parts"
    )
    run_recipe(RECIPES, parse_recipe(parser, USES, arguments))


if __name__ == "__main__":
    main()
