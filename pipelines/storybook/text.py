"""Tokenizers and text encoders of the Storybook world (stock transformers classes, vocabulary of our own)."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from pipelines.storybook import vocabulary as words

PUNCTUATION = tuple(".,;:!?'\"-()")
LETTERS = tuple("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
SENTENCE_STARTS = ("A", "An", "The", "There", "This", "It", "We", "In", "On", "Under", "Two", "Three")
T5_MAX_LENGTH = 512
CLIP_MAX_LENGTH = 77


def known_words() -> list[str]:
    """Every word that gets a token of its own, sorted."""
    return sorted(words.KNOWN_WORDS | set(words.SYNONYMS))


def build_t5_tokenizer() -> T5Tokenizer:
    """Unigram tokenizer: one piece per known word, letters for the rest.

    `model_max_length` is set because transformers leaves it infinite otherwise.
    """
    pieces: list[tuple[str, float]] = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -6.0)]
    pieces += [("▁" + word, -2.0) for word in (*known_words(), *SENTENCE_STARTS)]
    taken = {piece for piece, _ in pieces}
    pieces += [(mark, -3.0) for mark in PUNCTUATION]
    pieces += [(letter, -8.0) for letter in LETTERS]
    pieces += [("▁" + letter, -8.0) for letter in LETTERS if "▁" + letter not in taken]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=T5_MAX_LENGTH)


def build_clip_tokenizer() -> CLIPTokenizer:
    """Byte-level BPE with merges for each known word: one token for most, a few for others; 77 positions."""
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = sorted(ByteLevel.alphabet())
    vocab = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    for symbol in (*alphabet, *(symbol + "</w>" for symbol in alphabet)):
        vocab.setdefault(symbol, len(vocab))
    merges: list[tuple[str, str]] = []
    for word in known_words():
        symbols = [*word[:-1], word[-1] + "</w>"]
        while len(symbols) > 1:
            pair = (symbols[0], symbols[1])
            joined = "".join(pair)
            if joined not in vocab:
                vocab[joined] = len(vocab)
                merges.append(pair)
            symbols[:2] = [joined]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CLIP_MAX_LENGTH)


def build_t5(tokenizer: T5Tokenizer) -> T5EncoderModel:
    """About 1.1 M parameters, width 160."""
    config = T5Config(
        vocab_size=len(tokenizer), d_model=160, d_kv=40, d_ff=320, num_layers=3, num_heads=4,
        relative_attention_num_buckets=32, relative_attention_max_distance=64, dropout_rate=0.0,
        feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
        is_encoder_decoder=False, use_cache=False,
    )  # fmt: skip
    model = T5EncoderModel(config)
    _prefer_neighbours(model)
    return model


@torch.no_grad()
def _prefer_neighbours(model: T5EncoderModel) -> None:
    """Start the relative biases with heads that look back, ahead, around and everywhere.

    A bias has to grow to about 5 before a noun reads the adjective beside it rather than any adjective; at a
    step of 1e-3 that would take thousands of steps (measured: colours bound to their noun in 77 %, no better
    with time).
    """
    table = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight  # [buckets, heads]
    half = table.shape[0] // 2  # first half: keys at or before the query
    distance = torch.arange(half, dtype=torch.float32)
    for head, (before, after) in enumerate(((0.7, 3.0), (3.0, 0.7), (0.3, 0.3), (0.0, 0.0))):
        table[:half, head] = -before * distance
        table[half:, head] = -after * distance


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """About 3 M parameters; text width 128, vision width 192 on 128 px pictures in patches of 16."""
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = CLIPConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 128, "intermediate_size": 384,
            "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": CLIP_MAX_LENGTH,
            "projection_dim": 128, "hidden_act": "gelu", **special,
        },
        vision_config={
            "hidden_size": 192, "intermediate_size": 576, "num_hidden_layers": 5, "num_attention_heads": 4,
            "image_size": 128, "patch_size": 16, "projection_dim": 128, "hidden_act": "gelu",
        },
        projection_dim=128,
        bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return CLIPModel(config)


def save_text_parts(
    folder: Path, model: torch.nn.Module, tokenizer: Any, model_name: str, tokenizer_name: str
) -> None:
    """Save an encoder and its tokenizer into two parts of a model folder."""
    save_text_model(folder / model_name, model)
    tokenizer.save_pretrained(folder / tokenizer_name)


def save_text_model(folder: Path, model: torch.nn.Module) -> None:
    """Save in half precision, but with `"dtype": "float32"` in the config.

    transformers loads in the stored dtype otherwise, and an fp16 text encoder can't feed an fp32 transformer.
    """
    model.half().save_pretrained(folder, safe_serialization=True)
    config_path = folder / "config.json"
    config = json.loads(config_path.read_text())
    config.pop("torch_dtype", None)
    config["dtype"] = "float32"
    for part in ("text_config", "vision_config"):
        if part in config:
            config[part]["dtype"] = "float32"
    config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
