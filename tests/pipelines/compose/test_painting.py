"""The studio's door to painting, on a tiny real model."""

import math
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pipelines.compose import painting
from pipelines.compose.painting import Cancelled, load_model, paint
from pipelines.runtime import choose_runtime
from pipelines.storybook.vocabulary import COLOURS, KINDS, world_summary

PROMPT = "a red ball in a meadow"
LARGE = {"width": 544, "height": 544}  # stages 64, 256 and 544; local attention; four tiles


@pytest.fixture(scope="module")
def model(saved_folder):
    return load_model(saved_folder)


def run(model, **options):
    return paint(model, **{"prompt": PROMPT, "width": 128, "height": 64, "seed": 1, "steps": 2, **options})


def test_a_model_is_loaded_for_this_machine(model, saved_folder):
    runtime = choose_runtime()
    assert (model.device, model.dtype) == (runtime.device, runtime.dtype)
    assert model.folder == saved_folder and model.is_storybook
    assert str(model.pipeline.transformer.dtype) == f"torch.{runtime.dtype}"


def test_a_picture_and_how_it_was_made(model):
    painted = run(model)
    assert painted.image.mode == "RGB" and painted.image.size == (128, 64)
    assert painted.stages == ((96, 64), (128, 64))
    assert list(painted.seconds) == ["encode", "stage 1", "enlarge", "stage 2", "decode"]
    assert all(value >= 0 for value in painted.seconds.values()) and sum(painted.seconds.values()) > 0
    assert (painted.backend, painted.device, painted.dtype) == ("dense", model.device, model.dtype)
    assert painted.warnings == () and painted.peak_bytes > 50_000_000


def test_the_same_seed_gives_the_same_pixels(model):
    first, second, other = (np.asarray(run(model, seed=seed).image) for seed in (5, 5, 6))
    assert np.array_equal(first, second) and not np.array_equal(first, other)


def test_progress_runs_from_nothing_to_one_through_all_phases(model, monkeypatch):
    monkeypatch.setattr(painting, "PREVIEW_EVERY_S", 0.0)
    monkeypatch.setattr(painting, "PREVIEW_SHARE", math.inf)
    news = []
    painted = run(model, **LARGE, on_progress=news.append)
    fractions = [item.fraction for item in news]
    assert fractions[0] == 0.0 and fractions[-1] == 1.0
    assert all(before < after for before, after in zip(fractions, fractions[1:], strict=False))
    marks = [(item.phase, item.stage, item.step, item.steps) for item in news]
    assert marks == [
        ("encode", 1, 0, 1),
        *[("paint", 1, step, 2) for step in (1, 2)],
        *[("enlarge", 2, tile, 2) for tile in (1, 2)],
        *[("paint", 2, step, 8) for step in range(1, 9)],
        *[("enlarge", 3, tile, 5) for tile in range(1, 6)],
        *[("paint", 3, step, 8) for step in range(1, 9)],
        *[("decode", 3, tile, 4) for tile in range(1, 5)],
    ]
    assert {item.stages for item in news} == {3}
    sizes = {item.stage: (item.width, item.height) for item in news}
    assert tuple(sizes[stage] for stage in (1, 2, 3)) == painted.stages == ((64, 64), (256, 256), (544, 544))
    assert painted.backend in ("sdpa", "explicit") and "preview" in painted.seconds
    for item in news:
        assert (item.preview is not None) == (item.phase == "paint")
        if item.preview is not None:
            assert isinstance(item.preview, Image.Image) and item.preview.mode == "RGB"
            assert max(item.preview.size) <= 32 * 8 * 1.5
    assert news[-5].preview.size == (272, 272)


def test_a_thin_strip_has_previews_too(model, monkeypatch):
    monkeypatch.setattr(painting, "PREVIEW_EVERY_S", 0.0)
    monkeypatch.setattr(painting, "PREVIEW_LATENTS", 4)
    news = []
    run(model, width=1024, height=64, on_progress=news.append)
    assert all(item.preview.width > item.preview.height >= 8 for item in news if item.preview)
    assert any(item.preview for item in news)


