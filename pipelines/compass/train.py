"""Train CoMPaSS weights: `python -m pipelines.compass.train flux --state DIR --parts DIR --minutes 9`.

"flux" and "sd" are the method; "-scop" leaves out TENOR, "-plain" also the filter: the arms of the
comparison.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.compass.scop_rules import PROFILES, ScopParams
from pipelines.compass.sidecar import MAX_LENGTH, Sidecar, write_sidecar
from pipelines.training.command import Recipe, Uses, parse_recipe, recipe_parser, run_recipe
from pipelines.training.loop import LoopConfig, Task

SCENES = 12_000  # different Storybook scenes of a run


def _source(
    options: argparse.Namespace, scop: bool, seed: int, long_share: float = 0.0
) -> Callable[[Any], Any]:
    """What makes the stream of samples once the autoencoder is there."""
    from pipelines.compass.pair_data import FolderPairs, ScenePairs

    if options.data is not None:
        return lambda vae: FolderPairs(options.data, vae, seed=seed)
    params = ScopParams(profile=options.profile) if scop else None
    # latents of one stream must never serve another
    cache = options.state / "cache" / (params.profile if params else "plain")
    return lambda vae: ScenePairs(vae, cache, options.scenes, seed, params, long_share)


def _note(options: argparse.Namespace, variant: str, tenor: bool) -> None:
    """Keep beside the checkpoint what the weights are trained with; publishing copies it."""
    options.state.mkdir(parents=True, exist_ok=True)
    write_sidecar(options.state, Sidecar(tenor, variant, MAX_LENGTH[variant]))


def _eyes(options: argparse.Namespace) -> Path | None:
    eyes = options.parts.parent / "storybook-eyes"
    return eyes if eyes.is_dir() else None


def _flux(options: argparse.Namespace, scop: bool, tenor: bool) -> tuple[Task, LoopConfig]:
    from pipelines.compass.train_flux import (
        LONG_CAPTIONS,
        FluxAdapterTask,
        flux_adapter_recipe,
        published_flux_recipe,
    )

    source = _source(options, scop, 51, LONG_CAPTIONS)
    task = FluxAdapterTask(options.parts, source, tenor, options.rank, eyes=_eyes(options))
    _note(options, "flux-double", tenor)
    published = task.transformer.config.guidance_embeds
    return task, published_flux_recipe() if published else flux_adapter_recipe()


def _sd(options: argparse.Namespace, scop: bool, tenor: bool) -> tuple[Task, LoopConfig]:
    from pipelines.compass.train_unet import UNetTask, published_unet_recipe, unet_recipe

    task = UNetTask(options.parts, _source(options, scop, 61), tenor, grounded=scop, eyes=_eyes(options))
    _note(options, "unet", tenor)
    return task, unet_recipe() if options.data is None else published_unet_recipe()


RECIPES: dict[str, Recipe] = {
    f"{name}{arm}": partial(build, scop=scop, tenor=tenor)
    for name, build in (("flux", _flux), ("sd", _sd))
    for arm, scop, tenor in (("", True, True), ("-scop", True, False), ("-plain", False, False))
}

USES = {
    name: Uses(
        needs=("parts",),
        takes=(
            *("data", "scenes"),
            *(("rank",) if name.startswith("flux") else ()),
            *(() if name.endswith("-plain") else ("profile",)),
        ),
    )
    for name in RECIPES
}


def main(arguments: list[str] | None = None) -> None:
    parser = recipe_parser("pipelines.compass.train", __doc__, RECIPES)
    parser.add_argument("--parts", type=Path, required=True, help="model folder to start from")
    parser.add_argument("--data", type=Path, help="folder mined by SCOP; default: Storybook scenes")
    parser.add_argument("--profile", choices=PROFILES, default="official", help="of the filter on scenes")
    parser.add_argument("--rank", type=int, default=16, help="of the FLUX adapter")
    parser.add_argument("--scenes", type=int, default=SCENES, help="different Storybook scenes")
    run_recipe(RECIPES, parse_recipe(parser, USES, arguments))


if __name__ == "__main__":
    main()
