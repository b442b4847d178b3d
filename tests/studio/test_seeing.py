"""What the eyes see: by the shell, by the page, and which pictures they are shown."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from studio.cli import main
from studio.doors import painting, seeing
from studio.doors.doors import Doors
from studio.errors import StudioError
from studio.requests import ImageRequest, ScoreRequest
from studio.settings import Settings
from studio.studio import Studio
from studio.visit import Visit
from tests.studio.conftest import finished
from tests.studio.painters import DrawingPainter, FixedLooker, make_weights


@pytest.fixture
def looker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FixedLooker:
    looker = FixedLooker()
    weights = make_weights(tmp_path / "with_eyes", ("storybook-flux", "storybook-eyes"))
    monkeypatch.setattr(seeing, "PipelineLooker", lambda: looker)
    monkeypatch.setattr(painting, "PipelinePainter", DrawingPainter)
    monkeypatch.setenv("TESSERA_WEIGHTS_DIR", str(weights))
    monkeypatch.chdir(tmp_path)
    return looker


def test_score_prints_one_object_for_all_pictures(
    looker: FixedLooker, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "b.webp"):
        Image.new("RGB", (64, 48)).save(name)
    assert main(["score", "a.png", "b.webp"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["model"] == "storybook-eyes" and [item["file"] for item in facts["pictures"]] == [
        "a.png",
        "b.webp",
    ]
    first = facts["pictures"][0]
    assert (first["width"], first["height"], first["place"]) == (64, 48, "meadow")
    assert first["objects"][1] == {
        "kind": "house", "colour": "blue", "pattern": "striped", "box": [0.55, 0.3, 0.95, 0.8], "score": 0.8,
    }  # fmt: skip
    assert first["relations"] == [{"subject": 0, "relation": "left of", "object": 1}]
    assert looker.loads == ["storybook-eyes"], "loaded once for all files"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "There is no picture 'x.png'"),
        (b"text", "can't be read as a PNG"),
        ("cut", "cut short or damaged"),
    ],
)
def test_score_refuses_what_is_no_picture(
    content: bytes | str | None, sentence: str, looker: FixedLooker, capsys: pytest.CaptureFixture[str]
) -> None:
    if content == "cut":
        Image.effect_noise((64, 64), 50).save("x.png")
        content = Path("x.png").read_bytes()[:900]
    if isinstance(content, bytes):
        Path("x.png").write_bytes(content)
    assert main(["score", "x.png"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and sentence in captured.err and captured.err.count("\n") == 1


def test_score_without_eyes_is_one_line(
    looker: FixedLooker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TESSERA_WEIGHTS_DIR", str(make_weights(tmp_path / "blind")))
    Image.new("RGB", (64, 48)).save("a.png")
    assert main(["score", "a.png"]) == 2
    assert capsys.readouterr().err.startswith("error: No model that can look at pictures is installed")
    for count in (0, 1001):
        with pytest.raises(StudioError, match=f"files: given {count}"):
            ScoreRequest(("a.png",) * count)


def test_the_page_asks_once_and_only_for_its_own_pictures(settings: Settings, looker: FixedLooker) -> None:
    weights = make_weights(settings.data_dir / "w", ("storybook-flux", "storybook-eyes"))
    shared = replace(settings, weights_dir=weights, is_shared=True)
    with Studio(shared, DrawingPainter(), Doors(looker=looker)) as studio:
        mine, other = Visit(studio, "m" * 30), Visit(studio, "o" * 30)
        name = mine.submit(ImageRequest("a red ball", 64, 64))
        finished(studio, name)
        threads = [threading.Thread(target=mine.seen, args=(name,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert mine.seen(name)["objects"][0]["kind"] == "cat" and looker.loads == ["storybook-eyes"]
        with pytest.raises(StudioError, match="no such picture"):
            other.seen(name)


def test_an_earlier_stage_is_painted_once(settings: Settings) -> None:
    painter = DrawingPainter(stages=3)
    with Studio(settings, painter) as studio:
        visit = Visit(studio)
        name = visit.submit(ImageRequest("a red ball", 256, 128, 5, steps=3, style="Night"))
        finished(studio, name)
        stage = visit.stage(name, 1)
        done = finished(studio, stage)
        assert (done.request.size, done.request.steps, done.request.seed) == ("128x64", 3, 5)
        assert painter.painted[-1] == ("a red ball under a night sky", 5)
        assert visit.stage(name, 1) == stage, "known by now"
        visit.delete(stage)
        assert visit.stage(name, 1) != stage
        for index in (-1, 2, 3):
            with pytest.raises(StudioError, match="no such earlier stage"):
                visit.stage(name, index)


def test_a_stage_that_would_be_another_run_alone_is_refused(settings: Settings) -> None:
    painter = DrawingPainter(stages=3)
    with Studio(settings, painter) as studio:
        visit = Visit(studio)
        name = visit.submit(ImageRequest("a red ball", 256, 128))
        finished(studio, name)
        painter.stages = 1
        with pytest.raises(StudioError, match="128x64 can't be painted alone"):
            visit.stage(name, 1)
