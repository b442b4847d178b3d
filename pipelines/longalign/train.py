"""Train a stage of LongAlign: `python -m pipelines.longalign.train align --parts DIR --state DIR`.

align: LoRA and adapter on pages. lcm: four steps. reward: preference over fifty steps (GPU). reward-on-lcm:
preference over four steps. long-clip: a CLIP model stretched to 248 positions.
"""

import argparse
from pathlib import Path

from pipelines.longalign.train_parts import Sources
from pipelines.training.command import Recipe, Uses, parse_recipe, recipe_parser, run_recipe
from pipelines.training.loop import LoopConfig, Task


def _sources(options: argparse.Namespace) -> Sources:
    return Sources(options.parts, options.t5, options.longalign)


def _cache(options: argparse.Namespace) -> Path:
    return options.cache or options.state / "cache"


def _align(options: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.longalign.train_align import AlignTask, align_recipe

    return AlignTask(_sources(options), _cache(options)), align_recipe()


def _lcm(options: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.longalign.train_lcm import LCMTask, lcm_recipe

    return LCMTask(_sources(options), _cache(options)), lcm_recipe()


def _reward(options: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.longalign.train_reward import RewardTask, reward_on_lcm_recipe, reward_recipe

    few_steps = options.recipe == "reward-on-lcm"
    task = RewardTask(
        _sources(options), options.preference, options.state, few_steps=few_steps, weight=options.reweight
    )
    return task, reward_on_lcm_recipe() if few_steps else reward_recipe()


def _long_clip(options: argparse.Namespace) -> tuple[Task, LoopConfig]:
    from pipelines.longalign.train_long_clip import LongCLIPTask, long_clip_recipe

    return LongCLIPTask(options.preference), long_clip_recipe()


RECIPES: dict[str, Recipe] = {
    "align": _align,
    "lcm": _lcm,
    "long-clip": _long_clip,
    "reward": _reward,
    "reward-on-lcm": _reward,
}

_REWARD = Uses(needs=("parts", "longalign", "preference"), takes=("t5", "reweight"))
USES = {
    "align": Uses(needs=("parts",), takes=("t5", "cache")),
    "lcm": Uses(needs=("parts", "longalign"), takes=("t5", "cache")),
    "long-clip": Uses(needs=("preference",)),
    "reward": _REWARD,
    "reward-on-lcm": _REWARD,
}


def main(arguments: list[str] | None = None) -> None:
    parser = recipe_parser("pipelines.longalign.train", __doc__, RECIPES)
    parser.add_argument("--parts", type=Path, help="folder of the Stable Diffusion model")
    parser.add_argument("--t5", type=Path, help="folder with text_encoder_2 and tokenizer_2 (default: no T5)")
    parser.add_argument("--longalign", type=Path, help="LongAlign folder with the stages before this one")
    parser.add_argument(
        "--preference", type=Path, help="folder of the CLIP model that scores, or is stretched"
    )
    parser.add_argument("--cache", type=Path, help="align, lcm: folder of latents. Default: in --state")
    parser.add_argument("--reweight", type=float, default=0.3, help="w: share of the text-irrelevant part")
    run_recipe(RECIPES, parse_recipe(parser, USES, arguments))


if __name__ == "__main__":
    main()
