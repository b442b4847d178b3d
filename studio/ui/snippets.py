"""A picture's request as code: the same picture from Python and from the shell."""

from __future__ import annotations

import shlex

from studio.recipes import Recipe
from studio.registry import ModelCard
from studio.settings import REPOSITORY


def as_python(recipe: Recipe, card: ModelCard | None) -> str:
    """A script that paints the picture of `recipe` with the pipeline alone; `card` is its model, if known."""
    request = recipe.request
    folder = recipe.request.model if card is None else _folder(card)
    return "\n".join(
        [
            "import torch",
            "from pipelines import load_pipeline",
            "",
            f"pipe = load_pipeline({folder!r})",
            "image = pipe(",
            f"    {recipe.prompt!r},",
            f"    width={request.width},",
            f"    height={request.height},",
            f"    num_inference_steps={recipe.steps},",
            f"    generator=torch.Generator().manual_seed({request.seed}),",
            ").images[0]",
            'image.save("picture.png")',
        ]
    )


def as_shell(recipe: Recipe) -> str:
    """The command that paints the picture of `recipe`."""
    request = recipe.request
    # the painted prompt has the style's words in it, so the command names no style
    words = ["--size", request.size, "--seed", str(request.seed), "--steps", str(recipe.steps)]
    words += ["--model", request.model, "--out", "picture.png"]
    options = shlex.join(words)
    if recipe.prompt.startswith("-"):
        # it would be read as an option
        return f"printf %s {shlex.quote(recipe.prompt)} | python -m studio image - {options}"
    return f"python -m studio image {shlex.quote(recipe.prompt)} {options}"


def _folder(card: ModelCard) -> str:
    """The folder as a person in a clone would write it; where other models lie is nobody's business."""
    if card.folder.is_relative_to(REPOSITORY):
        return card.folder.relative_to(REPOSITORY).as_posix()
    return card.folder.name
