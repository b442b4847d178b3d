"""The command line that every recipe table shares."""

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from pipelines.training.loop import LoopConfig, Run, Task

DENOISERS = ("transformer", "unet")
Recipe = Callable[[argparse.Namespace], tuple[Task, LoopConfig]]


def recipe_parser(
    program: str, description: str | None, names: Mapping[str, Recipe]
) -> argparse.ArgumentParser:
    """The options of every recipe: name, `--state`, `--minutes`, `--samples`, `--threads`, `--start-from`."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument("recipe", choices=sorted(names))
    parser.add_argument("--state", type=Path, required=True, help="folder of checkpoints and logs")
    parser.add_argument("--minutes", type=float, help="length of this slice; the run resumes next time")
    parser.add_argument("--samples", type=int, help="length of the whole run, where the recipe's is too long")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--start-from", type=Path, help="published weights to start from, with a short re-warm-up"
    )
    return parser


def run_recipe(recipes: Mapping[str, Recipe], options: argparse.Namespace) -> None:
    """Train what the options ask for; a state folder with a checkpoint goes on from there.

    A task of which only a part is published has a method `starting_weights`, which completes it.
    """
    torch.set_num_threads(options.threads)
    task, config = recipes[options.recipe](options)
    if options.samples is not None:
        config = replace(config, samples=options.samples)
    load = getattr(task, "starting_weights", load_weights)
    try:
        start = load(options.start_from) if options.start_from else None
    except (ValueError, OSError) as error:
        print(f"--start-from: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    Run(task, config, options.state, start).train(options.minutes)


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the safetensors files in a folder, or of the denoiser in a pipeline's folder.

    Raises:
        ValueError: there are none.
    """
    from safetensors.torch import load_file

    found = (sorted(part.glob("*.safetensors")) for part in (folder, *(folder / name for name in DENOISERS)))
    files = next(filter(None, found), None)
    if not files:
        raise ValueError(f"{folder} holds no safetensors file")
    return {name: tensor for path in files for name, tensor in load_file(path).items()}
