"""`score`: what the eyes see in pictures."""

from __future__ import annotations

import argparse
from typing import Any

from studio.commands.console import existing, print_json, quiet_stdout
from studio.doors import painting
from studio.doors import seeing as seeing_door
from studio.errors import StudioError
from studio.recipes import open_picture
from studio.registry import Registry
from studio.requests import ScoreRequest
from studio.seeing import EYES, Eyes
from studio.settings import Settings


def score(arguments: argparse.Namespace) -> int:
    """Print one JSON object: each picture with the objects, colours and relations in it."""
    request = ScoreRequest(tuple(arguments.files))
    paths = [existing(file, "picture") for file in request.files]
    eyes = Eyes(Registry(Settings.from_env(), painting.PipelinePainter()), seeing_door.PipelineLooker())
    seen: list[dict[str, Any]] = []
    for path in paths:
        # one at a time: a thousand large pictures at once would not fit into memory
        with open_picture(path) as picture, quiet_stdout():
            try:
                picture.load()
            except (OSError, SyntaxError) as error:
                raise StudioError(
                    "bad_input", f"The picture {path.name!r} is cut short or damaged."
                ) from error
            (found,) = eyes.look([picture])
            seen.append(
                {"file": str(path), "width": picture.width, "height": picture.height, **found.to_json()}
            )
    print_json({"model": EYES, "pictures": seen})
    return 0
