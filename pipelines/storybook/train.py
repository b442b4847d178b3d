"""Train one of Storybook's base models: `python -m pipelines.storybook.train vae --state DIR --minutes 9`."""

import argparse
from pathlib import Path

import torch

from pipelines.training.loop import Run


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.storybook.train", description=__doc__)
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument("--state", type=Path, required=True, help="folder of checkpoints and logs")
    parser.add_argument("--minutes", type=float, help="length of this slice; the run resumes next time")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    task, config = RECIPES[options.recipe]()
    Run(task, config, options.state).train(options.minutes)


def _vae():
    from pipelines.storybook.train_vae import VAETask, vae_recipe

    return VAETask(), vae_recipe()


def _t5():
    from pipelines.storybook.train_text import T5Task, t5_recipe

    return T5Task(), t5_recipe()


def _clip():
    from pipelines.storybook.train_clip import CLIPTask, clip_recipe

    return CLIPTask(), clip_recipe()


RECIPES = {"clip": _clip, "t5": _t5, "vae": _vae}

if __name__ == "__main__":
    main()
