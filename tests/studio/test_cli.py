"""The shell: what it prints, what it writes, and its exit codes."""

import errno
import hashlib
import io
import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from studio.cli import main
from studio.doors import painting
from studio.gallery.encoding import write_picture
from studio.recipes import pixel_hash, read_recipe
from studio.settings import REPOSITORY
from studio.terminal import ProgressLine
from tests.studio.painters import DrawingPainter, Report, make_weights

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def painter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DrawingPainter:
    painter = DrawingPainter()
    monkeypatch.setattr(painting, "PipelinePainter", lambda: painter)
    monkeypatch.setenv("TESSERA_WEIGHTS_DIR", str(make_weights(tmp_path / "weights")))
    monkeypatch.setenv("TESSERA_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    return painter


def image(*words: str) -> int:
    return main(["image", *words])


def json_of(capsys: Capture) -> Any:
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    return json.loads(captured.out)


def test_image_writes_the_picture_and_says_what_it_took(painter: DrawingPainter, capsys: Capture) -> None:
    words = [
        "a red ball in a meadow",
        "--size",
        "256x128",
        "--seed",
        "7",
        "--steps",
        "3",
        "--out",
        "a.png",
        "--json",
    ]
    assert image(*words) == 0
    facts = json_of(capsys)
    assert {
        "file": "a.png",
        "seed": 7,
        "size": "256x128",
        "model": "storybook-flux",
        "steps": 3,
    }.items() <= facts.items()
    assert (facts["backend"], facts["peak_bytes"], facts["warnings"], facts["unknown_words"]) == (
        "drawing",
        1 << 20,
        [],
        [],
    )
    assert set(facts["seconds"]) == {"load", "paint"} and facts["stages"] == [[256, 128]]
    with Image.open("a.png") as picture:
        assert picture.size == (256, 128) and pixel_hash(picture) == facts["pixels_sha256"]
    assert os.listdir() == ["a.png"]
    assert not (Path("..") / "data").exists(), "the shell needs no data folder"


def test_same_seed_same_file_pixels_other_seed_others(painter: DrawingPainter) -> None:
    hashes = []
    for seed, name in (("1", "a.png"), ("1", "b.png"), ("2", "c.png")):
        assert image("a red ball", "--size", "64x64", "--seed", seed, "--out", name) == 0
        hashes.append(read_recipe(Path(name)).pixels_sha256)
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("name", "kind"), [("a.png", "PNG"), ("a.JPG", "JPEG"), ("a.jpeg", "JPEG"), ("a.webp", "WEBP")]
)
def test_every_format_carries_the_recipe_and_replays(
    name: str, kind: str, painter: DrawingPainter, capsys: Capture
) -> None:
    assert image("a red ball", "--size", "64x64", "--style", "Night", "--out", name) == 0
    assert Image.open(name).format == kind
    assert main(["replay", name]) == 0
    assert capsys.readouterr().out.endswith(f"{name}: identical\n")
    assert painter.painted == [("a red ball under a night sky", 0)] * 2


def test_a_prompt_cut_short_is_replayed_cut_short(painter: DrawingPainter, capsys: Capture) -> None:
    prompt = "a red ball in a meadow under the night sky"
    assert image(prompt, "--size", "64x64", "--cut-prompt", "--out", "a.png") == 0
    assert main(["replay", "a.png"]) == 0
    assert painter.painted == [("a red ball in a meadow", 0)] * 2
    assert read_recipe(Path("a.png")).request.cut_prompt


