"""A picture's request as code: the same picture from Python and from the shell."""

from __future__ import annotations

import shlex
from pathlib import Path

from studio.recipes import Recipe
from studio.registry import ModelCard
from studio.settings import REPOSITORY


def as_python(recipe: Recipe, card: ModelCard | None) -> str:
    """A script that paints the picture of `recipe`, pixel for pixel; `card` is its model, if known."""
    request = recipe.request
    return "\n".join(
        [
            "from pathlib import Path",
            "from pipelines.compose.painting import load_model, paint",
            "",
            *_loading(recipe, card),
            "painted = paint(",
            "    model,",
            f"    prompt={recipe.prompt!r},",
            f"    width={request.width},",
            f"    height={request.height},",
            f"    seed={request.seed},",
            f"    steps={recipe.steps},",
            *(["    cut_prompt=True,"] if request.cut_prompt else []),
            ")",
            'painted.image.save("picture.png")',
        ]
    )


def as_shell(recipe: Recipe) -> str:
    """The command that paints the picture of `recipe`."""
    request = recipe.request
    # the painted prompt has the style's words in it, so the command names no style
    words = ["--size", request.size, "--seed", str(request.seed), "--steps", str(recipe.steps)]
    if request.tenor is not None:
        words.append("--tenor" if request.tenor else "--no-tenor")
    if request.cut_prompt:
        words.append("--cut-prompt")
    words += ["--model", request.model, "--out", "picture.png"]
    options = shlex.join(words)
    if recipe.prompt.startswith("-"):
        # it would be read as an option
        return f"printf %s {shlex.quote(recipe.prompt)} | python -m studio image - {options}"
    return f"python -m studio image {shlex.quote(recipe.prompt)} {options}"


def _loading(recipe: Recipe, card: ModelCard | None) -> list[str]:
    """The lines that load the model, with the weights of CoMPaSS as they worked in the studio."""
    folder = recipe.request.model if card is None else _folder(card.folder)
    if card is None or card.tenor is None:
        return [f"model = load_model(Path({folder!r}))"]
    trained = folder if card.tenor == card.folder else f"{folder}/{card.tenor.name}"
    lines = [f"model = load_model(Path({folder!r}), Path({trained!r}))"]
    if recipe.request.tenor is False:
        lines += ["from pipelines.compass.support import disable_tenor"]
        lines += ["for pipeline in model.composers:", "    disable_tenor(pipeline)"]
    return lines


def _folder(folder: Path) -> str:
    """The folder as a person in a clone would write it; where other models lie is nobody's business."""
    if folder.is_relative_to(REPOSITORY):
        return folder.relative_to(REPOSITORY).as_posix()
    return folder.name
