"""Evaluation: prompts on the right side of the split, a file that grows, scores from it, one command."""

import json

import pytest
from PIL import Image

from pipelines.compass import evaluate
from pipelines.compass.evaluation import (
    LookOptions,
    SeenFile,
    fingerprint,
    look,
    scores,
    search_scores,
)
from pipelines.compass.parser import parse_prompt
from pipelines.compass.scoring import Detected
from pipelines.compass.spatial_prompts import spatial_prompts
from pipelines.storybook.guidance import FLUX_GUIDANCE
from pipelines.storybook.scene import is_held_out_pair, is_held_out_triple

LEFT, RIGHT, HIGH, LOW = (5, 40, 25, 60), (75, 40, 95, 60), (40, 5, 60, 25), (40, 75, 60, 95)
BOXES = {"left of": (LEFT, RIGHT), "right of": (RIGHT, LEFT), "above": (HIGH, LOW), "below": (LOW, HIGH)}


class Truthful:
    """Says that every picture of an even seed is right and every other one shows the first object alone."""

    def __init__(self, name, prompts):
        self.name, self.prompts = name, {prompt.names: prompt for prompt in prompts}

    def __call__(self, picture, names):
        prompt = self.prompts[tuple(names)]
        first, second = (tuple(map(float, box)) for box in BOXES[prompt.relation])
        items = [Detected(names[0], 0.9, first)]
        return items + [Detected(names[1], 0.8, second)] * (picture.getpixel((0, 0))[0] % 2 == 0)