def test_previews_are_spaced_and_nobody_pays_for_unwatched_ones(model, monkeypatch):
    monkeypatch.setattr(painting, "PREVIEW_EVERY_S", math.inf)
    news = []
    run(model, on_progress=news.append)
    assert not any(item.preview for item in news)
    monkeypatch.undo()
    assert "preview" not in run(model).seconds


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        (1, []),
        (2, ["encode", "paint"]),
        (4, ["encode", "paint", "paint", "enlarge"]),
        (7, ["encode", "paint", "paint", "enlarge", "enlarge", "paint", "paint"]),
        (15, ["encode", *["paint"] * 2, *["enlarge"] * 2, *["paint"] * 8, *["enlarge"] * 2]),
        (
            27,
            [
                "encode",
                *["paint"] * 2,
                *["enlarge"] * 2,
                *["paint"] * 8,
                *["enlarge"] * 5,
                *["paint"] * 8,
                "decode",
            ],
        ),
    ],
)
def test_a_stop_is_heard_in_every_phase(model, asked, seen):
    """The first question comes before the prompt is read, then one per step and one per tile."""
    questions, phases = [], []

    def should_stop():
        questions.append(len(phases))
        return len(questions) == asked

    with pytest.raises(Cancelled):
        run(model, **LARGE, should_stop=should_stop, on_progress=lambda item: phases.append(item.phase))
    assert phases == seen and len(questions) == asked
    assert run(model).image.size == (128, 64)  # the model paints on


def test_synonyms_paint_what_they_stand_for(model):
    plain = run(model, prompt="a red cat on a beach")
    synonym = run(model, prompt="A crimson Kitten on a shore")
    assert synonym.warnings == () and np.array_equal(np.asarray(plain.image), np.asarray(synonym.image))


def test_words_outside_the_world_are_named(model):
    (warning,) = run(model, prompt="an astronaut riding a horse").warnings
    assert warning == f"Not in Storybook's world: astronaut, riding, horse; it knows: {world_summary()}"


def test_a_page_is_read_in_blocks_and_every_sentence_counts(model, capfd):
    """Up to 512 tokens in one pass; beyond them nothing is cut up to 4,096."""
    assert run(model, prompt=" ".join(["red"] * 511)).warnings == ()
    page = "a red cat on a beach. " * 120
    ball, dog = (run(model, prompt=page + end) for end in ("a blue ball.", "a blue dog."))
    assert ball.warnings == ()
    assert not np.array_equal(np.asarray(ball.image), np.asarray(dog.image))
    (warning,) = run(model, prompt="a red cat on a beach. " * 900).warnings
    assert re.fullmatch(r"The last \d+ tokens of the prompt were not read: 4096 are the most.", warning)
    assert capfd.readouterr().err == ""


def test_emphasis_and_breaks_are_no_words_of_the_prompt(model):
    plain, weighted, weak, even = (
        run(model, prompt=f"a {red} Kitten above 2 trees")
        for red in ("red", "(red:1.5)", "(red:0.5)", "(red:1.0)")
    )
    assert plain.warnings == weighted.warnings == ()
    assert np.array_equal(np.asarray(plain.image), np.asarray(even.image))
    assert not np.array_equal(np.asarray(plain.image), np.asarray(weighted.image))
    assert not np.array_equal(np.asarray(weak.image), np.asarray(weighted.image))
    (warning,) = run(model, prompt="a cat BREAK a (dog:1.2)").warnings
    assert warning.startswith("Not in Storybook's world: dog; it knows:")


def test_prompts_without_emphasis_are_read_as_stock_pipelines_do(model):
    for prompt in ("a (red) ball", "2.5 balls :3)", "a ball (16:9)"):
        text, _ = painting.understood(prompt, has_emphasis=True)
        states, pooled, _ = painting.read_text(model, text)
        with torch.no_grad():
            stock = model.pipeline.encode_prompt(text)
        assert torch.equal(states, stock[0]) and torch.equal(pooled, stock[1])


def test_the_worlds_words_keep_emphasis_where_it_is_read():
    prompt = "A (Crimson:1.3) Kitten BREAK 2.5 m from 2 (huge) trees"
    kept, _ = painting.understood(prompt, has_emphasis=True)
    assert kept == "a (red:1.3) cat BREAK 2.5 m from two (large) tree"
    assert painting.understood(prompt)[0] == "a red cat   2.5 m from two large tree"
    assert painting.unfamiliar_words(prompt) == ["2.5", "m"]


