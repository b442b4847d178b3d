"""The studio's door to tokens, on a tiny real model that is loaded from a folder."""

import math

import numpy as np
import pytest
from PIL import Image

from pipelines.compose import token_progress, tokenizing
from pipelines.compose.tokenizing import (
    Cancelled,
    curve,
    decode,
    decode_stops,
    describe,
    encode,
    find_budget,
    generate,
    load_model,
    mix,
    open_picture,
    plan_time,
    reroll,
    splice,
)
from pipelines.flextok.measures import psnr, stops_up_to
from pipelines.runtime import choose_runtime

SIZES = {
    "in_channels": 4, "patch_size": (2, 2), "dim": 32, "depth": 1, "head_dim": 16, "grid": (4, 4),
    "num_registers": 16, "levels": (8, 5, 5),
}  # fmt: skip
PROMPT = "a red ball in a meadow"


@pytest.fixture(scope="module")
def folder(build_vae, build_parts, tmp_path_factory):
    """A tokenizer with a generator, saved as the embedded models are."""
    import torch

    from pipelines import FlexARPipeline
    from pipelines.flextok.transformer_flexar import FlexARModel
    from pipelines.flextok.transformer_flextok import FlexTokDecoderModel, FlexTokEncoderModel

    torch.manual_seed(0)
    encoder, decoder = FlexTokEncoderModel(**SIZES), FlexTokDecoderModel(**SIZES, max_timestep=1.0)
    model = FlexARModel(
        vocab_size=200, num_tokens=16, width=32, depth=1, num_heads=2, condition="text", text_dim=16
    )
    with torch.no_grad():
        for parameter in (*encoder.parameters(), *decoder.parameters()):
            if parameter.requires_grad:
                parameter.normal_(std=0.2)
    parts = build_parts()
    path = tmp_path_factory.mktemp("models") / "storybook-tokens"
    text = {"text_encoder": parts["text_encoder_2"], "tokenizer": parts["tokenizer_2"]}
    FlexARPipeline(
        model, build_vae(), encoder, decoder, **text, default_steps=3, default_guidance=1.5, default_keep=12
    ).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


@pytest.fixture
def picture():
    x, y = np.meshgrid(np.linspace(0, 255, 150), np.linspace(0, 255, 100))
    return Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8))


@pytest.fixture
def previews_at_once(monkeypatch):
    monkeypatch.setattr(token_progress, "PREVIEW_EVERY_S", 0.0)
    monkeypatch.setattr(token_progress, "PREVIEW_SHARE", math.inf)


def same(first, second):
    return np.array_equal(np.asarray(first), np.asarray(second))


def test_a_model_is_loaded_for_this_machine(model, folder):
    runtime = choose_runtime()
    assert (model.device, model.dtype) == (runtime.device, runtime.dtype)
    assert str(model.flextok.decoder.dtype) == f"torch.{runtime.dtype}"
    assert str(model.flextok.encoder.dtype) == "torch.float32"  # ids depend on every digit
    assert model.can_generate and model.is_storybook
    assert (model.side, model.num_tokens, model.default_steps) == (64, 16, 3)
    assert model.name.startswith("storybook-tokens@") and len(model.name) == len("storybook-tokens@") + 8
    assert load_model(folder).name == model.name


def test_a_picture_becomes_bytes_and_a_picture(model, picture):
    encoded = encode(model, picture)
    assert encoded.data[:4] == b"FXTK" and describe(encoded.data) == encoded.strip
    assert (encoded.strip.width, encoded.strip.height, encoded.strip.count) == (150, 100, 16)
    assert encoded.bits_per_pixel == pytest.approx(256 / 15_000)
    decoded = decode(model, encoded.data, seed=3)
    assert decoded.image.size == (150, 100) and decoded.image.mode == "RGB"
    assert (decoded.count, decoded.steps, decoded.warnings) == (16, 3, ())
    assert "decode" in decoded.seconds and (decoded.device, decoded.dtype) == (model.device, model.dtype)
    own = decode(model, encoded.data, seed=3, full_size=False)
    assert own.image.size == (64, 43)
    assert same(decode(model, encoded.data, seed=3).image, decoded.image)
    assert not same(decode(model, encoded.data, seed=4).image, decoded.image)
    assert not same(decode(model, encoded.data, keep=1, seed=3).image, decoded.image)


def test_prefixes_are_the_same_tokens(model, picture):
    whole, short = encode(model, picture).strip, encode(model, picture, keep=3).strip
    assert short == whole.keep(3)


