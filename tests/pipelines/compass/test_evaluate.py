"""Evaluation: prompts on the right side of the split, a file that grows, scores from it, one command."""

import json

import pytest
from PIL import Image

from pipelines.compass import arms, checks, evaluate
from pipelines.compass.detectors import open_detector
from pipelines.compass.evaluation import (
    LookOptions,
    SeenFile,
    fingerprint,
    look,
    scores,
    search_scores,
)
from pipelines.compass.parser import parse_prompt
from pipelines.compass.picture_sheets import comparison_grid
from pipelines.compass.scoring import Detected
from pipelines.compass.sidecar import Sidecar, write_sidecar
from pipelines.compass.spatial_prompts import read_prompts, spatial_prompts
from pipelines.storybook.guidance import FLUX_GUIDANCE, SD_GUIDANCE
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

    assert arms.usual_guidance(saved_folder) == FLUX_GUIDANCE == 5.0
    assert ScaleDiTPipeline.from_pretrained(saved_folder).default_guidance == FLUX_GUIDANCE
    config = tmp_path / "dev/transformer/config.json"
    config.parent.mkdir(parents=True)
    config.write_text('{"guidance_embeds": true}')
    assert arms.usual_guidance(tmp_path / "dev") == 3.0  # the authors' number
    for name, guidance in (("storybook-sd", SD_GUIDANCE), ("sd15", 7.5)):
        (tmp_path / name / "unet").mkdir(parents=True)
        assert arms.usual_guidance(tmp_path / name) == guidance
    with pytest.raises(ValueError, match="is no model folder"):
        arms.usual_guidance(tmp_path / "nothing")


def test_one_command_paints_scores_and_caches(saved_folder, repository, tmp_path, capsys, monkeypatch):
    weights = repository / "assets/weights"
    command = [
        "--folder", str(saved_folder), "--n", "1", "--seeds", "1", "--parts", "held_out", "--steps", "1",
        "--eyes", str(weights / "storybook-eyes"), "--judge", str(weights / "storybook-judge"),
        "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "scores.json"),
        "--grid", str(tmp_path / "grid.png"), "--check", "1", "--check-folder", str(tmp_path / "checks"),
        "--pictures", str(tmp_path / "pictures"),
    ]  # fmt: skip
    evaluate.main(command)
    assert {path.name for path in tmp_path.glob("*.png")} == {"grid_held_out.png"}
    assert {path.name for path in (tmp_path / "checks").iterdir()} == {
        "plain_held_out.tsv", "plain_held_out_1.png",
    }  # fmt: skip
    (row,) = json.loads((tmp_path / "scores.json").read_text())
    assert row["variant"] == "plain" and row["part"] == "held_out" and row["detector"] == "storybook-judge"
    assert (
        row["images"] == 1
        and row["by_eyes"]["detector"] == "storybook-eyes"
        and row["search"][0]["budget"] == 1
    )
    out = capsys.readouterr().out
    assert "| plain | held_out |" in out and "| variant | part | budget | success |" in out
    assert out.count("| plain | held_out | 1 |") == 1  # of the four budgets, the one that was painted
    monkeypatch.setattr(arms, "model_paint", lambda *_: pytest.fail("everything was painted already"))
    evaluate.main(command)


VISOR_JSON = [
    {"unique_id": 0, "num_objects": 2, "obj_1_attributes": ["cat"], "obj_2_attributes": ["hair drier"],
     "rel_type": "to the left of", "text": "a cat to the left of a hair drier"},
    {"unique_id": 1, "num_objects": 2, "obj_1_attributes": ["cat"], "obj_2_attributes": ["dog"],
     "rel_type": "and", "text": "a cat and a dog"},
    {"unique_id": 2, "num_objects": 1, "obj_1_attributes": ["cat"], "obj_2_attributes": [None],
     "rel_type": "single", "text": "a cat"},
]  # fmt: skip
GENEVAL_LINES = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
    {"tag": "position", "include": [{"class": "tv remote", "count": 1},
     {"class": "dog", "count": 1, "position": ["right of", 0]}],
     "prompt": "a photo of a dog right of a tv remote"},
]  # fmt: skip
T2I_LINES = ("a sheep on the bottom of a painting", "a mouse on side of a key", "", "a red cat near a book.")


