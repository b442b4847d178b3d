"""Checks before painting, and the adapter to the pipelines side."""

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from studio.crafts.craft import duration
from studio.crafts.pictures import PictureMaker
from studio.crafts.verifying import Verifier
from studio.doors.painting import PipelinePainter
from studio.errors import StudioError
from studio.painter import PaintingStopped
from studio.recipes import Recipe
from studio.registry import Registry
from studio.requests import ImageRequest
from studio.seeing import Eyes
from studio.settings import Settings
from tests.studio.painters import DrawingPainter, FixedLooker, Result, SeedJudge, draw


class Door(ModuleType):
    """Stands for `pipelines.compose.painting`, with the names and keywords of the real one."""

    class Cancelled(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("pipelines.compose.painting")
        self.calls: list[dict[str, Any]] = []

    def load_model(self, folder: Path, compass: Path | None = None) -> str:
        return f"model of {folder.name}"

    def paint(
        self, model: Any, *, prompt: str, width: int, height: int, seed: int, steps: int | None = None,
        cut_prompt: bool = False, on_progress: Any = None, should_stop: Any = None,
    ) -> Result:  # fmt: skip
        self.calls.append(
            {"model": model, "prompt": prompt, "seed": seed, "steps": steps, "cut_prompt": cut_prompt}
        )
        if should_stop():
            raise self.Cancelled
        return Result(draw(prompt, width, height, seed, 4, b""), {"paint": 1.0}, ((width, height),))


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Door:
    door, package = Door(), ModuleType("pipelines.compose")
    package.painting = door  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pipelines.compose", package)
    monkeypatch.setitem(sys.modules, "pipelines.compose.painting", door)
    return door


def test_the_adapter_hands_everything_on(door: Door) -> None:
    painter = PipelinePainter()
    model = painter.load_model(Path("weights/storybook-flux"))
    wanted: dict[str, Any] = {"prompt": "a cat", "width": 64, "height": 48, "seed": 7, "steps": None}
    wanted["cut_prompt"] = True
    result = painter.paint(model, **wanted, on_progress=None, should_stop=lambda: False)
    assert result.image.size == (64, 48)
    told = {"prompt": "a cat", "seed": 7, "steps": None, "cut_prompt": True}
    assert door.calls == [{"model": "model of storybook-flux", **told}]
    with pytest.raises(PaintingStopped):
        painter.paint(model, **wanted, on_progress=None, should_stop=lambda: True)


def test_without_a_manifest_there_are_no_embedded_models(tmp_path: Path) -> None:
    assert PipelinePainter().read_manifest(tmp_path) == {"models": {}}


def maker_of(settings: Settings, painter: DrawingPainter) -> PictureMaker:
    registry = Registry(settings, painter)
    verifier = Verifier(registry, Eyes(registry, FixedLooker()), SeedJudge(painter))
    return PictureMaker(settings, registry, painter, verifier)


def test_limits_of_this_installation_come_on_top(settings: Settings) -> None:
    maker = maker_of(replace(settings, max_side=512, max_prompt_chars=20), DrawingPainter())
    assert maker.check(ImageRequest("a red ball", 512, 512)).forecast.fits
    for request, message in (
        (ImageRequest("a red ball", 528, 64), "width: given 528, allowed multiples of 16 from 64 to 512."),
        (ImageRequest("a" * 21, 64, 64), "prompt: given 21 characters, allowed 1 to 20."),
    ):
        with pytest.raises(StudioError) as refused:
            maker.check(request)
        assert refused.value.message == message
    with pytest.raises(StudioError, match="steps: given 0"):
        maker.forecast(64, 64, 0, "storybook")


def test_steps_are_passed_as_asked_and_recorded_as_taken(settings: Settings) -> None:
    maker = maker_of(settings, DrawingPainter())
    painted = maker.paint(maker.check(ImageRequest("a cat", 64, 64)))
    assert (painted.recipe.request.steps, painted.recipe.steps) == (None, 4)
    assert len(painted.recipe.model_sha256) == 64


def test_many_unknown_words_are_capped(settings: Settings) -> None:
    maker = maker_of(settings, DrawingPainter())
    words = maker.unknown_words(
        " ".join(f"{'x' * 100}{n}" for n in range(70)) + " zz zz " + "y " * 10, "storybook"
    )
    assert words == ("x" * 60, "zz", "y"), "cut to 60 characters, each once"
    assert len(maker.unknown_words(" ".join(f"word{n}" for n in range(5000)), "storybook")) == 50


@pytest.mark.parametrize("size", [(64, 48), (48, 64)])
def test_a_painter_that_returns_another_size_is_caught(size: tuple[int, int], settings: Settings) -> None:
    painter = DrawingPainter()
    maker = maker_of(settings, painter)
    painter.paint = lambda model, **_: Result(draw("x", *size, 0, 4, b""), {}, ())  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="painter gave RGB"):
        maker.paint(maker.check(ImageRequest("a cat", 64, 64)))


