"""The evaluation command on tiny random models: every reading, the cache, the grid."""

import json
import math

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image

from pipelines.longalign import encoding_time, evaluate
from pipelines.longalign.baselines import encode_chunks, encode_truncated
from pipelines.longalign.evaluate import Painter, readings
from pipelines.longalign.lora import lora_modules
from pipelines.longalign.parts import LORA_FILE, LORA_NAMES, LongAlignParts, write_lora
from pipelines.storybook.detector import StorybookJudge
from pipelines.storybook.text import build_clip_tokenizer
from pipelines.storybook.train_sd import SCHEDULE
from tests.pipelines.longalign.conftest import build_vae, sd_parts


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model with all LoRAs, and a judge; both tiny and random."""
    root = tmp_path_factory.mktemp("evaluation")
    parts = sd_parts(channels=4, size=8)
    parts["vae"], parts["scheduler"] = build_vae(4), DDIMScheduler(**SCHEDULE)
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(root / "sd")
    folder, unet = root / "sd" / "longalign", parts["unet"]
    layers = dict(unet.named_modules())
    LongAlignParts("smart", 240, ()).write(folder)
    for name in LORA_NAMES:
        tensors = {}
        for path in lora_modules(unet):
            weight = layers[path].weight
            tensors[f"{path}.lora_A.weight"] = 0.3 * torch.randn(2, *weight.shape[1:])
            tensors[f"{path}.lora_B.weight"] = 0.3 * torch.randn(
                weight.shape[0], 2, *(1,) * (weight.ndim - 2)
            )
        write_lora(folder, name, tensors)
    StorybookJudge(widths=(16, 16, 16, 16), layers=1, pyramid=16).save_pretrained(root / "judge")
    return root


def arguments(folders, tmp_path, *more):
    fixed = ["--folder", folders / "sd", "--judge", folders / "judge", "--cache", tmp_path / "cache"]
    numbers = ["--n", "2", "--steps", "1", "--seeds", "2", "--diverse-prompts", "1"]
    return [str(part) for part in (*fixed, *numbers, *more)]


def test_the_readings_are_those_that_the_weights_allow():
    plain = [reading.name for reading in readings(())]
    assert plain == ["truncated at 77", "chunks of 75", "long-clip 248", "segments, untrained"]
    names = [reading.name for reading in readings(LORA_NAMES)]
    assert names[4:] == ["align", "align + reward", "4 steps", "4 steps + reward"]


def test_a_table_is_measured_kept_and_resumed(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding_time, "REPEATS", 1)
    only = ["--only", "chunks of 75", "segments, untrained", "4 steps + reward"]
    out, grid = tmp_path / "table.json", tmp_path / "grid.png"
    monkeypatch.setattr(evaluate, "paint_grid", lambda setting, chosen: Image.new("RGB", (len(chosen), 1)))
    evaluate.main(arguments(folders, tmp_path, *only, "--out", out, "--grid", grid))
    table = json.loads(out.read_text())
    assert list(table["readings"]) == only[1:] and table["n"] == 2 and Image.open(grid).size == (3, 1)
    figures = table["readings"]["4 steps + reward"]
    shares = figures["attributes"]
    assert shares["all"]["n"] == sum(shares[kind]["n"] for kind in evaluate.ATTRIBUTES) >= 10
    assert figures["frechet"] > 0 and figures["diversity"] > 0
    assert len(list((tmp_path / "cache").glob("*.jsonl"))) == 6

    def refuse(*_):
        raise AssertionError("everything is in the cache")

    monkeypatch.setattr(evaluate, "Painter", refuse)
    evaluate.main(arguments(folders, tmp_path, *only, "--out", out))
    assert json.loads(out.read_text())["readings"] == table["readings"]


def test_answers_are_kept_until_what_they_come_from_changes(folders, tmp_path):
    setting = evaluate.setting_of(parsed(arguments(folders, tmp_path)))
    before = {reading.name: setting.key(reading) for reading in readings(LORA_NAMES)}
    assert len(set(before.values())) == len(before)
    lora = setting.longalign / "lcm" / LORA_FILE
    kept = lora.read_bytes()
    lora.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    changed = {name for name, key in before.items() if setting.key(named(name)) != key}
    lora.write_bytes(kept)
    assert changed == {"4 steps", "4 steps + reward"}


def named(name):
    return next(reading for reading in readings(LORA_NAMES) if reading.name == name)


def test_an_untrained_stretch_is_called_so(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(encoding_time, "REPEATS", 1)
    out = tmp_path / "table.json"
    evaluate.main(arguments(folders, tmp_path, "--only", "long-clip 248", "truncated at 77", "--out", out))
    readings_ = json.loads(out.read_text())["readings"]
    assert (
        readings_["long-clip 248"]["note"] == "untrained stretch"
        and "note" not in readings_["truncated at 77"]
    )
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("long-clip 248")]
    assert len(lines) == 1 and lines[0].endswith("(untrained stretch)")


def test_an_unknown_reading_is_refused(folders, tmp_path):
    with pytest.raises(ValueError, match="'magic'"):
        evaluate.main(arguments(folders, tmp_path, "--only", "magic"))


def test_readings_differ_in_what_they_hand_over(folders, tmp_path):
    options = arguments(folders, tmp_path)
    setting = evaluate.setting_of(parsed(options))
    shapes, pictures = {}, {}
    text = "The red cat is in a meadow. " * 40
    sentence = len(build_clip_tokenizer()("The red cat is in a meadow.").input_ids) - 1  # rows: no end mark
    chunks = math.ceil(40 * (sentence - 1) / 75)
    for reading in readings(()):
        painter = Painter(reading, setting)
        embeds = reading.encode(painter.pipe, [text])
        assert embeds["prompt_embeds"].shape == embeds["negative_prompt_embeds"].shape
        shapes[reading.name] = embeds["prompt_embeds"].shape[1]
        pictures[reading.name] = painter.paint([text], [1])[0].tobytes()
    assert shapes == {
        "truncated at 77": 77,
        "chunks of 75": chunks * 77,
        "long-clip 248": 248,
        "segments, untrained": math.ceil(40 * sentence / 80) * 80,
    }
    assert len(set(pictures.values())) == 4
    grid = evaluate.paint_grid(setting, ["chunks of 75", "truncated at 77"], columns=2)
    assert grid.size == (2 * 64, 2 * 64)


def parsed(options):
    import argparse

    names = iter(options)
    pairs = {name.removeprefix("--").replace("-", "_"): next(names) for name in names}
    paths = {name: evaluate.Path(pairs[name]) for name in ("folder", "judge", "cache")}
    numbers = {name: int(pairs[name]) for name in ("n", "steps", "seeds", "diverse_prompts")}
    return argparse.Namespace(**paths, **numbers, guidance=3.0, longalign=None, long_clip=None)


def test_chunks_and_truncation_agree_on_short_prompts(sd):
    short = ["a red cat in a meadow", "a dog"]
    cut, chunks = encode_truncated(sd, short), encode_chunks(sd, short)
    for name in ("prompt_embeds", "negative_prompt_embeds"):
        torch.testing.assert_close(cut[name], chunks[name], rtol=1e-4, atol=1e-5)
