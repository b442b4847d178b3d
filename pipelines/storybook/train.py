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
    parser.add_argument("--parts", type=Path, help="folder with vae and text encoders (flux)")
    parser.add_argument("--start-from", type=Path, help="published weights to start from, with a short re-warm-up")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    task, config = RECIPES[options.recipe](options)
    start = load_weights(options.start_from) if options.start_from else None
    Run(task, config, options.state, start).train(options.minutes)


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the safetensors files in a model folder."""
    from safetensors.torch import load_file

    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def _vae(_):
    from pipelines.storybook.train_vae import VAETask, vae_recipe

    return VAETask(), vae_recipe()


def _t5(_):
    from pipelines.storybook.train_text import T5Task, t5_recipe

    return T5Task(), t5_recipe()


def _clip(_):
    from pipelines.storybook.train_clip import CLIPTask, clip_recipe

    return CLIPTask(), clip_recipe()


def _flux(options):
    from pipelines.storybook.train_flux import FluxTask, flux_recipe

    return FluxTask(options.parts, options.state / "cache"), flux_recipe()


RECIPES = {"clip": _clip, "flux": _flux, "t5": _t5, "vae": _vae}

if __name__ == "__main__":
    main()