def paint_by(calls):
    def paint(texts, seeds):
        calls.extend(zip(texts, seeds, strict=True))
        return [Image.new("RGB", (100, 100), (seed // 1000, 0, 0)) for seed in seeds]

    return paint


def test_prompts_keep_to_their_side_and_lists_to_their_beginning():
    for held_out in (True, False):
        prompts = spatial_prompts(40, held_out)
        assert prompts[:15] == spatial_prompts(15, held_out)
        for prompt in prompts:
            (colour_a, kind_a), (colour_b, kind_b) = (name.split() for name in prompt.names)
            pairs = is_held_out_pair(colour_a, kind_a) or is_held_out_pair(colour_b, kind_b)
            assert (pairs or is_held_out_triple(kind_a, prompt.relation, kind_b)) == held_out
            parsed = parse_prompt(prompt.text)
            assert [parsed.describe(r) for r in parsed.relations] == [
                f"{prompt.names[0]} {prompt.relation} {prompt.names[1]}"
            ]
            assert parsed.place


def test_a_second_run_goes_on_where_the_first_one_stopped(tmp_path):
    prompts, calls, path = spatial_prompts(5, True), [], tmp_path / "deep/seen.jsonl"
    detectors = [Truthful("one", prompts), Truthful("two", prompts)]
    first = look(prompts[:3], paint_by(calls), detectors, SeenFile(path), LookOptions(seeds=2, batch=4))
    assert len(first) == len(calls) == 6
    with path.open("a") as out:
        out.write('{"prompt": 3, "seed"')  # a kill in the middle of a line
    pictures = tmp_path / "pictures"
    again = look(prompts, paint_by(calls), detectors, SeenFile(path), LookOptions(3, 16, pictures))
    assert len(again) == 15 and len(calls) == 15 and len(set(calls)) == 15
    assert [item for item in again if item.prompt < 3 and item.seed < 2] == first
    assert len(list(pictures.glob("*.png"))) == 9
    assert len(SeenFile(path).seen) == 15


def test_scores_by_hand(tmp_path):
    prompts = spatial_prompts(6, False)
    judge = Truthful("judge", prompts)
    options = LookOptions(seeds=4)
    seen = look(prompts, paint_by([]), [judge], SeenFile(tmp_path / "seen.jsonl"), options)
    result = scores(prompts, seen, "judge")
    assert (result["prompts"], result["images"], result["detector"]) == (6, 24, "judge")
    assert (result["OA"], result["conditional"], result["unconditional"]) == (50.0, 100.0, 50.0)
    assert [result[f"VISOR_{n}"] for n in (1, 2, 3, 4)] == [100.0, 100.0, 0.0, 0.0]
    assert result["geneval"] == 50.0 and result["t2i_spatial"] == pytest.approx((0.25 * 1.7 + 0.5) / 2)
    rows = search_scores(prompts, seen, "judge", "judge", (1, 2, 4, 8))
    assert [row["budget"] for row in rows] == [1, 2, 4]
    assert [row["success"] for row in rows] == [1.0, 1.0, 1.0]  # the first seed is right
    assert rows[1]["independent"] == 0.75 and rows[1]["beta_binomial"] == pytest.approx(0.75, abs=1e-3)


def test_the_eyes_choose_and_the_judge_reports(tmp_path):
    prompts = spatial_prompts(2, False)
    judge = Truthful("judge", prompts)

    class Wrong(Truthful):
        def __call__(self, picture, names):
            return super().__call__(Image.new("RGB", (1, 1), (picture.getpixel((0, 0))[0] + 1, 0, 0)), names)

    seen = look(
        prompts, paint_by([]), [judge, Wrong("eyes", prompts)], SeenFile(tmp_path / "s.jsonl"), LookOptions(2)
    )
    rows = search_scores(prompts, seen, "eyes", "judge", (1, 2))
    assert [(row["success"], row["found"], row["possible"]) for row in rows] == [
        (1.0, 0.0, 1.0),
        (0.0, 1.0, 1.0),
    ]


def test_changed_weights_have_another_fingerprint(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"1")
    before = fingerprint(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"2")
    assert fingerprint(tmp_path) != before
    (tmp_path / "a.safetensors").write_bytes(b"1")
    assert fingerprint(tmp_path) == before


def test_models_are_painted_with_the_guidance_that_suits_them(saved_folder, tmp_path):
    from pipelines import ScaleDiTPipeline

    assert evaluate.usual_guidance(saved_folder) == FLUX_GUIDANCE == 5.0
    assert ScaleDiTPipeline.from_pretrained(saved_folder).default_guidance == FLUX_GUIDANCE
    config = tmp_path / "dev/transformer/config.json"
    config.parent.mkdir(parents=True)
    config.write_text('{"guidance_embeds": true}')
    assert evaluate.usual_guidance(tmp_path / "dev") == 3.0  # the authors' number
    for name, guidance in (("storybook-sd", 3.0), ("sd15", 7.5)):
        (tmp_path / name / "unet").mkdir(parents=True)
        assert evaluate.usual_guidance(tmp_path / name) == guidance
    with pytest.raises(ValueError, match="is no model folder"):
        evaluate.usual_guidance(tmp_path / "nothing")


def test_one_command_paints_scores_and_caches(saved_folder, repository, tmp_path, capsys, monkeypatch):
    weights = repository / "assets/weights"
    command = [
        "--folder", str(saved_folder), "--n", "1", "--seeds", "1", "--parts", "held_out", "--steps", "1",
        "--eyes", str(weights / "storybook-eyes"), "--judge", str(weights / "storybook-judge"),
        "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "scores.json"),
    ]  # fmt: skip
    evaluate.main(command)
    (row,) = json.loads((tmp_path / "scores.json").read_text())
    assert row["variant"] == "plain" and row["part"] == "held_out" and row["detector"] == "storybook-judge"
    assert (
        row["images"] == 1
        and row["by_eyes"]["detector"] == "storybook-eyes"
        and row["search"][0]["budget"] == 1
    )
    assert "| plain | held_out |" in capsys.readouterr().out
    monkeypatch.setattr(evaluate, "model_paint", lambda *_: pytest.fail("everything was painted already"))
    evaluate.main(command)
