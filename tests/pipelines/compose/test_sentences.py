"""What is said about each sentence of a page, with detections put in by hand, and how often it is right."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from pipelines.compose import evaluate_sentences, sentences
from pipelines.compose.evaluate_sentences import Told, figures, ranking
from pipelines.compose.sentences import judge_sentences
from pipelines.longalign.pages import held_out_pages
from pipelines.longalign.preference_model import REFERENCE_FILE, Reference
from pipelines.storybook import detector
from pipelines.storybook.draw import draw_scene

WEIGHTS = Path(__file__).parents[3] / "assets" / "weights"
PICTURE = Image.new("RGB", (200, 100))
CAT, HOUSE = (0.05, 0.3, 0.25, 0.7), (0.7, 0.3, 0.95, 0.7)


class Blank:
    def eval(self):
        return self


@pytest.fixture
def show(monkeypatch):
    """Let the eyes see these objects (kind, colour, pattern, box) in a meadow."""

    def put(*objects, place="meadow"):
        found = tuple(detector.Detection(*item, 0.9) for item in objects)
        answer = [detector.Detections(place, 1.0, found, 2.0)]
        monkeypatch.setattr(detector, "detect", lambda *_, **__: answer)

    return put


def told(prompt):
    return [(one.shown, one.reason) for one in judge_sentences(Blank(), prompt, PICTURE)]


def test_each_sentence_is_told_of_by_what_it_names(show):
    show(("cat", "red", "plain", CAT), ("house", "blue", "striped", HOUSE))
    page = (
        "This is a calm page. There is a red cat in a meadow. The house is blue! A green tree stands there."
    )
    found = judge_sentences(Blank(), page, PICTURE)
    assert [one.shown for one in found] == [None, True, True, False]
    assert found[3].reason == "not found: green tree"
    assert [page[one.start : one.end] for one in found] == [one.text for one in found]
    assert told("The red cat is left of the blue house. The red cat is right of the blue house.") == [
        (True, ""),
        (False, "red cat right of blue house is not what the boxes show"),
    ]
    assert told("The house is striped. There is a striped cat. There are two red cats.") == [
        (True, ""),
        (False, "not found: striped cat"),
        (False, "not found: two red cats"),
    ]


def test_places_are_seen_too(show):
    show(place="beach")
    assert told("The page shows a meadow. The place is a beach.") == [
        (False, "it looks like a beach"),
        (True, ""),
    ]


def test_what_the_eyes_do_not_know_is_left_open(show):
    show()
    assert told("A dragon. It is calm and bright. 猫。 ...") == [(None, "")] * 3
    assert told("") == told("...") == []


def test_emphasis_and_breaks_are_no_words(show):
    show(("cat", "red", "plain", CAT))
    prompt = "a (red:1.3) cat BREAK a (tree:0.8)"
    found = judge_sentences(Blank(), prompt, PICTURE)
    assert [one.text for one in found] == ["a red cat", "a tree"]
    assert [one.shown for one in found] == [True, False]
    assert prompt[found[0].start : found[0].end] == "a (red:1.3) cat"


def test_a_page_of_thousands_is_told_of_in_part(show, monkeypatch):
    show()
    monkeypatch.setattr(sentences, "MOST_SENTENCES", 5)
    assert len(told("a cat. " * 2000)) == 5


def told_of(score, *, is_lost=False, is_whole=False, names_object=True, page=0):
    return Told(page, is_whole, is_lost, names_object, score < 0, score)


def test_figures_are_counted_by_hand():
    sentences_of_one = [told_of(-1.0, is_lost=True), told_of(0.5, is_lost=True), told_of(-0.5), told_of(1.0)]
    whole = [told_of(-0.1, is_whole=True), told_of(0.1, is_whole=True)]
    filler = told_of(-2.0, names_object=False)
    found = figures([*sentences_of_one, *whole])
    shares = {name: (share.right, share.n) for name, share in found.items()}
    assert shares == {
        "found": (1, 2), "false_alarms": (1, 2), "false_alarms_whole": (1, 2), "weakest": (1, 1),
    }  # fmt: skip
    assert ranking([*sentences_of_one, *whole], False) == 0.75
    assert figures([*sentences_of_one, filler])["weakest"].right == 0
    assert ranking([*sentences_of_one, filler], False) == 0.5
    assert ranking([*sentences_of_one, filler], True) == 0.75
    tie = [told_of(0.0, is_lost=True), told_of(0.0)]
    assert figures(tie)["weakest"].right == 0 and ranking(tie, False) == 0.5 == ranking([], False)


def test_the_embedded_eyes_miss_what_is_missing_and_nothing_else():
    eyes = detector.StorybookEyes.from_pretrained(WEIGHTS / "storybook-eyes").eval()
    page = held_out_pages(1)[0]
    lost, *rest = page.scene.objects
    name = f"{lost.colour} {lost.kind}"
    for scene, expected in ((page.scene, False), (replace(page.scene, objects=tuple(rest)), True)):
        found = judge_sentences(eyes, page.text, Image.fromarray(draw_scene(scene, 256, 256)))
        assert any(name in one.text for one in found)
        assert all((one.shown is False) is (expected and name in one.text) for one in found)


def test_the_stored_reference_belongs_to_the_model():
    reference = Reference.load(WEIGHTS / "storybook-clip" / REFERENCE_FILE)
    assert reference.direction.shape == reference.mean_picture.shape == (128,)
    assert abs(float(reference.direction.norm()) - 1) < 1e-5 and float(reference.mean_picture.norm()) < 1


def test_a_measurement_is_written_down(tmp_path, capsys):
    out = tmp_path / "deep" / "table.json"
    evaluate_sentences.main(["--n", "2", "--out", str(out)])
    table = json.loads(out.read_text())
    assert table["eyes"]["found"]["n"] == table["clip"]["found"]["n"] > 0
    assert table["eyes"]["found"]["value"] == 1.0 and 0 <= table["clip"]["ranking"] <= 1
    assert "eyes" in capsys.readouterr().out
