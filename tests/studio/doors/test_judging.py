"""The door to CoMPaSS's verdicts, with detections put in by hand."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from studio.doors.judging import PipelineJudge

PROMPT = "a red cat to the left of a blue house in a meadow"
PICTURE = Image.new("RGB", (200, 100))
COLOURS = {"cat": "red", "house": "blue"}
LEFT, RIGHT = (0.05, 0.3, 0.25, 0.7), (0.7, 0.3, 0.95, 0.7)


class Blank:
    def eval(self) -> Blank:
        return self


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Say where cat and house are, in shares of the picture, for one picture after the other."""
    from pipelines.storybook import detector

    def put(*pictures: dict[str, tuple[float, float, float, float]]) -> None:
        waiting = list(pictures)

        def detect(model: Any, shown: Any, threshold: float) -> list[Any]:
            items = waiting.pop(0).items()
            found = [detector.Detection(kind, COLOURS[kind], "plain", box, 0.9) for kind, box in items]
            return [detector.Detections("meadow", 1.0, tuple(found), 2.0)]

        monkeypatch.setattr(detector, "detect", detect)

    return put


def test_a_picture_is_judged_by_relation(show: Any) -> None:
    judge = PipelineJudge()
    show({"cat": LEFT, "house": RIGHT})
    right = judge.judge(Blank(), PROMPT, PICTURE)
    assert right.passed and right.relations[0].passed is True
    assert right.relations[0].text == "red cat left of blue house"
    assert right.boxes[0] == pytest.approx(LEFT) and right.things == ("red cat", "blue house")
    show({"cat": RIGHT, "house": LEFT})
    assert judge.judge(Blank(), PROMPT, PICTURE).relations[0].passed is False
    show({"house": LEFT})
    missing = judge.judge(Blank(), PROMPT, PICTURE)
    assert missing.missing == ("red cat",) and not missing.passed
    assert "not found" in missing.relations[0].reason
    assert missing.to_json()["relations"][0]["margin"] is None


def test_emphasis_and_breaks_name_nothing(show: Any) -> None:
    prompt = "a (red:1.3) cat to the left of a blue house BREAK a meadow"
    judge = PipelineJudge()
    assert judge.problem(prompt) == ""
    show({"cat": LEFT, "house": RIGHT}, {"cat": LEFT, "house": RIGHT})
    judged = judge.judge(Blank(), prompt, PICTURE)
    assert judged.passed and judged.relations[0].text == "red cat left of blue house"
    painted: list[str] = []

    def paint(text: str, seed: int) -> Image.Image:
        painted.append(text)
        return PICTURE

    search = judge.search(Blank(), prompt, paint, [1], lambda attempt: None, lambda: False)
    assert painted == [prompt] and search.attempts[0].prompt == prompt


def test_a_search_ends_with_the_first_that_passes(show: Any) -> None:
    show({"cat": RIGHT, "house": LEFT}, {"cat": LEFT, "house": RIGHT})
    painted: list[int] = []
    heard: list[Any] = []

    def paint(prompt: str, seed: int) -> Image.Image:
        painted.append(seed)
        return PICTURE

    search = PipelineJudge().search(Blank(), PROMPT, paint, [3, 4, 5], heard.append, lambda: False)
    assert painted == [3, 4] and [attempt.judgement.passed for attempt in heard] == [False, True]
    assert (search.best, search.is_stopped, search.to_json()["accepted"]) == (1, False, 1)
    assert PipelineJudge().search(Blank(), PROMPT, paint, [3], heard.append, lambda: True).is_stopped


def test_a_page_is_painted_as_it_was_written_however_often_it_fails(show: Any) -> None:
    page = f"This is a page of a storybook. There is {PROMPT}. The red cat has no pattern."
    show({"house": LEFT}, {"house": LEFT}, {"house": LEFT}, {"cat": LEFT, "house": RIGHT})
    painted: list[str] = []

    def paint(prompt: str, seed: int) -> Image.Image:
        painted.append(prompt)
        return PICTURE

    search = PipelineJudge().search(Blank(), page, paint, [0, 1, 2, 3], lambda _: None, lambda: False)
    assert painted == [page] * 4 and search.rephrased == ""
    assert search.attempts[3].judgement.passed and search.best == 3


def test_prompts_that_nothing_can_show_are_known_before() -> None:
    judge = PipelineJudge()
    assert judge.problem(PROMPT) == ""
    assert "impossible" in judge.problem("a cat left of a house, the house left of the cat")
    assert judge.problem("an astronaut on a horse") == "the prompt names nothing that the eyes know."
