"""The whole chain on tiny real models: prompt, picture, tokens, what they say, a film from there."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipelines.compose import filming, painting, tokenizing
from pipelines.compose.chain import Cancelled, ChainFolders, ChainRequest, check_chain, run_chain
from pipelines.vidrd.video_files import read_recipe, read_video
from studio.cli import main
from tests.pipelines.vidrd.conftest import tiny_pipeline, tiny_unet

REQUEST = ChainRequest("a red ball in a meadow", 128, 64, seed=3, steps=2, keep=8, clips=2, frames=4)


@pytest.fixture(scope="module")
def folders(saved_folder, build_vae, tmp_path_factory):
    import torch

    from pipelines.flextok.pipeline_flextok import FlexTokPipeline
    from pipelines.flextok.transformer_flextok import FlexTokDecoderModel, FlexTokEncoderModel

    sizes = {
        "in_channels": 4, "patch_size": (2, 2), "dim": 32, "depth": 1, "head_dim": 16, "grid": (4, 4),
        "num_registers": 16, "levels": (8, 5, 5),
    }  # fmt: skip
    root = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    parts = build_vae(), FlexTokEncoderModel(**sizes), FlexTokDecoderModel(**sizes, max_timestep=1.0)
    FlexTokPipeline(*parts, default_steps=2, default_guidance=1.5).save_pretrained(root / "storybook-tokens")
    tiny_pipeline(unet=tiny_unet(sample_size=8)).save_pretrained(root / "storybook-tiny-video")
    return ChainFolders(saved_folder, root / "storybook-tokens", root / "storybook-tiny-video")


@pytest.fixture(scope="module")
def made(folders, tmp_path_factory):
    """A finished chain: its record, its folder, what a watcher saw."""
    out, seen = tmp_path_factory.mktemp("made") / "new", []
    return run_chain(folders, REQUEST, out, on_progress=seen.append), out, seen


def apart(first, second):
    """Mean difference of two videos' pixels, 0 to 255."""
    frames = [
        np.stack([np.asarray(frame, dtype=float) for frame in read_video(video)[0]])
        for video in (first, second)
    ]
    return np.abs(frames[0] - frames[1]).mean()


def test_every_step_leaves_its_file(made):
    record, out, _ = made
    assert sorted(path.name for path in out.iterdir()) == [
        "chain.json", "decoded.png", "film.mp4", "picture.fxtk", "picture.png"]  # fmt: skip
    assert Image.open(out / "picture.png").size == (128, 64)
    strip = tokenizing.describe((out / "picture.fxtk").read_bytes())
    assert (strip.count, strip.width, strip.height) == (8, 128, 64)
    assert Image.open(out / "decoded.png").size == (64, 32)  # as the model makes it, without the bars
    frames, fps = read_video(out / "film.mp4")
    assert len(frames) == 6 and fps == 8
    assert frames[0].size == (96, 64)  # in the picture's aspect
    assert read_recipe(out / "film.mp4")["request"]["prompt"] == REQUEST.prompt


def test_the_record_tells_sizes_times_and_warnings(made, folders):
    record, out, _ = made
    assert json.loads((out / "chain.json").read_text()) == record
    steps = record["steps"]
    assert list(steps) == list(record["seconds"]) == ["picture", "tokens", "film"]
    assert (steps["picture"]["width"], steps["picture"]["height"]) == (128, 64)
    assert steps["picture"]["stages"] == [[96, 64], [128, 64]]
    assert (steps["tokens"]["count"], steps["tokens"]["bits_per_pixel"]) == (8, 128 / (128 * 64))
    assert (steps["film"]["clips"], steps["film"]["frames"]) == (2, 6)
    for facts in steps.values():
        assert facts["bytes"] == {name: (out / name).stat().st_size for name in facts["bytes"]}
        assert "load" in facts["seconds"] and all(value >= 0 for value in facts["seconds"].values())
    assert {"encode", "decode"} <= set(steps["tokens"]["seconds"])
    assert {"clip 1", "clip 2", "save"} <= set(steps["film"]["seconds"])
    assert record["warnings"] == [] and record["peak_bytes"] > 0
    assert record["asked"]["models"]["tokens"]["name"] == folders.tokens.name


def test_progress_goes_through_all_steps(made):
    _, _, seen = made
    fractions = [news.fraction for news in seen]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
    phases = list(dict.fromkeys(news.phase for news in seen))
    assert [phase for phase in phases if phase.endswith(("paint", "decode", "film"))] == [
        "picture: paint", "picture: decode", "tokens: decode", "film: film"]  # fmt: skip
    assert {news.stage for news in seen} == {1, 2, 3} and {news.stages for news in seen} == {3}


