"""The command line that every recipe table shares."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Uses:
    """Options of its program that a recipe can't do without, and others that it reads."""

    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()


def parse_recipe(
    parser: argparse.ArgumentParser, uses: Mapping[str, Uses], arguments: Sequence[str] | None
) -> argparse.Namespace:
    """Parsed arguments; ends with one line where the recipe lacks an option or wouldn't read it."""
    options = parser.parse_args(arguments)
    own = uses.get(options.recipe, Uses())
    for name in dict.fromkeys(name for use in uses.values() for name in (*use.needs, *use.takes)):
        is_given = getattr(options, name) != parser.get_default(name)
        if not is_given and name in own.needs:
            parser.error(f"{options.recipe} needs --{name}")
        if is_given and name not in (*own.needs, *own.takes):
            readers = [recipe for recipe, use in uses.items() if name in (*use.needs, *use.takes)]
            parser.error(f"{options.recipe} has no use for --{name}; it is for {', '.join(readers)}")
    return options


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