def test_replay_writes_the_picture_again_where_it_is_told_to(
    painter: DrawingPainter, capsys: Capture
) -> None:
    assert image("a red ball", "--size", "64x64", "--out", "a.png") == 0
    assert main(["replay", "a.png", "--out", "b.webp", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["out"] == "b.webp"
    assert read_recipe(Path("a.png")).pixels_sha256 == pixel_hash(Image.open("b.webp"))
    for out in ("/proc/a.png", "b.bmp", "nowhere/a.png"):
        assert main(["replay", "a.png", "--out", out]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert sorted(os.listdir()) == ["a.png", "b.webp"] and len(painter.painted) == 2


def test_unknown_words_are_a_warning_and_in_the_json(painter: DrawingPainter, capsys: Capture) -> None:
    assert image("an astronaut riding a horse", "--size", "64x64", "--out", "a.png", "--json") == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert facts["unknown_words"] == ["an", "astronaut", "riding", "horse"]
    sentence = (
        "Not in Storybook's world: an, astronaut, riding, horse; it knows: ball, cat; red, blue; a meadow"
    )
    assert captured.err == f"warning: {sentence}\n" and facts["warnings"] == [sentence]


def test_prompts_from_stdin_and_from_a_file(
    painter: DrawingPainter, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("p.txt").write_bytes("\ufeffa blue b\u00e4ll\r\n".encode())
    assert image("--prompt-file", "p.txt", "--size", "64x64", "--out", "a.png") == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a red \xff ball\n")))
    assert image("-", "--size", "64x64", "--out", "b.png") == 0
    assert [prompt for prompt, _ in painter.painted] == ["a blue b\u00e4ll", "a red \ufffd ball"]
    assert "b.png  64x64  seed 0" in capsys.readouterr().out


MILLION = "a" * 10**6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["a cat", "--size", "0x0", "--out", "a.png"],
            "width: given 0, allowed multiples of 16 from 64 to 16384.",
        ),
        (["a cat", "--size", "100x100", "--out", "a.png"], "width: given 100, allowed multiples of 16"),
        (["a cat", "--size", "1e9", "--out", "a.png"], "size: given '1e9', allowed WIDTHxHEIGHT"),
        (["a cat", "--size", "1000000000x64", "--out", "a.png"], "size: given '1000000000x64', allowed"),
        (["a cat", "--size", "9999x9999", "--out", "a.png"], "width: given 9999, allowed multiples of 16"),
        (
            ["a cat", "--size", "8208x64", "--out", "a.png"],
            "width: given 8208, allowed multiples of 16 from 64 to 8192.",
        ),
        (["a cat", "--steps", "NaN", "--out", "a.png"], "steps: given 'NaN', allowed a whole number."),
        (["a cat", "--seed", "-1", "--out", "a.png"], "seed: given -1, allowed whole numbers from 0"),
        (["", "--out", "a.png"], "prompt: given nothing to paint, allowed 1 to 20,000 characters."),
        ([MILLION, "--out", "a.png"], "prompt: given 1,000,000 characters, allowed 1 to 20,000."),
        (
            ["--prompt-file", "long.txt", "--out", "a.png"],
            "prompt: given 1,000,000 characters, allowed 1 to 20,000.",
        ),
        (
            ["--prompt-file", "absent.txt", "--out", "a.png"],
            "prompt-file: can't read 'absent.txt' (No such file",
        ),
        (["a", "--prompt-file", "long.txt", "--out", "a.png"], "prompt: give either PROMPT"),
        (["--out", "a.png"], "prompt: give either PROMPT"),
        (
            ["a cat", "--model", "dall-e", "--out", "a.png"],
            "model: given 'dall-e', allowed storybook, storybook-flux.",
        ),
        (
            ["a cat", "--tenor", "--out", "a.png"],
            "tenor: storybook-flux was not trained with it, allowed is without.",
        ),
        (["a cat", "--style", "Baroque", "--out", "a.png"], "style: given 'Baroque', allowed Meadow"),
        (["a cat", "--out", "/proc/a.png"], "Can't write the picture ("),
        (["a cat", "--out", "/proc/nothing/a.png"], "out: there is no folder '/proc/nothing'."),
        (["a cat", "--out", "folder.png"], "out: 'folder.png' is a folder."),
        (
            ["a cat", "--out", "a.gif"],
            "out: given 'a.gif', allowed names ending in .png, .jpg, .jpeg, .webp.",
        ),
        (["a cat", "--out", "a.png", "--bogus"], "unrecognized arguments: --bogus."),
        (["a cat"], "the following arguments are required: --out."),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_no_file(
    words: list[str], message: str, painter: DrawingPainter, capsys: Capture
) -> None:
    Path("long.txt").write_text(MILLION)
    Path("folder.png").mkdir()
    assert image(*words) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith(f"error: {message}")
    assert captured.err.count("\n") == 1 and len(captured.err) < 300
    assert sorted(os.listdir()) == ["folder.png", "long.txt"] and painter.painted == []


def test_a_million_characters_on_stdin(
    painter: DrawingPainter, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(MILLION.encode())))
    assert image("-", "--out", "a.png") == 2
    assert capsys.readouterr().err == "error: prompt: given 1,000,000 characters, allowed 1 to 20,000.\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a" * (17 << 20))))
    assert image("-", "--out", "a.png") == 2
    assert "more than 16 MB" in capsys.readouterr().err and os.listdir() == []


