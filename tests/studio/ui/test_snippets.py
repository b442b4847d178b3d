"""A picture's request as code: what it paints is the picture, pixel for pixel."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from studio.doors.painting import PipelinePainter
from studio.recipes import make_recipe
from studio.registry import tenor_weights
from studio.requests import ImageRequest
from studio.settings import REPOSITORY
from studio.ui.snippets import as_python, as_shell

WEIGHTS = REPOSITORY / "assets" / "weights"
PROMPT = "a red ball in a meadow"


def recipe_of(request: ImageRequest, result: Any) -> Any:
    return make_recipe(request, PROMPT, request.steps or 20, result)


@pytest.mark.parametrize("model", ["storybook-flux", "storybook-sd"])
def test_the_python_code_paints_the_same_picture(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    painter = PipelinePainter()
    asked: dict[str, Any] = {"prompt": PROMPT, "width": 192, "height": 96, "seed": 3, "steps": 9}
    loaded = painter.load_model(WEIGHTS / model)
    result = painter.paint(loaded, **asked, on_progress=None, should_stop=None)
    card: Any = SimpleNamespace(folder=WEIGHTS / model, tenor=tenor_weights(WEIGHTS / model))
    code = as_python(recipe_of(ImageRequest(**asked, model=model), result), card)
    assert f"assets/weights/{model}" in code
    monkeypatch.chdir(tmp_path)
    exec(code.replace("'assets/weights", f"'{WEIGHTS}"), {})
    assert np.array_equal(np.asarray(Image.open("picture.png")), np.asarray(result.image))


def test_the_command_names_everything_that_decides() -> None:
    request = ImageRequest(PROMPT, 192, 96, 3, 9, "storybook-flux", tenor=False)
    result: Any = SimpleNamespace(
        image=Image.new("RGB", (8, 8)), backend="", dtype="", device="", stages=(), seconds={}, peak_bytes=0
    )
    words = shlex.split(as_shell(recipe_of(request, result)))
    assert words[:5] == ["python", "-m", "studio", "image", PROMPT]
    for pair in (["--size", "192x96"], ["--seed", "3"], ["--steps", "9"], ["--model", "storybook-flux"]):
        assert pair == words[words.index(pair[0]) :][:2]
    assert "--no-tenor" in words and "--cut-prompt" not in words
    words = shlex.split(as_shell(recipe_of(ImageRequest(PROMPT, cut_prompt=True), result)))
    assert "--cut-prompt" in words


@pytest.mark.parametrize(
    ("place", "tenor", "lines"),
    [
        ("", None, ["model = load_model(Path('{}'), Path('{}'))"]),
        ("compass-lora", True, ["model = load_model(Path('{}'), Path('{}/compass-lora'))"]),
        (
            "compass",
            False,
            ["model = load_model(Path('{}'), Path('{}/compass'))", "    disable_tenor(pipeline)"],
        ),
    ],
)
def test_the_code_loads_the_weights_of_compass(place: str, tenor: bool | None, lines: list[str]) -> None:
    folder = WEIGHTS / "storybook-flux"
    card: Any = SimpleNamespace(folder=folder, tenor=folder / place)
    result: Any = SimpleNamespace(
        image=Image.new("RGB", (8, 8)), backend="", dtype="", device="", stages=(), seconds={}, peak_bytes=0
    )
    request = ImageRequest(PROMPT, 192, 96, 3, 9, "storybook-flux", tenor=tenor)
    code = as_python(recipe_of(request, result), card).splitlines()
    name = "assets/weights/storybook-flux"
    assert all(line.replace("{}", name) in code for line in lines)
    assert ("    disable_tenor(pipeline)" in code) == (tenor is False)