def test_the_film_starts_from_what_the_tokens_say(made, folders, tmp_path):
    _, out, _ = made
    model = filming.load_film_model(folders.video)
    start = filming.read_start(Image.open(out / "decoded.png"))
    film = filming.film(model, REQUEST.film(start))
    exported = filming.export_film(film, tmp_path / "film.mp4").path
    other = filming.film(model, replace(REQUEST.film(), width=96, height=64))
    unlike = filming.export_film(other, tmp_path / "other.mp4").path
    # how tensors lie in memory decides about the last bits, and a codec makes more of them
    assert apart(exported, out / "film.mp4") < 0.2 * apart(unlike, out / "film.mp4")


def test_a_chain_that_was_cut_short_goes_on(made, folders, tmp_path, monkeypatch):
    record, whole, _ = made
    calls = []

    def stops_in_clip_two(news):
        calls.append(news.phase)
        stopping.append(news.phase == "film: film" and news.fraction > 0.95)

    stopping = [False]
    with pytest.raises(Cancelled):
        run_chain(folders, REQUEST, tmp_path, on_progress=stops_in_clip_two, should_stop=lambda: stopping[-1])
    assert not (tmp_path / "film.mp4").exists() and "picture: paint" in calls
    assert len(list((tmp_path / ".clips").glob("clip_*"))) == 1
    for module, name in ((painting, "load_model"), (tokenizing, "load_model")):
        monkeypatch.setattr(module, name, None)  # what is there isn't made again
    calls.clear()
    again = run_chain(folders, REQUEST, tmp_path, on_progress=stops_in_clip_two)
    assert set(calls) <= {"film: encode", "film: film", "film: clip"}
    for name in ("picture.png", "picture.fxtk", "decoded.png"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    assert apart(tmp_path / "film.mp4", whole / "film.mp4") < 2
    assert again["steps"]["picture"]["bytes"] == record["steps"]["picture"]["bytes"]
    with pytest.raises(ValueError, match="holds another chain; name another folder"):
        run_chain(folders, replace(REQUEST, seed=4), tmp_path)


def test_nothing_is_made_when_it_is_stopped_at_once(folders, tmp_path):
    with pytest.raises(Cancelled):
        run_chain(folders, REQUEST, tmp_path / "new", should_stop=lambda: True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"width": 100}, "100"),
        ({"keep": 17}, "keep is 17; allowed: 1 to 16 tokens"),
        ({"keep": 0}, "keep is 0; allowed: 1 to 16 tokens"),
        ({"clips": 0}, "clips is 0; it must be a whole number from 1 to 200"),
        ({"film_prompt": ""}, "the prompt is empty"),
        ({"fps": 0}, "fps is 0"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_loaded(folders, changes, message, tmp_path):
    request = replace(REQUEST, **changes)
    assert message in check_chain(folders, request)
    with pytest.raises(ValueError, match=message):
        run_chain(folders, request, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("what", ["picture", "tokens", "video"])
def test_a_missing_model_is_named(folders, what, tmp_path):
    wrong = replace(folders, **{what: tmp_path / "nothing"})
    assert check_chain(wrong, REQUEST) == f"no {what} model is installed at {tmp_path / 'nothing'}"


def words(folders, out, *more):
    return [
        "chain", REQUEST.prompt, "--size", "128x64", "--seed", "3", "--steps", "2", "--keep", "8",
        "--clips", "2", "--frames", "4", "--model", str(folders.picture), "--tokens-model",
        str(folders.tokens), "--video-model", str(folders.video), "--out", str(out), *more,
    ]  # fmt: skip


def test_from_the_shell(made, folders, tmp_path, capsys):
    record, out, _ = made
    assert main(words(folders, tmp_path / "a", "--json")) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["folder"] == str(tmp_path / "a") and facts["steps"]["tokens"]["count"] == 8
    assert (tmp_path / "a" / "picture.png").read_bytes() == (out / "picture.png").read_bytes()
    assert main(words(folders, tmp_path / "a")) == 0  # all is there
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'a'}  128x64  8 tokens  6 frames  ")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--keep", "17"), "chain: keep is 17; allowed: 1 to 16 tokens."),
        (("--clips", "0"), "clips: given 0"),
        (("--size", "100x64"), "width: given 100"),
        (("--tokens-model", "storybook"), "No model that can turn pictures into tokens is installed"),
        (("--video-model", "storybook"), "No model that can make videos is installed"),
        (("--out", "/proc/x/y"), "out: there is no folder '/proc/x'"),
    ],
)
def test_refusals_are_one_line(folders, tmp_path, capsys, monkeypatch, more, sentence):
    monkeypatch.setenv("TESSERA_WEIGHTS_DIR", str(tmp_path))  # nothing is installed
    given = words(folders, tmp_path / "a", *more)
    if more[0] == "--tokens-model":  # a folder given for another step doesn't help this one
        given = [word for word in given if word != str(folders.tokens)]
        given.pop(given.index("--tokens-model"))
    if more[0] == "--video-model":
        given = [word for word in given if word != str(folders.video)]
        given.pop(given.index("--video-model"))
    assert main(given) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert not (tmp_path / "a").exists()