@pytest.mark.parametrize(("fit", "size", "tiles"), [("crop", (100, 100), 1), ("tiles", (150, 100), 6)])
def test_other_ways_to_fit(model, picture, fit, size, tiles):
    encoded = encode(model, picture, fit=fit, keep=2)
    strip = encoded.strip
    assert (strip.width, strip.height) == size and len(strip.tiles) == tiles
    assert decode(model, encoded.data).image.size == size
    assert decode(model, encoded.data, keep=1, full_size=False).image.size[0] >= 64


def test_progress_runs_from_nothing_to_one(model, picture, previews_at_once):
    news = []
    data = encode(model, picture, fit="tiles", keep=1, on_progress=news.append).data
    assert [(n.phase, n.done, n.total) for n in news] == [("encode", 0, 6), ("encode", 6, 6)]
    news.clear()
    decode(model, data, on_progress=news.append)
    assert [n.fraction for n in news] == pytest.approx([1 / 3, 2 / 3, 1])
    news.clear()
    decode(model, encode(model, picture, keep=1).data, on_progress=news.append)
    assert all(n.preview is not None and n.preview.size == (64, 64) for n in news)
    news.clear()
    generate(model, PROMPT, keep=4, on_progress=news.append)
    fractions = [n.fraction for n in news]
    assert [n.phase for n in news] == ["generate"] * 4 + ["decode"] * 3
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert [len(n.tokens) for n in news[:4]] == [1, 2, 3, 4]
    assert [n.preview is not None for n in news[:4]] == [True] * 3 + [False]  # the end is decoded anyway


def test_everything_can_be_stopped(model, picture):
    data = encode(model, picture).data
    calls = {
        "encode": lambda stop: encode(model, picture, should_stop=stop),
        "decode": lambda stop: decode(model, data, should_stop=stop),
        "stops": lambda stop: list(decode_stops(model, data, seed=77, should_stop=stop)),
        "generate": lambda stop: generate(model, PROMPT, should_stop=stop),
        "curve": lambda stop: list(curve(model, picture, seed=78, should_stop=stop)),
    }
    for name, call in calls.items():
        asked = []

        def stop(asked=asked):
            asked.append(1)
            return len(asked) > 1

        with pytest.raises(Cancelled):
            call(stop)
        assert len(asked) == 2, name
        with pytest.raises(Cancelled):
            call(lambda: True)


def test_prefixes_come_coarse_first_and_are_remembered(model, picture):
    data = encode(model, picture).data
    found = list(decode_stops(model, data, seed=5))
    assert [count for count, _ in found] == [1, 2, 4, 8, 16]
    assert all(image.size == (64, 64) for _, image in found)
    calls = []
    hook = model.flextok.decoder.register_forward_hook(lambda *_: calls.append(1))
    again = dict(decode_stops(model, data, stops=(4, 1), seed=5))
    assert calls == [] and list(again) == [1, 4] and again[4] is found[2][1]
    list(decode_stops(model, data, stops=(4,), seed=6))
    assert calls
    hook.remove()


def test_only_so_many_pictures_are_remembered(model, picture, monkeypatch):
    monkeypatch.setattr(tokenizing, "CACHED_PICTURES", 3)
    list(decode_stops(model, encode(model, picture).data, seed=9))
    assert len(model.cache) == 3


def test_text_becomes_tokens_and_a_picture(model):
    made = generate(model, PROMPT, keep=5, seed=2)
    assert made.image.size == (64, 64) and made.is_whole and made.warnings == ()
    assert made.strip.count == 5 and describe(made.data) == made.strip and made.strip.model == model.name
    assert {"generate", "decode"} <= set(made.seconds)
    assert same(decode(model, made.data, seed=2).image, made.image)
    again, other = generate(model, PROMPT, keep=5, seed=2), generate(model, PROMPT, keep=5, seed=3)
    assert again.data == made.data and same(again.image, made.image)
    assert other.data != made.data
    assert generate(model, PROMPT, keep=3, seed=2).strip == made.strip.keep(3)
    own = generate(model, PROMPT, seed=2).strip
    assert own.count == 12 and own.keep(5) == made.strip


def test_generation_can_be_finished_early(model):
    made = generate(model, PROMPT, should_finish=lambda: True)
    assert made.strip.count == 1 and not made.is_whole and made.image.size == (64, 64)


def test_words_outside_the_world_are_named(model):
    made = generate(model, "an astronaut on a crimson ball", keep=1)
    assert "astronaut" in made.warnings[0] and "crimson" not in made.warnings[0]


def test_the_tail_is_drawn_anew(model, picture):
    data = encode(model, picture, keep=6).data
    made = reroll(model, data, PROMPT, start=4, seed=1)
    ids = describe(data).tiles[0]
    assert made.strip.tiles[0][:4] == ids[:4] and made.strip.count == 6
    assert reroll(model, data, PROMPT, start=4, keep=9, seed=1).strip.tiles[0][:6] == made.strip.tiles[0]
    for start in (-1, 6, 7):
        with pytest.raises(ValueError, match="start is"):
            reroll(model, data, PROMPT, start=start)