@pytest.mark.parametrize("words", [[], ["paint", "a cat"], ["models", "erase"], ["score"]])
def test_commands_that_do_not_exist_are_not_offered(words: list[str], capsys: Capture) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("    ")}
    assert listed == {
        "serve", "image", "tokens", "video", "chain", "scop", "score", "models", "kernels", "doctor",
        "replay",
    }  # fmt: skip


def test_full_disk_is_exit_code_1_and_no_file(
    painter: DrawingPainter, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("a.png").write_bytes(b"the picture of yesterday")

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    assert image("a cat", "--size", "64x64", "--out", "a.png") == 1
    assert capsys.readouterr().err.startswith("error: The disk is full (")
    assert os.listdir() == ["a.png"] and Path("a.png").read_bytes() == b"the picture of yesterday"


def test_an_unexpected_failure_is_exit_code_1(painter: DrawingPainter, capsys: Capture) -> None:
    painter.fail = RuntimeError("numbers went wrong")
    assert image("a cat", "--size", "64x64", "--out", "a.png") == 1
    assert capsys.readouterr().err.endswith(
        "error: something unexpected went wrong (see above); nothing was written.\n"
    )
    painter.fail = KeyboardInterrupt()
    assert image("a cat", "--size", "64x64", "--out", "a.png") == 1
    assert capsys.readouterr().err == "error: stopped; nothing was written.\n"
    assert os.listdir() == []


def test_replay_tells_a_difference_and_what_changed(painter: DrawingPainter, capsys: Capture) -> None:
    assert image("a red ball", "--size", "64x64", "--out", "a.png") == 0
    weights = Path("..") / "weights"
    manifest = json.loads((weights / "MANIFEST.json").read_text())
    files = manifest["models"]["storybook-flux"]["files"]
    model = weights / "storybook-flux" / "unet.safetensors"
    model.write_bytes(model.read_bytes() + b"more")
    files[model.name] = {
        "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "bytes": model.stat().st_size,
    }
    (weights / "MANIFEST.json").write_text(json.dumps(manifest))
    capsys.readouterr()
    assert main(["replay", "a.png"]) == 1
    assert capsys.readouterr().out.startswith("a.png: differs: the file's pixels differ by up to ")
    assert main(["replay", "a.png", "--json"]) == 1
    facts = json_of(capsys)
    assert facts["identical"] is False and facts["changed"] == ["the model's weights are others"]
    assert facts["pixels_sha256"] != facts["recorded_sha256"]


def test_replay_of_an_edited_file_repaints_the_recipe(painter: DrawingPainter, capsys: Capture) -> None:
    assert image("a red ball", "--size", "64x64", "--out", "a.png") == 0
    with Image.open("a.png") as picture:
        recipe = read_recipe(Path("a.png"))
        edited = picture.copy()
    edited.putpixel((3, 3), (1, 2, 3))
    with open("a.png", "wb") as file:
        write_picture(edited, recipe, file)
    capsys.readouterr()
    assert main(["replay", "a.png", "--json"]) == 0
    facts = json_of(capsys)
    assert facts["identical"] is True and "differ by up to" in facts["pixels"]


@pytest.mark.parametrize(
    ("name", "data"), [("a.png", None), ("b.png", b"no picture"), ("/etc/hostname", None)]
)
def test_replay_of_something_else_is_exit_code_2(
    name: str, data: bytes | None, painter: DrawingPainter, capsys: Capture
) -> None:
    if data:
        Path(name).write_bytes(data)
    assert main(["replay", name]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_models_list_and_verify(painter: DrawingPainter, capsys: Capture) -> None:
    assert main(["models", "list"]) == 0
    assert capsys.readouterr().out.split()[:3] == ["storybook-flux", "ok", "0.0"]
    assert main(["models", "verify"]) == 0
    assert capsys.readouterr().out == "storybook-flux: ok\n"
    model = Path("..") / "weights" / "storybook-flux" / "unet.safetensors"
    model.write_bytes(b"Y" + model.read_bytes()[1:])
    assert main(["models", "verify", "storybook", "--json"]) == 1
    (facts,) = json_of(capsys)["models"]
    assert facts["state"] == "damaged" and facts["problems"] == [
        "file unet.safetensors does not have the recorded contents."
    ]
    assert image("a cat", "--size", "64x64", "--out", "a.png") == 1
    assert "The model storybook-flux is damaged" in capsys.readouterr().err
    assert main(["models", "verify", "dall-e"]) == 2


def test_a_model_folder_can_be_named(painter: DrawingPainter, tmp_path: Path, capsys: Capture) -> None:
    folder = make_weights(tmp_path / "elsewhere", ("my-flux",)) / "my-flux"
    assert (
        image("any words at all", "--size", "64x64", "--model", str(folder), "--out", "a.png", "--json") == 0
    )
    facts = json_of(capsys)
    assert facts["model"] == "my-flux" and facts["unknown_words"] == [], "a foreign model may know every word"


def test_what_libraries_print_stays_out_of_stdout(
    painter: DrawingPainter, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = painter.load_model
    monkeypatch.setattr(painter, "load_model", lambda folder: (print("loading shards"), load(folder))[1])
    assert image("a cat", "--size", "64x64", "--out", "a.png", "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["file"] == "a.png" and "loading shards" in captured.err


def test_progress_is_written_to_terminals_only() -> None:
    news = Report("paint", 1, 2, 3, 8, 0.5, 256, 256, None)
    pipe = io.StringIO()
    line = ProgressLine(10.0, pipe)
    line.loading("storybook-flux")
    line.report(news)
    line.close()
    assert pipe.getvalue() == ""
    parent, child = pty.openpty()
    with open(child, "w", encoding="utf-8") as terminal:
        line = ProgressLine(10.0, terminal)
        line.report(news)
        line.close()
        shown = os.read(parent, 1000).decode()
        while shown.count("\r") < 2:  # a terminal may hand over the two writes one by one
            shown += os.read(parent, 1000).decode()
    os.close(parent)
    assert "[##########----------]  50% paint stage 1/2 256x256 step 3/8, 0 s left" in shown
    assert shown.endswith("\r\x1b[K")


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    answers = {}

    def run(*words: str) -> None:
        answers[words[0]] = subprocess.run(
            [sys.executable, "-m", "studio", *words],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=60,
        )

    threads = [
        threading.Thread(target=run, args=words) for words in (("--help",), ("image", "", "--out", "a.png"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers["--help"].returncode == 0 and "doctor" in answers["--help"].stdout
    assert answers["image"].returncode == 2
    assert (
        answers["image"].stderr == "error: prompt: given nothing to paint, allowed 1 to 20,000 characters.\n"
    )
