"""The shell's commands for tokens, video, data and models."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from studio.cli import main
from studio.doors import filming, painting, tokenizing
from tests.studio.makers import DrawingFilmer, DrawingTokenizer, pack_ids
from tests.studio.painters import DrawingPainter, make_weights

Capture = pytest.CaptureFixture[str]
MODELS = ("storybook-flux", "storybook-flextok", "storybook-video")


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(painting, "PipelinePainter", DrawingPainter)
    monkeypatch.setattr(tokenizing, "PipelineTokenizer", DrawingTokenizer)
    monkeypatch.setattr(filming, "PipelineFilmer", lambda: DrawingFilmer(encodes=False))
    monkeypatch.setenv("TESSERA_WEIGHTS_DIR", str(make_weights(tmp_path / "weights", MODELS)))
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    Image.effect_noise((90, 60), 60).convert("RGB").save("in.png")
    Path("in.fxtk").write_bytes(pack_ids(range(16), 90, 60))
    return tmp_path / "out"


def json_of(capsys: Capture) -> dict:
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1, captured
    return json.loads(captured.out)


def test_a_picture_goes_into_tokens_and_back(capsys: Capture) -> None:
    assert main(["tokens", "encode", "in.png", "--out", "a.fxtk", "--json"]) == 0
    facts = json_of(capsys)
    assert (facts["file"], facts["count"], facts["size"], facts["bytes"]) == ("a.fxtk", 16, "90x60", 32)
    assert facts["model"] == "storybook-flextok" and set(facts["seconds"]) == {"load", "encode"}
    assert (
        main(["tokens", "decode", "a.fxtk", "--keep", "4", "--out", "b.webp", "--seed", "3", "--json"]) == 0
    )
    facts = json_of(capsys)
    assert (facts["tokens"], facts["size"], facts["seed"], facts["device"]) == (4, "90x60", 3, "cpu")
    with Image.open("b.webp") as picture:
        assert picture.size == (90, 60)


def test_text_goes_into_a_picture_and_its_tokens(capsys: Capture) -> None:
    words = [
        "tokens",
        "generate",
        "a red dragon",
        "--keep",
        "8",
        "--out",
        "c.png",
        "--tokens-out",
        "c.fxtk",
        "--json",
    ]
    assert main(words) == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert (facts["tokens"], facts["tokens_file"], facts["unknown_words"]) == (8, "c.fxtk", ["dragon"])
    assert captured.err.startswith("warning: Not in Storybook's world: dragon")
    assert main(["tokens", "decode", "c.fxtk", "--out", "d.png"]) == 0
    assert Image.open("c.png").tobytes() == Image.open("d.png").tobytes()


def test_a_video_is_written_with_its_schedule(capsys: Capture) -> None:
    words = [
        "video",
        "a red ball",
        "--clips",
        "3",
        "--prompt-at",
        "2",
        "a blue ball",
        "--out",
        "v.mp4",
        "--json",
    ]
    assert main(words) == 0
    facts = json_of(capsys)
    assert (facts["file"], facts["frames"], facts["clips"], facts["model"]) == (
        "v.mp4",
        24,
        3,
        "storybook-video",
    )
    assert {"clip 1", "save", "load"} <= set(facts["seconds"])
    written = json.loads(Path("v.mp4").read_text())
    assert written["recipe"]["request"]["prompts_at"] == [[2, "a blue ball"]]
    assert written["colours"][0] != written["colours"][8]


VIDEO = ["video", "a red ball", "--clips", "4", "--frames", "2", "--out", "v.mp4"]


def colours(path: str = "v.mp4") -> list:
    return json.loads(Path(path).read_text())["colours"]


def test_a_stopped_video_goes_on_behind_its_finished_clips(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    filmer, stops = DrawingFilmer(), [True]

    class Stopped(DrawingFilmer):
        def _shoot(self, request, clip, *rest):
            if clip == 3 and stops.pop():
                raise KeyboardInterrupt
            return filmer._shoot(request, clip, *rest)

    monkeypatch.setattr(filming, "PipelineFilmer", Stopped)
    assert main(VIDEO) == 1
    error = capsys.readouterr().err
    assert error == "error: Stopped; the same command goes on behind the clips in '.v.mp4.clips'.\n"
    assert not Path("v.mp4").exists() and len(list(Path(".v.mp4.clips").iterdir())) == 2
    stops.append(False)
    assert main(VIDEO) == 0 and filmer.filmed == [1, 2, 3, 4]
    assert not Path(".v.mp4.clips").exists()
    whole = colours()
    monkeypatch.setattr(filming, "PipelineFilmer", DrawingFilmer)
    assert main([*VIDEO[:-1], "w.mp4"]) == 0 and colours("w.mp4") == whole


def test_one_clip_of_a_kept_video_is_filmed_again(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    filmer = DrawingFilmer()
    monkeypatch.setattr(filming, "PipelineFilmer", lambda: filmer)
    assert main([*VIDEO, "--keep-clips"]) == 0 and Path(".v.mp4.clips").is_dir()
    before = colours()
    filmer.filmed.clear()
    assert main([*VIDEO, "--clip-seed", "2", "77", "--again", "2"]) == 0 and filmer.filmed == [2]
    after = colours()
    assert before[:2] == after[:2] and before[2:4] != after[2:4] and before[4:] == after[4:]
    assert Path(".v.mp4.clips").is_dir()  # for the next one


def test_a_video_that_fails_at_once_leaves_nothing(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, room: Path
) -> None:
    class Failing(DrawingFilmer):
        def _shoot(self, *_):
            Path(".v.mp4.clips").mkdir()
            raise ValueError("no")

    monkeypatch.setattr(filming, "PipelineFilmer", Failing)
    before = sorted(os.listdir(room))
    assert main(VIDEO) == 2 and sorted(os.listdir(room)) == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("tokens encode nothing.png --out a.fxtk", "There is no picture 'nothing.png'"),
        ("tokens encode in.fxtk --out a.fxtk", "can't be read as a PNG"),
        ("tokens encode in.png --out a.png", "allowed names ending in .fxtk"),
        ("tokens encode in.png --out a.fxtk --keep 257", "keep: given 257"),
        ("tokens encode in.png --out a.fxtk --fit stretch", "fit: given 'stretch'"),
        ("tokens encode in.png --out /proc/a.fxtk", "Can't write"),
        ("tokens decode in.png --out a.png", "strip: this is no token file"),
        ("tokens decode in.fxtk --out a.png --keep 0", "keep: given 0"),
        ("tokens decode in.fxtk --out a.png --keep 17", "strip: 17 tokens were asked for"),
        ("tokens decode in.fxtk --out a.gif", "allowed names ending in .png"),
        (
            "tokens decode in.fxtk --out a.png --model nope",
            "model: given 'nope', allowed storybook, storybook-flextok",
        ),
        (
            "tokens decode in.fxtk --out a.png --model storybook-flux",
            "storybook-flux can't turn pictures into tokens",
        ),
        ("tokens generate x --out a.png --temperature nan", "temperature: given nan"),
        ("tokens generate x --out a.png --temperature hot", "temperature: given 'hot'"),
        ("tokens generate --out a.png", "prompt: give either PROMPT"),
        ("tokens", "the following arguments are required"),
        ("video x --out a.avi", "allowed names ending in .mp4"),
        ("video x --out a.mp4 --fps 0", "fps: given 0.0"),
        ("video x --out a.mp4 --frames 1000000", "frames: given 1000000"),
        ("video x --out a.mp4 --size 129x128", "width: given 129, allowed multiples of 16 from 64 to 1024"),
        ("video x --out a.mp4 --prompt-at 9 y", "prompts_at: given clip 9, allowed clips 2 to 4"),
        ("video x --out a.mp4 --start in.fxtk", "video: in.fxtk can't be read"),
        ("video x --out a.mp4 --start nothing.png", "There is no picture or video 'nothing.png'"),
        ("video x --out a.mp4 --frames 13", "video: frames is 13; unlucky"),
        ("video x --out a.mp4 --again 2", "The clips of 'a.mp4' are not here"),
        ("video x --out a.mp4 --again 5", "again: given 5, allowed whole numbers from 1 to 4"),
        ("video x --out a.mp4 --clip-seed 5 1", "clip_seeds: given clip 5"),
        ("scop --annotations nothing.json --out pairs", "annotations: there is no 'nothing.json'"),
        ("models convert nonsense", "kind: given 'nonsense', allowed compass, longsd, long-clip, vidrd"),
        ("models convert vidrd --checkpoint x", "vidrd: the following arguments are required: --base, --out"),
    ],
)
def test_bad_input_is_one_line_and_no_file(words: str, sentence: str, room: Path, capsys: Capture) -> None:
    before = sorted(os.listdir(room))
    assert main(words.split()) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert sorted(os.listdir(room)) == before


@pytest.mark.parametrize("words", ["tokens encode in.png --out a.fxtk", "video x --out a.mp4"])
def test_without_a_model_it_says_so(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("TESSERA_WEIGHTS_DIR", str(make_weights(tmp_path / "few")))
    assert main(words.split()) == 2
    assert "does not come with this version yet" in capsys.readouterr().err


def test_pairs_are_mined_from_annotations(capsys: Capture) -> None:
    pictures = [{"id": n, "width": 640, "height": 480, "file_name": f"{n}.jpg"} for n in (1, 2)]
    boxes = [
        {
            "id": 10 * n + k,
            "image_id": n,
            "category_id": k,
            "bbox": [40 + 260 * k, 100, 240, 240],
            "iscrowd": 0,
        }
        for n in (1, 2)
        for k in (0, 1)
    ]
    names = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    Path("coco.json").write_text(json.dumps({"images": pictures, "annotations": boxes, "categories": names}))
    assert main(["scop", "--annotations", "coco.json", "--out", "pairs", "--keep", "none", "--json"]) == 0
    facts = json_of(capsys)
    assert facts["accepted"] == 2 and facts["folder"] == "pairs"
    assert len(Path("pairs/metadata.jsonl").read_text().splitlines()) == facts["lines"]
    boxes[0]["bbox"] = [0, 0, -5, 10]
    Path("coco.json").write_text(json.dumps({"images": pictures, "annotations": boxes, "categories": names}))
    assert main(["scop", "--annotations", "coco.json", "--out", "more"]) == 2
    assert "10" in capsys.readouterr().err and not Path("more").exists()


def test_pairs_are_mined_by_other_thresholds_with_drawn_samples_and_shared_pictures(capsys: Capture) -> None:
    sizes = {1: 240, 2: 120}  # of the boxes: the second picture's are farther apart, by their own size
    pictures = [{"id": n, "width": 640, "height": 480, "file_name": f"{n}.jpg"} for n in sizes]
    boxes = [
        {
            "id": 10 * n + k,
            "image_id": n,
            "category_id": k,
            "bbox": [40 + 260 * k, 100, side, side],
            "iscrowd": 0,
        }
        for n, side in sizes.items()
        for k in (0, 1)
    ]
    names = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    Path("coco.json").write_text(json.dumps({"images": pictures, "annotations": boxes, "categories": names}))
    Path("photos").mkdir()
    for n in sizes:
        Image.new("RGB", (640, 480), "grey").save(f"photos/{n}.jpg")

    def mine(out: str, *words: str) -> dict[str, Any]:
        command = ["scop", "--annotations", "coco.json", "--images", "photos", "--out", out, "--json"]
        assert main([*command, *words]) == 0
        facts: dict[str, Any] = json_of(capsys)
        return facts

    first = mine("first", "--visual-significance", "0.05", "--samples", "2", "--shared-images", "shared")
    assert first["accepted"] == 2 and first["params"]["visual_significance"] == 0.05
    assert len(list(Path("first/samples").iterdir())) == 2
    assert {path.name for path in Path("shared").iterdir()} == {f"{n:012d}.jpg" for n in sizes}
    link = Path("first/images/000000000001.jpg")
    assert link.is_symlink() and link.resolve() == Path("shared/000000000001.jpg").resolve()
    tuned = mine("tuned", "--thresholds", "geneval", "--visual-significance", "0.05", "--keep", "copy")
    assert tuned["accepted"] == 1 and tuned["params"]["spatial_clarity"] == pytest.approx(1.0777, abs=1e-4)
    assert mine("none", "--size-balance", "1.1")["accepted"] == 0
    for words, message in (
        (["--samples", "3", "--keep", "none"], "need pictures"),
        (["--size-balance", "nan"], "size_balance is nan"),
        (["--samples", "-1"], "samples is -1"),
    ):
        assert main(["scop", "--annotations", "coco.json", "--images", "photos", "--out", "no", *words]) == 2
        assert message in capsys.readouterr().err and not Path("no").exists()
    assert main(["scop", "--annotations", "coco.json", "--out", "no", "--samples", "3"]) == 2
    assert "say where they are" in capsys.readouterr().err