def test_editing_one_sentence_of_a_page_encodes_one_block(own_folder):
    """And what is remembered doesn't change a bit of what is painted."""
    sentences = [f"a {colour} ball above a small {kind}." for colour in COLOURS for kind in KINDS[:12]]
    page = " ".join(sentences)
    edited = page.replace("a yellow ball", "a yellow cat", 1)
    model = load_model(own_folder)
    run(model, prompt=page)
    t5, clip = model.page_encoder.conditioning.t5, model.page_encoder.conditioning.clip
    before = t5.encoded, clip.encoded
    assert before[0] >= 3 and before[1] == len(sentences)
    warm = run(model, prompt=edited)
    assert (t5.encoded, clip.encoded) == (before[0] + 1, before[1] + 1)
    cold = run(load_model(own_folder), prompt=edited)
    assert np.array_equal(np.asarray(warm.image), np.asarray(cold.image))


def test_a_prompt_is_cut_where_plain_pipelines_cut_it(model):
    page = "a red cat on a beach. " * 120
    whole, cut = (run(model, prompt=page, cut_prompt=choice) for choice in (False, True))
    assert whole.warnings == ()
    length = len(model.pipeline.tokenizer_2(page, verbose=False).input_ids) - 1
    sentence = f"Only the first 511 of the prompt's {length} tokens were read, as it was asked for."
    assert cut.warnings == (sentence,)
    # 73 sentences of 7 tokens fill the window
    assert np.array_equal(np.asarray(cut.image), np.asarray(run(model, prompt=page[: 73 * 22]).image))
    assert not np.array_equal(np.asarray(cut.image), np.asarray(whole.image))
    plain, short = (
        run(model, prompt=text, cut_prompt=True) for text in (PROMPT, "a (red:2) ball in a meadow")
    )
    assert plain.warnings == short.warnings == ()
    for painted in (plain, short):
        assert np.array_equal(np.asarray(painted.image), np.asarray(run(model).image))


def test_other_models_are_not_measured_by_storybooks_words(own_folder, tmp_path):
    other = load_model(own_folder.rename(tmp_path / "mine"))
    painted = run(other, prompt="an astronaut riding a horse")
    assert not other.is_storybook and painted.warnings == ()


@pytest.mark.parametrize(("option", "value"), [("width", 100), ("height", 0), ("steps", 0), ("steps", -3)])
def test_bad_values_are_refused(model, option, value):
    with pytest.raises(ValueError, match=str(value)):
        run(model, **{option: value})


def test_sizes_are_checked_in_words():
    assert painting.check_size(256, 128) is None
    assert painting.check_size(100, 128) == "width is 100 px; it must be a multiple of 16 and at least 64"


def test_a_damaged_model_is_refused(own_folder):
    weights = next((own_folder / "vae").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises((ValueError, OSError)):
        load_model(own_folder)


def test_loading_is_silent(saved_folder, capfd, caplog):
    load_model(saved_folder)
    printed = capfd.readouterr()
    assert printed.out == "" and printed.err == ""


def test_previews_take_a_tenth_of_the_time_at_most(model, monkeypatch):
    monkeypatch.setattr(painting, "PREVIEW_EVERY_S", 0.0)
    news = []
    painted = run(model, width=512, height=512, on_progress=news.append)
    previews = sum(item.preview is not None for item in news)
    steps = sum(item.phase == "paint" for item in news)
    assert 1 <= previews < steps
    longest = painted.seconds["preview"] / previews  # the last one may come at the very end
    assert painted.seconds["preview"] < 0.15 * sum(painted.seconds.values()) + 2 * longest


def test_an_adapter_for_large_stages_in_the_folder_is_used(own_folder):
    """It says nothing in the first stage, and something in the next."""
    plain = load_model(own_folder)
    small, large = (np.asarray(run(plain, **size).image) for size in ({"width": 64}, {}))
    tensors = {}
    for name, layer in plain.pipeline.transformer.named_modules():
        if re.fullmatch(r"single_transformer_blocks\.\d+\.attn\.to_[qkv]", name):
            tensors[f"transformer.{name}.lora_A.weight"] = torch.full((2, layer.in_features), 0.3)
            tensors[f"transformer.{name}.lora_B.weight"] = torch.full((layer.out_features, 2), 0.3)
    (own_folder / "scale-dit-lora").mkdir()
    file = own_folder / "scale-dit-lora" / "pytorch_lora_weights.safetensors"
    save_file(tensors, file, metadata={"scale_dit_scope": "all"})
    model = load_model(own_folder)
    assert model.pipeline.lora_routing.scope == "all"
    assert np.array_equal(np.asarray(run(model, width=64).image), small)
    assert not np.array_equal(np.asarray(run(model).image), large)
