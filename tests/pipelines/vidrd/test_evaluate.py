"""Verdicts on films: who is there, which way it went, and systems side by side."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipelines.storybook import detector
from pipelines.storybook.detector import Detection, Detections
from pipelines.storybook.scene import is_held_out_pair
from pipelines.storybook.vocabulary import unknown_words
from pipelines.vidrd import evaluate, film_sheet
from pipelines.vidrd.evaluate import (
    SYSTEMS,
    AskedMotion,
    FilmTrial,
    evaluate_films,
    evaluate_interpolation,
    evaluate_memory,
    film_with,
    judge_film,
    motion_prompts,
    moves_as_asked,
    summary,
)
from pipelines.vidrd.interpolation import interpolate_flow, interpolate_linear

BALL = AskedMotion("a red ball moves to the right in a room", "ball", "red", "right")


def box(x, y, side=0.2):
    return (x, y, x + side, y + side)


@pytest.mark.parametrize(
    ("last", "motion", "right"),
    [
        (box(0.5, 0.4), "right", True),
        (box(0.5, 0.4), "left", False),
        (box(0.31, 0.4), "right", False),  # too little to be a motion
        (box(0.4, 0.8), "right", False),  # it rather falls
        (box(0.3, 0.7), "down", True),
        (box(0.3, 0.1), "up", True),
        (box(0.3, 0.4, 0.24), "larger", True),
        (box(0.3, 0.4), "larger", False),
    ],
)
def test_directions(last, motion, right):
    assert moves_as_asked(box(0.3, 0.4), last, motion) == right


def test_prompts_ask_for_motion_from_one_side_of_the_split():
    for held_out in (False, True):
        asked = list(motion_prompts(12, held_out))
        assert len(asked) == 12
        assert all(is_held_out_pair(a.colour, a.kind) == held_out for a in asked)
        assert all(unknown_words(a.text) == [] and a.kind in a.text and a.colour in a.text for a in asked)
        assert asked == list(motion_prompts(12, held_out))
        sideways = [a.text for a in asked if a.motion in ("left", "right")]
        assert sideways and all(" moves slowly to the " in text for text in sideways)


def stub_judge(monkeypatch, objects_of):
    """Detections made up per picture, read off its first pixel."""

    def detect(judge, pictures):
        return [Detections("room", 1.0, objects_of(picture.getpixel((0, 0))[0])) for picture in pictures]

    monkeypatch.setattr(detector, "detect", detect)


def clip_of(*marks):
    return [Image.new("RGB", (32, 32), (mark, 0, 0)) for mark in marks]


def test_identity_needs_every_clip_and_direction_the_whole_film(monkeypatch):
    def objects(mark):
        if mark == 0:
            return ()
        return (Detection("ball", "red", "plain", box(mark / 100, 0.4), 0.9),)

    stub_judge(monkeypatch, objects)
    good = judge_film([clip_of(10, 20, 30), clip_of(40, 50)], BALL, None)
    assert good["identity"] and good["direction"] and good["flow_px"] >= 0
    lost = judge_film([clip_of(10, 20, 30), clip_of(0, 0)], BALL, None)
    assert not lost["identity"] and lost["direction"]
    back = judge_film([clip_of(30, 20, 10), clip_of(50, 40)], BALL, None)
    assert back["identity"] and not back["direction"]
    never = judge_film([clip_of(0, 0)], BALL, None)
    assert never["direction"] is None and not never["identity"]
    blue = judge_film([clip_of(10, 20)], replace(BALL, colour="blue"), None)
    assert not blue["identity"]


def way(*places):
    return [box(place, 0.4) for place in places]


def drop(*places):
    return [box(0.4, place) for place in places]


def swell(*sides):
    return [box(0.4, 0.4, side) for side in sides]


@pytest.mark.parametrize(
    ("tracks", "motion", "verdict"),
    [
        # slowly through the whole film, four new frames a clip
        ([way(0.1, 0.15, 0.2), way(0.24, 0.27), way(0.3, 0.33), way(0.36, 0.4)], "right", True),
        # it comes to the edge in the last clip
        ([way(0.5, 0.55, 0.6), way(0.64, 0.67), way(0.7, 0.75), way(0.75, 0.75)], "right", True),
        # right in every clip, but each begins where it likes: the object gets nowhere
        ([way(0.5, 0.6), way(0.4, 0.5), way(0.3, 0.4), way(0.1, 0.2)], "right", False),
        # there and back, as films of the mirror order go
        ([way(0.1, 0.3), way(0.3, 0.1), way(0.1, 0.3), way(0.3, 0.1)], "right", False),
        # it fell in the first clip and lies there: what happens once is asked once
        ([drop(0.1, 0.2, 0.5), drop(0.5, 0.5), drop(0.51, 0.5), drop(0.5, 0.49)], "down", True),
        ([drop(0.1, 0.5), drop(0.1, 0.5), drop(0.1, 0.5), drop(0.1, 0.5)], "down", False),  # over and over
        ([drop(0.1, 0.5), drop(0.5, 0.1), drop(0.1, 0.5)], "down", False),  # up again
        ([drop(0.1, 0.2, 0.3), drop(0.25, 0.35), drop(0.4, 0.5)], "down", True),  # a small hop
        ([drop(0.1), drop(0.5)], "down", True),
        ([swell(0.2, 0.25), swell(0.3, 0.4), swell(0.4, 0.4)], "larger", True),
        ([swell(0.2, 0.3), swell(0.2, 0.3)], "larger", False),
        ([swell(0.2, 0.2), swell(0.2, 0.2)], "larger", False),
        # seen once in the first clip, not at all in the second
        ([way(0.1), [], way(0.2, 0.3)], "right", True),
        ([way(0.1), [], []], "right", None),
        ([[], []], "down", None),
    ],
)
def test_the_motion_of_a_film(tracks, motion, verdict):
    assert evaluate.film_moves_as_asked(tracks, motion) is verdict


def test_a_summary_counts_the_undecided_as_wrong():
    figures = dict.fromkeys(
        ("border_ratio", "turn_cosine", "flow_px", "warp_error", "mawe", "scene_cuts", "drift"), 1.0
    )
    table = summary([
        {"identity": True, "direction": True, **figures},
        {"identity": True, "direction": None, **figures, "mawe": float("inf")},
    ])  # fmt: skip
    assert (
        table["identity"]["value"] == 1
        and table["direction"]["value"] == 0.5
        and table["direction"]["n"] == 2
    )
    assert json.loads(json.dumps(table)) == table  # a frozen film's infinity must not break JSON


def test_systems_differ_in_their_hand_over_alone(video_pipeline):
    lengths = {}
    for name in ("chronological", "mirror", "independent"):
        clips = film_with(video_pipeline, "a cat", 1, SYSTEMS[name], 1, 1.0)
        lengths[name] = [len(clip) for clip in clips]
    assert lengths == {"chronological": [8, 4, 4, 4], "mirror": [8] * 4, "independent": [8] * 4}
    assert SYSTEMS["overlap only"].recycle == 0 and SYSTEMS["independent"] is None


@pytest.fixture
def trial(monkeypatch, tmp_path):
    """Films of four red clips, and the list of what was filmed."""
    filmed = []

    def film(pipeline, text, seed, handover, steps, guidance):
        filmed.append((text, seed))
        if handover is None or handover.order == "mirror":
            return [clip_of(*range(40, 56, 2))] * 4
        return [clip_of(*range(80, 96, 2)), *[clip_of(88, 90, 92, 94)] * 3]

    monkeypatch.setattr(evaluate, "film_with", film)
    stub_judge(monkeypatch, lambda mark: ())
    return FilmTrial(None, None, tmp_path / "cache", "key", 1, 1.0), filmed


def test_answers_are_kept_and_all_systems_stand_in_one_table(trial):
    trial, filmed = trial
    table = evaluate_films(trial, 2)
    assert set(table) == {f"{part}/{name}" for part in ("seen", "held_out") for name in SYSTEMS}
    assert len(filmed) == 2 * 2 * len(SYSTEMS)
    assert evaluate_films(trial, 2) == table and len(filmed) == 2 * 2 * len(SYSTEMS)


def test_one_side_of_the_split_can_be_asked_alone(trial):
    trial, filmed = trial
    table = evaluate_films(trial, 2, parts=("held_out",))
    assert set(table) == {f"held_out/{name}" for name in SYSTEMS} and len(filmed) == 2 * len(SYSTEMS)


def test_a_sheet_shows_whole_films_with_labels_also_when_all_answers_are_there(trial, tmp_path):
    trial, filmed = trial
    evaluate_films(trial, 2)
    before = len(filmed)
    evaluate_films(trial, 2, tmp_path / "docs" / "sheet.png")
    assert len(filmed) == before  # nothing is filmed for it
    sheet = np.asarray(Image.open(tmp_path / "docs" / "sheet.png"), dtype=int)
    row = film_sheet.HEIGHT_PX + film_sheet.GAP_PX
    height = 2 * (film_sheet.TITLE_PX + len(SYSTEMS) * row)
    lines = 4 * 7 * film_sheet.LINE_PX + 3 * film_sheet.GAP_PX
    width = film_sheet.LABEL_PX + 32 * film_sheet.HEIGHT_PX + lines
    assert sheet.shape == (height, width, 3)
    for index, name in enumerate(SYSTEMS):
        top = film_sheet.TITLE_PX + index * row
        label = sheet[top : top + film_sheet.HEIGHT_PX, : film_sheet.LABEL_PX]
        assert (label < 120).any(), f"{name} has no label"
        strip = sheet[top + 5, film_sheet.LABEL_PX :]
        shown = (strip[:, 1:] == 0).all(1)  # the films are red, the paper is white
        frames = 32 if name in ("mirror", "independent") else 20
        assert shown.sum() == film_sheet.HEIGHT_PX * frames
        wide = np.convolve(~shown[: np.flatnonzero(shown)[-1]], np.ones(film_sheet.GAP_PX), "valid")
        assert (wide == film_sheet.GAP_PX).sum() == 3  # where four clips meet
    assert (sheet[: film_sheet.TITLE_PX] < 120).any()  # the prompt
    labels = [sheet[film_sheet.TITLE_PX + i * row :][:row, : film_sheet.LABEL_PX] for i in range(2)]
    assert not np.array_equal(*labels)


def test_films_that_no_strip_was_kept_of_are_filmed_again_for_the_sheet(trial, tmp_path):
    trial, filmed = trial
    evaluate_films(trial, 1)
    trial.strip_path(0, "mirror").unlink()
    before = len(filmed)
    evaluate_films(trial, 1, tmp_path / "sheet.png")
    assert len(filmed) == before + 1 and (tmp_path / "sheet.png").exists()


def test_strips_and_sheets_need_frames():
    with pytest.raises(ValueError, match="a strip needs at least one frame"):
        film_sheet.film_strip([[], []])
    with pytest.raises(ValueError, match="a sheet needs at least one film"):
        film_sheet.film_sheet([])


def test_memory_is_measured_on_films_of_growing_length(video_pipeline, tmp_path):
    table = evaluate_memory(video_pipeline, tmp_path / "clips", steps=1, guidance=3.0)
    peaks = [figures["peak_mb"] for figures in table.values()]
    assert list(table) == ["2 clips", "8 clips", "32 clips"] and peaks == sorted(peaks)
    assert peaks[-1] <= 1.1 * peaks[0] and all(row["seconds_per_clip"] > 0 for row in table.values())
    assert not (tmp_path / "clips").exists()


def test_interpolation_is_compared_on_drawn_clips():
    table = evaluate_interpolation({"linear": interpolate_linear, "flow": interpolate_flow}, 2, side=48)
    assert set(table) == {"linear", "flow"} and set(table["flow"]) == {"psnr_2", "psnr_4"}
    assert table["linear"]["psnr_2"] > table["linear"]["psnr_4"] > 10