def test_tenor_is_for_models_that_were_trained_with_it(settings: Settings) -> None:
    painter = DrawingPainter()
    maker = maker_of(settings, painter)
    with pytest.raises(StudioError, match="tenor: storybook-flux was not trained with it") as refused:
        maker.check(ImageRequest("a cat", 64, 64, tenor=True))
    assert refused.value.exit_code == 2
    (settings.weights_dir / "storybook-flux" / "compass.json").write_text('{"tenor": true}')
    for choice in (None, True, False):
        painted = maker.paint(maker.check(ImageRequest("a cat", 64, 64, tenor=choice)))
        assert painted.recipe.request.tenor is choice
        assert Recipe.from_json(painted.recipe.to_json()).request.tenor is choice
    assert painter.tenors == [None, True, False]
    with pytest.raises(StudioError, match="tenor: given 1, allowed true or false"):
        ImageRequest("a cat", 64, 64, tenor=1)  # type: ignore[arg-type]


class Pipe:
    """A pipeline whose TENOR is one flag."""

    tenor = False


class TenorDoor(ModuleType):
    """Stands for `pipelines.compass.support`, with the names of the real one."""

    def __init__(self) -> None:
        super().__init__("pipelines.compass.support")

    def enable_tenor(self, pipeline: Pipe) -> None:
        pipeline.tenor = True

    def disable_tenor(self, pipeline: Pipe) -> None:
        pipeline.tenor = False

    def has_tenor(self, pipeline: Pipe) -> bool:
        return pipeline.tenor

    def tenor_support(self, pipeline: Pipe) -> Any:
        return SimpleNamespace(status="trained")


@pytest.mark.parametrize("place", ["", "compass-lora"])
def test_the_adapter_switches_tenor_for_one_picture(
    place: str, door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, seen, trained = Pipe(), [], []
    monkeypatch.setitem(sys.modules, "pipelines.compass.support", TenorDoor())
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "compass.json").write_text('{"tenor": true}')

    def load_model(folder: Path, compass: Path | None) -> Any:
        trained.append(compass)
        pipe.tenor = True
        return SimpleNamespace(composers=(pipe,))

    door.load_model = load_model  # type: ignore[method-assign, assignment]

    def paint(model: Any, **_: Any) -> Result:
        seen.append(pipe.tenor)
        return Result(draw("x", 64, 64, 0, 4, b""), {}, ())

    door.paint = paint  # type: ignore[method-assign]
    painter = PipelinePainter()
    model = painter.load_model(tmp_path)
    assert trained == [tmp_path / place]
    wanted: dict[str, Any] = {"prompt": "a cat", "width": 64, "height": 64, "seed": 0, "steps": None}
    for choice in (None, False, True, None):
        painter.paint(model, **wanted, on_progress=None, should_stop=None, tenor=choice)
    assert seen == [True, False, True, True] and pipe.tenor


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"),
        (8.4, "8 s"),
        (99.4, "99 s"),
        (99.6, "2 min"),
        (200, "3 min"),
        (5_940, "99 min"),
        (8_000, "2 h 13 min"),
    ],
)
def test_durations_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_model_with_an_adapter_for_few_steps_says_how_many(tmp_path: Path) -> None:
    painter = PipelinePainter()
    assert painter.few_steps(tmp_path) == 0
    (tmp_path / "fast-lora").mkdir()
    (tmp_path / "sd" / "longalign" / "lcm").mkdir(parents=True)
    assert painter.few_steps(tmp_path) == painter.few_steps(tmp_path / "sd") == 8