def test_prompts_of_three_benchmarks_and_plain_lines(tmp_path):
    path = tmp_path / "prompts"
    path.write_text(json.dumps(VISOR_JSON))
    (only,) = read_prompts(path)
    assert (only.names, only.relation) == (("cat", "hair drier"), "left of")
    path.write_text("\n".join(map(json.dumps, GENEVAL_LINES)))
    (only,) = read_prompts(path)
    assert (only.text, only.names) == ("a photo of a dog right of a tv remote", ("dog", "tv remote"))
    assert only.relation == "right of" and only.asked == ("dog", "tv remote")
    path.write_text("\n".join(T2I_LINES))
    found = read_prompts(path)
    assert [(prompt.names, prompt.relation) for prompt in found] == [
        (("sheep", "painting"), "below"),
        (("mouse", "key"), "next to"),
        (("red cat", "book"), "next to"),
    ]
    path.write_text(
        "There is a red cat. It is small. The cat is left of a house, above which flies a bird.\n"
    )
    (only,) = read_prompts(path)
    assert (only.names, only.relation) == (("small red cat", "house"), "left of")
    assert only.asked == ("small red cat", "house", "bird") and only.reading is only.parsed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no prompt"),
        ("a cat left of a dog\na lonely cat\n", "line 2 says of no two things"),
        ("a cat behind a dog", "line 1 says"),
        ('[{"text": "a cat"}]', "none of the known formats"),
        ("{broken", "none of the known formats"),
        (json.dumps(GENEVAL_LINES[0]), "holds no prompt"),
    ],
)
def test_files_without_prompts_are_refused(text, message, tmp_path):
    (tmp_path / "prompts.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_prompts(tmp_path / "prompts.txt")
    with pytest.raises(ValueError, match="can't be read"):
        read_prompts(tmp_path / "nothing")


def test_next_to_counts_where_it_is_defined(tmp_path):
    path = tmp_path / "prompts"
    path.write_text("a mouse near a key\na cat left of a dog")
    prompts = read_prompts(path)

    def paint(texts, seeds):
        return [Image.new("RGB", (100, 100)) for _ in seeds]

    class Sure:
        name = "sure"

        def __call__(self, picture, names):
            return [Detected(name, 0.8, box) for name, box in zip(names, (LEFT, RIGHT), strict=True)]

    seen = look(prompts, paint, [Sure()], SeenFile(tmp_path / "seen.jsonl"), LookOptions(seeds=1))
    both, near = scores(prompts, seen, "sure", 1), scores(prompts, seen[:1], "sure", 1)
    assert (both["prompts"], both["OA"], both["geneval"]) == (2, 100.0, 100.0)
    assert both["t2i_spatial"] == pytest.approx((0.9 + 0.9) / 2)
    assert "OA" not in near and near["t2i_spatial"] == 0.9
    row = {"variant": "plain", "part": "near", **near}
    assert list(evaluate.table([row]))[-1].count("|") == list(evaluate.table([row]))[0].count("|")
    (curve,) = search_scores(prompts, seen, "sure", "sure", (1,))
    assert curve["success"] == 1.0


def test_detectors_open_by_what_their_folder_holds(repository, tmp_path):
    assert open_detector(repository / "assets/weights/storybook-judge").name == "storybook-judge"
    for config, message in (
        ('{"_class_name": "AutoencoderKL"}', "holds AutoencoderKL; a detector is one of storybook-eyes"),
        ('{"model_type": "grounding-dino"}', "holds grounding-dino"),
        ("{}", "holds something else"),
        ("[]", "is no object"),
        ("nonsense", "holds no detector"),
    ):
        (tmp_path / "config.json").write_text(config)
        with pytest.raises(ValueError, match=message):
            open_detector(tmp_path)


def test_prompts_of_a_file_are_scored_by_a_zero_shot_detector(saved_folder, tiny_owl, repository, tmp_path):
    """The whole command with nothing of Storybook but the painter."""
    (tmp_path / "mine.txt").write_text("a dog to the left of a cat\na key on side of a dog\n")
    command = [
        "--folder", str(saved_folder), "--seeds", "1", "--steps", "1",
        "--prompts", str(tmp_path / "mine.txt"),
        "--eyes", str(tiny_owl), "--judge", str(tiny_owl), "--cache", str(tmp_path / "cache"),
        "--out", str(tmp_path / "scores.json"),
    ]  # fmt: skip
    evaluate.main(command)
    (row,) = json.loads((tmp_path / "scores.json").read_text())
    assert (row["part"], row["images"], row["detector"]) == ("mine", 2, f"zero-shot {tiny_owl.name}")
    (tmp_path / "mine.txt").write_text("a dog to the left of a red cat\n")
    command[command.index("--eyes") + 1] = str(repository / "assets/weights/storybook-eyes")
    with pytest.raises(ValueError, match="storybook-eyes can't look for dog"):
        evaluate.main(command)


def test_only_what_an_arm_is_made_of_changes_its_name(own_folder):
    plain, auto = (arms.Arm("arm", own_folder, compass, 20, 5.0) for compass in (None, "auto"))
    before = plain.weights
    assert auto.weights == before  # there is no adapter yet
    for name in ("scale-dit-lora", "fast-lora", "longalign/align"):  # other families publish theirs
        (own_folder / name).mkdir(parents=True)
        (own_folder / name / "pytorch_lora_weights.safetensors").write_bytes(b"1")
    (own_folder / "README.md").write_text("a card")
    assert plain.weights == before == auto.weights
    adapter = own_folder / "compass-lora"
    adapter.mkdir()
    (adapter / "pytorch_lora_weights.safetensors").write_bytes(b"1")
    write_sidecar(adapter, Sidecar(True, "flux-double", 512))
    own = arms.Arm("arm", own_folder, str(adapter), 20, 5.0)
    first = auto.weights
    assert plain.weights == before != first == own.weights
    write_sidecar(adapter, Sidecar(False, "flux-double", 512))
    second = auto.weights
    (adapter / "pytorch_lora_weights.safetensors").write_bytes(b"2")
    assert len({first, second, auto.weights, before}) == 4 and plain.weights == before
    file = arms.Arm("arm", own_folder, str(adapter / "pytorch_lora_weights.safetensors"), 20, 5.0)
    third = file.weights
    (adapter / "pytorch_lora_weights.safetensors").write_bytes(b"3")
    assert len({third, file.weights, before}) == 3
    for changed in (arms.Arm("arm", own_folder, None, 21, 5.0), arms.Arm("arm", own_folder, None, 20, 4.0)):
        assert changed.weights != before
    config = own_folder / "transformer/config.json"
    config.write_text(config.read_text() + " ")
    assert plain.weights != before
    with pytest.raises(ValueError, match="is no model folder"):
        _ = arms.Arm("arm", own_folder / "vae", None, 20, 5.0).weights


def painted_part(tmp_path, name="plain", count=6, pictures=None):
    """A part whose even seeds are right by both detectors, the others only by the second."""
    prompts = spatial_prompts(count, True)

    class Generous(Truthful):
        def __call__(self, picture, names):
            return super().__call__(Image.new("RGB", (1, 1)), names)

    arm = arms.Arm(name, tmp_path, None, 1, 5.0)
    paint, detectors = paint_by([]), (Truthful("eyes", prompts), Generous("judge", prompts))
    seen = look(prompts, paint, detectors, SeenFile(tmp_path / name), LookOptions(2, 4, pictures))
    return arms.Part(arm, "held_out", prompts, paint, pictures, seen)


def test_both_detectors_are_checked_by_eye(tmp_path, capsys):
    part = painted_part(tmp_path)
    path = checks.write_checks(part, ["eyes", "judge"], 8, tmp_path / "checks")
    lines = path.read_text().splitlines()
    assert lines[0].split("\t") == ["number", "prompt", "seed", "eyes", "judge", "person"] and len(lines) == 9
    with Image.open(tmp_path / "checks/plain_held_out_1.png") as page:
        assert page.width > 5 * 192 and page.height > 2 * 192
        colours = {colour for _, colour in page.convert("RGB").getcolors(1 << 24)}
    assert {(0, 170, 220), (220, 0, 180)} <= colours  # the boxes of both
    assert checks.agreement(path)["eyes and judge"] == (4, 8)
    assert checks.agreement_lines(checks.agreement(path)) == ["eyes and judge agree on 4 of 8"]
    # somebody sees what the eyes see, looks at five of them, and leaves the others
    filled = [line + line.split("\t")[3].upper() * (place < 5) for place, line in enumerate(lines[1:])]
    path.write_text("\n".join([lines[0], *filled]) + "\n")
    counts = checks.agreement(path)
    assert counts["eyes and person"] == (5, 5) and counts["judge and person"][1] == 5
    checks.main([str(path)])
    assert "eyes and person agree on 5 of 5" in capsys.readouterr().out
    path.write_text(path.read_text().replace("YES", "maybe", 1))
    with pytest.raises(ValueError, match="says 'maybe'; allowed are yes, no, nothing"):
        checks.agreement(path)
    path.write_text("number\tprompt\n1\ta cat\n")
    with pytest.raises(ValueError, match="is no list of checks"):
        checks.agreement(path)
    with pytest.raises(ValueError, match="0 of 12 pictures"):
        checks.write_checks(part, ["eyes"], 0, tmp_path)


def test_kept_pictures_are_shown_and_others_painted_again(tmp_path):
    kept = painted_part(tmp_path, "kept", pictures=tmp_path / "pictures")
    (tmp_path / "pictures/0000_0.png").unlink()
    Image.new("RGB", (100, 100), "red").save(tmp_path / "pictures/0001_0.png")
    again, red = (kept.picture(item) for item in (kept.seen[0], kept.seen[2]))
    assert again.getpixel((0, 0)) == (0, 0, 0) and red.getpixel((0, 0)) == (255, 0, 0)


def test_variants_stand_side_by_side(tmp_path):
    grid = evaluate.GridRows(3)
    for name in ("plain", "both"):
        grid.add(painted_part(tmp_path, name), "eyes")
    assert grid.columns == ["plain", "both"] and list(grid.rows) == [0, 2, 4]
    assert all(is_right for _, pictures in grid.rows.values() for _, is_right in pictures)
    grid.save(tmp_path / "deep/grid.png")
    with Image.open(tmp_path / "deep/grid.png") as sheet:
        assert sheet.width == 3 * 200 + 8 and sheet.height == 23 + 3 * 200
        assert sheet.getpixel((200, 23)) == (30, 140, 60)  # a right one has a green frame
    with pytest.raises(ValueError, match="every row needs 2 pictures"):
        comparison_grid(grid.columns, [("a cat", [])])
