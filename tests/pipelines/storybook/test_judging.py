"""Measurements of painted pictures: what is asked, what counts as right, and how they resume."""

import json

import pytest
import torch
from PIL import Image

from pipelines.storybook import detector
from pipelines.storybook.detector import Detection, Detections
from pipelines.storybook.judging import Answers, judge_pictures, judged, report, weights_key
from pipelines.storybook.prompts import Asked, one_object_prompts, two_object_prompts
from pipelines.storybook.scene import is_held_out_pair
from pipelines.storybook.verify import Share, Wanted, WantedObject

RED_BALL = Detection("ball", "red", "plain", (0.1, 0.1, 0.3, 0.3), 0.9)
BLUE_CAT = Detection("cat", "blue", "plain", (0.6, 0.6, 0.9, 0.9), 0.8)
ASKED = Asked("a red ball in a meadow", Wanted((WantedObject("ball", "red"),), "meadow"))


def seen(*objects, place="meadow"):
    return Detections(place, 0.9, objects)


@pytest.mark.parametrize("held_out", [False, True])
def test_prompts_keep_to_their_side_of_the_split(held_out):
    prompts = list(one_object_prompts(40, held_out))
    assert prompts == list(one_object_prompts(40, held_out)) and len({asked.text for asked in prompts}) > 30
    for asked in prompts:
        (item,) = asked.wanted.objects
        assert is_held_out_pair(item.colour, item.kind) == held_out
        assert item.colour in asked.text and item.kind in asked.text
    for asked in two_object_prompts(40, held_out):
        first, second = asked.wanted.objects
        assert is_held_out_pair(first.colour, first.kind) == held_out
        assert first.kind != second.kind and first.colour != second.colour


def test_one_object_needs_kind_and_colour_on_the_same_thing():
    right = judged(seen(RED_BALL), ASKED)
    assert all(right.values())
    crossed = judged(seen(Detection("cat", "red", "plain", RED_BALL.box, 0.9), BLUE_CAT), ASKED)
    assert crossed["colour"] and not crossed["kind"] and not crossed["kind_and_colour"]
    elsewhere = judged(seen(RED_BALL, place="room"), ASKED)
    assert elsewhere["kind_and_colour"] and not elsewhere["place"] and not elsewhere["everything"]


def test_two_objects_must_both_be_there():
    wanted = Asked("", Wanted((WantedObject("ball", "red"), WantedObject("cat", "blue")), "meadow"))
    assert judged(seen(RED_BALL, BLUE_CAT), wanted)["present"]
    assert judged(seen(RED_BALL), wanted) == {"present": False, "objects": [True, False], "place": True}


def test_a_measurement_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(
        detector,
        "detect",
        lambda judge, pictures: [seen(RED_BALL) if p.size[0] > 1 else seen() for p in pictures],
    )
    painted = []

    def paint(prompts, generators):
        painted.extend(generator.initial_seed() for generator in generators)
        return [Image.new("RGB", (1 + generator.initial_seed() % 2, 1)) for generator in generators]

    path = tmp_path / "answers.jsonl"
    first = judge_pictures(paint, None, [ASKED] * 3, Answers(path))
    assert first["kind"] == Share(1, 3) and painted == [1000, 1001, 1002]
    with path.open("a") as file:
        file.write('{"index": 3, "ki')  # a kill in the middle of a line
    again = judge_pictures(paint, None, [ASKED] * 6, Answers(path))
    assert again["kind"] == Share(3, 6) and painted == [1000, 1001, 1002, 1003, 1004, 1005]
    assert judge_pictures(paint, None, [ASKED] * 6, Answers(path)) == again and len(painted) == 6


def test_other_weights_have_another_key(tmp_path):
    file = tmp_path / "a/model.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"one")
    first = weights_key(tmp_path / "a")
    assert weights_key(tmp_path / "a") == first != weights_key(tmp_path / "a", extra="4 steps")
    file.write_bytes(b"two")
    assert weights_key(tmp_path / "a") != first


def test_adapters_in_a_model_folder_count_where_they_are_named(tmp_path):
    folder, adapter = tmp_path / "model", tmp_path / "model/fast-lora"
    for part in ("unet", "fast-lora"):
        (folder / part).mkdir(parents=True)
        (folder / part / "model.safetensors").write_bytes(b"one")
    (folder / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DConditionModel"]}')
    plain, adapted = weights_key(folder), weights_key(folder, adapter)
    (adapter / "model.safetensors").write_bytes(b"two")
    assert weights_key(folder) == plain and weights_key(folder, adapter) != adapted
    (folder / "unet/model.safetensors").write_bytes(b"two")
    assert weights_key(folder) != plain


def test_figures_are_printed_and_written_with_their_confidence(tmp_path, capsys):
    report({"one_object/seen": {"kind": Share(3, 4)}}, tmp_path / "new/out.json")
    assert "75.0%" in capsys.readouterr().out
    stored = json.loads((tmp_path / "new/out.json").read_text())["one_object/seen"]["kind"]
    assert stored["value"] == 0.75 and stored["n"] == 4 and stored["ci95"][0] < 0.75 < stored["ci95"][1]


def test_seeds_do_not_depend_on_where_it_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(detector, "detect", lambda judge, pictures: [seen() for _ in pictures])
    noise = {}

    def paint(prompts, generators):
        for generator in generators:
            noise.setdefault(generator.initial_seed(), []).append(torch.randn(1, generator=generator).item())
        return [Image.new("RGB", (1, 1))] * len(prompts)

    judge_pictures(paint, None, [ASKED] * 4, Answers(tmp_path / "a"))
    one = Answers(tmp_path / "b")
    one.add(0, {"kind": True})
    judge_pictures(paint, None, [ASKED] * 1, one)
    judge_pictures(paint, None, [ASKED] * 4, Answers(tmp_path / "c"))
    assert all(len(set(values)) == 1 for values in noise.values())
