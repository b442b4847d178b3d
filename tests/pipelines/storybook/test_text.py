"""Tokenizers and text encoders of the world's own vocabulary."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from pipelines.storybook.text import (
    build_clip,
    build_clip_tokenizer,
    build_t5,
    build_t5_tokenizer,
    known_words,
    save_text_parts,
)


@pytest.fixture(scope="module")
def t5():
    return build_t5_tokenizer()


@pytest.fixture(scope="module")
def clip():
    return build_clip_tokenizer()


def test_every_known_word_is_one_token_for_t5(t5):
    words = known_words()
    assert len(words) > 250 and words == sorted(set(words))
    ids = t5(" ".join(words), truncation=False).input_ids
    assert len(ids) == len(set(ids)) == len(words) + 1  # and the end


def test_every_known_word_is_a_few_tokens_of_its_own_for_clip(clip):
    spelled = {word: tuple(clip(word).input_ids[1:-1]) for word in known_words()}
    assert len(set(spelled.values())) == len(spelled)
    assert sum(len(ids) == 1 for ids in spelled.values()) > 150 and max(map(len, spelled.values())) <= 8
    assert all(clip.decode(ids).strip() == word for word, ids in spelled.items())


def test_capitals_and_marks_are_read(t5, clip):
    sentence = 'There is a red ball. It\'s striped, "small" - or (two): what; why! Eh?'
    for tokenizer in (t5, clip):
        ids = tokenizer(sentence).input_ids
        assert tokenizer.unk_token_id not in ids[1:-1] or tokenizer.unk_token_id == tokenizer.eos_token_id
    assert len(t5("The cat").input_ids) == 3  # sentence starts are one token each
    assert clip("THE CAT").input_ids == clip("the cat").input_ids


def test_unknown_words_are_spelled(t5, clip):
    for tokenizer in (t5, clip):
        ids = tokenizer("astronaut").input_ids
        assert len(ids) > 5
        assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "astronaut"


def test_special_ids_and_lengths(t5, clip):
    assert (t5.pad_token_id, t5.eos_token_id, t5.model_max_length) == (0, 1, 512)
    assert t5("a cat").input_ids[-1] == 1
    assert (clip.bos_token_id, clip.eos_token_id, clip.pad_token_id) == (0, 1, 1)
    assert clip.model_max_length == 77 and clip("a red").input_ids[::3] == [0, 1]
    many = " ".join(["cat"] * 600)
    for tokenizer, limit in ((t5, 512), (clip, 77)):
        ids = tokenizer(many, truncation=True).input_ids
        assert len(ids) == limit and ids[-1] == tokenizer.eos_token_id


def test_saved_parts_load_as_stock_classes_in_fp32_with_the_same_tokens(t5, clip, tmp_path):
    torch.manual_seed(0)
    model, towers = build_t5(t5), build_clip(clip)
    text = CLIPTextModel(towers.config.text_config)
    save_text_parts(tmp_path, model, t5, "text_encoder_2", "tokenizer_2")
    save_text_parts(tmp_path, text, clip, "text_encoder", "tokenizer")
    save_text_parts(tmp_path / "clip", towers, clip, ".", ".")
    stored = load_file(tmp_path / "text_encoder_2/model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    again = T5EncoderModel.from_pretrained(tmp_path / "text_encoder_2")
    assert again.dtype == torch.float32
    assert CLIPTextModel.from_pretrained(tmp_path / "text_encoder").dtype == torch.float32
    config = json.loads((tmp_path / "clip/config.json").read_text())
    assert [c["dtype"] for c in (config, config["text_config"], config["vision_config"])] == ["float32"] * 3
    sentence = "A large striped cat, under an umbrella."
    assert T5Tokenizer.from_pretrained(tmp_path / "tokenizer_2")(sentence).input_ids == t5(sentence).input_ids
    read = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert read(sentence).input_ids == clip(sentence).input_ids and read.model_max_length == 77
    ids = t5(sentence, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = model.float()(input_ids=ids).last_hidden_state
        torch.testing.assert_close(again(input_ids=ids).last_hidden_state, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_two_prompts_have_two_pooled_vectors_whatever_the_padding(clip):
    """With the stock end token the pooled vector would be taken at the first word of every prompt."""
    torch.manual_seed(0)
    text = CLIPTextModel(build_clip(clip).config.text_config).eval()
    prompts = ["a red ball in a meadow", "a red ball in a desert"]
    padded = clip(prompts, padding="max_length", return_tensors="pt").input_ids
    first, second = text(input_ids=padded).pooler_output
    assert (first - second).abs().max() > 1e-2
    short = text(input_ids=clip(prompts, padding=True, return_tensors="pt").input_ids).pooler_output
    torch.testing.assert_close(short, torch.stack([first, second]), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_t5_starts_with_heads_that_look_at_neighbours(t5):
    torch.manual_seed(0)
    table = build_t5(t5).encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    assert table.shape == (32, 4) and table[0].eq(0).all() and table[:, 3].eq(0).all()
    assert table[1, 0] > table[17, 0] and table[17, 1] > table[1, 1]  # one looks back, one ahead