def test_two_strips_become_one(model, picture):
    first, second = (encode(model, p).data for p in (picture, picture.transpose(Image.Transpose.ROTATE_180)))
    both = splice(first, second, 3)
    assert describe(both).tiles[0] == describe(first).tiles[0][:3] + describe(second).tiles[0][3:]
    swapped = mix(first, second, [0])
    assert describe(swapped).tiles[0] == describe(second).tiles[0][:1] + describe(first).tiles[0][1:]
    assert decode(model, both).warnings == ()


def test_the_curve_compares_with_what_the_model_was_given(model, picture):
    points = list(curve(model, picture, seed=5, stops=(1, 16)))
    assert [point.count for point, _ in points] == [1, 16]
    from pipelines.flextok.framing import to_square

    for point, image in points:
        assert point.psnr == pytest.approx(psnr(image, to_square(picture, 64)))
        assert point.size_bytes == 2 * point.count


def test_a_budget_is_the_smallest_count_that_is_near_enough(model, picture):
    found = {point.count: point.psnr for point, _ in curve(model, picture, seed=5)}
    assert list(found) == list(stops_up_to(16))
    assert find_budget(model, picture, -100.0, seed=5).count == 1
    assert find_budget(model, picture, max(found.values()) + 1, seed=5) is None


def test_a_time_becomes_tokens_and_steps(model):
    count, steps = plan_time(model, 60.0)
    assert (count, steps) == (16, 3)
    with pytest.raises(ValueError, match="too short"):
        plan_time(model, 0.0)


def test_tokens_of_other_weights_are_decoded_with_a_remark(model, picture):
    strip = encode(model, picture).strip
    from dataclasses import replace

    decoded = decode(model, replace(strip, model="somebody@00000000").to_bytes())
    assert "somebody@00000000" in decoded.warnings[0] and model.name in decoded.warnings[0]
    with pytest.raises(ValueError, match="of another kind"):
        decode(model, replace(strip, levels=(8, 5, 6)).to_bytes())
    with pytest.raises(ValueError, match="of another kind"):
        decode(model, replace(strip, tiles=((0,) * 17,)).to_bytes())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0}, "1 to 16"), ({"keep": 17}, "1 to 16"), ({"keep": 257}, "1 to 16"),
        ({"keep": "3"}, "1 to 16"),
        ({"fit": "stretch"}, "letterbox, crop, tiles"),
    ],
)  # fmt: skip
def test_bad_encodings_are_refused(model, picture, options, message):
    with pytest.raises(ValueError, match=message):
        encode(model, picture, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0}, "1 to 16"), ({"keep": 17}, "1 to 16"), ({"steps": 0}, "1 to 1000"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"), ({"guidance_scale": float("nan")}, "finite"),
    ],
)  # fmt: skip
def test_bad_decodings_are_refused(model, picture, options, message):
    with pytest.raises(ValueError, match=message):
        decode(model, encode(model, picture).data, **options)


def test_damaged_files_and_pictures_are_refused(model, picture, tmp_path):
    data = encode(model, picture).data
    for broken in (b"", b"PNG", data[:-3], data[:-1] + b"\0", data + b"x"):
        with pytest.raises(ValueError, match="token file"):
            decode(model, broken)
    for options in ({"keep": 0}, {"keep": 99}, {"temperature": -1}, {"top_p": 2.0}, {"seed": -5}):
        with pytest.raises(ValueError):
            generate(model, PROMPT, **options)
    tiled = encode(model, picture, fit="tiles", keep=1).data
    for call in (lambda: list(decode_stops(model, tiled)), lambda: reroll(model, tiled, PROMPT, start=0)):
        with pytest.raises(ValueError, match="6 tiles"):
            call()
    with pytest.raises(ValueError, match="pixels"):
        encode(model, Image.new("1", (20_000, 20_000)))
    (tmp_path / "x.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="no picture"):
        open_picture(tmp_path / "x.png")


def test_a_tokenizer_alone_makes_nothing_from_text(model, tmp_path, picture):
    model.flextok.save_pretrained(tmp_path / "tokenizer")
    alone = load_model(tmp_path / "tokenizer")
    assert not alone.can_generate and not alone.is_storybook
    assert decode(alone, encode(alone, picture).data).image.size == (150, 100)
    with pytest.raises(ValueError, match="no generator"):
        generate(alone, PROMPT)
    with pytest.raises(FileNotFoundError, match="no model"):
        load_model(tmp_path / "missing")
