"""Stretched text towers in stock pipelines, and the conversion commands."""

import pytest
import torch
from diffusers import StableDiffusionPipeline

from pipelines.longalign.conditioning import LongPromptEncoder
from pipelines.longalign.convert_long_clip import main as convert_main
from pipelines.longalign.long_clip import (
    component_matching_loss,
    is_plain_stretch,
    principal_components,
    stretch_positions,
    stretch_text_encoder,
    stretch_tokenizer,
)
from pipelines.storybook.text import build_clip_tokenizer
from tests.pipelines.longalign.conftest import build_clip_text, quiet, sd_parts


def by_rows(table, keep, ratio):
    """The rule of the paper's code, row by row."""
    out = [table[i] for i in range(keep)]
    for i in range(keep, len(table) - 1):
        out += [(1 - a / ratio) * table[i] + a / ratio * table[i + 1] for a in range(ratio)]
    step = table[-1] - table[-2]
    return torch.stack([*out, *(table[-1] + a / ratio * step for a in range(ratio))])


@pytest.mark.parametrize(("rows", "keep", "ratio"), [(77, 20, 4), (32, 20, 4), (24, 3, 2), (30, 20, 8)])
def test_stretching_row_by_row(rows, keep, ratio):
    table = torch.randn(rows, 6)
    stretched = stretch_positions(table, keep, ratio)
    assert len(stretched) == keep + ratio * (rows - keep)
    torch.testing.assert_close(stretched, by_rows(table, keep, ratio), rtol=1e-6, atol=1e-6)


def test_a_stretch_without_training_is_recognised():
    table = 0.02 * torch.randn(77, 16)
    stretched = stretch_positions(table)
    assert is_plain_stretch(stretched) and is_plain_stretch(stretched.half())
    trained = stretched.clone()
    trained[130] += 0.001
    assert not is_plain_stretch(trained)
    assert not is_plain_stretch(table) and not is_plain_stretch(0.02 * torch.randn(248, 16))


def test_too_few_positions_are_refused():
    with pytest.raises(ValueError, match="at least 22"):
        stretch_positions(torch.randn(21, 4))


def test_a_stretched_tower_agrees_on_short_texts_and_reads_long_ones():
    torch.manual_seed(0)
    tower, tokenizer = build_clip_text(), build_clip_tokenizer()
    stretched, longer = stretch_text_encoder(tower), stretch_tokenizer(tokenizer, 248)
    assert tower.config.max_position_embeddings == 77 and stretched.config.max_position_embeddings == 248
    short = torch.tensor([tokenizer("a red cat in a meadow").input_ids])
    long = longer("a red cat in a meadow " * 40, truncation=True, return_tensors="pt").input_ids
    assert long.shape == (1, 248) and int(long[0, -1]) == 1
    with torch.no_grad():
        torch.testing.assert_close(stretched(short).pooler_output, tower(short).pooler_output)
        assert stretched(long).last_hidden_state.shape == (1, 248, 16)


def test_the_padding_can_be_chosen():
    tokenizer = build_clip_tokenizer()
    other = stretch_tokenizer(tokenizer, 248, pad_id=5)
    assert (tokenizer.pad_token_id, other.pad_token_id) == (1, 5)
    assert other("a", padding="max_length").input_ids[-1] == 5


def test_stock_stable_diffusion_takes_it(page):
    parts = sd_parts()
    parts["text_encoder"] = stretch_text_encoder(parts["text_encoder"])
    parts["tokenizer"] = stretch_tokenizer(parts["tokenizer"], 248)
    pipe = quiet(StableDiffusionPipeline(**parts, requires_safety_checker=False))
    embeds, negative = pipe.encode_prompt(page, "cpu", 1, True)
    assert embeds.shape == negative.shape == (1, 248, 16)
    images = pipe(page, num_inference_steps=1, output_type="pt").images
    assert images.shape == (1, 3, 64, 64)
    segments = LongPromptEncoder.from_pipeline(pipe)("a red cat, " * 200)
    assert len(segments.plans[0][0].segments) == 5  # of up to 246 tokens, and nothing is lost
    assert segments.plans[0][0].dropped_tokens == 0


def test_stock_sdxl_reads_the_last_but_one_layer_of_both(sdxl, page):
    kept = {
        name: getattr(sdxl, name) for name in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    }
    try:
        for end in ("", "_2"):
            setattr(sdxl, f"text_encoder{end}", stretch_text_encoder(kept[f"text_encoder{end}"]))
            setattr(sdxl, f"tokenizer{end}", stretch_tokenizer(kept[f"tokenizer{end}"], 248))
        embeds, _, pooled, _ = sdxl.encode_prompt(page, num_images_per_prompt=1, device="cpu")
        ids = sdxl.tokenizer_2(page, truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            output = sdxl.text_encoder_2(ids, output_hidden_states=True)
        torch.testing.assert_close(embeds[..., 16:], output.hidden_states[-2], rtol=1e-4, atol=1e-5)
        assert embeds.shape == (1, 248, 40) and pooled.shape == (1, 12)
    finally:
        for name, part in kept.items():
            setattr(sdxl, name, part)


def checkpoint(width=64, layers=1, vocabulary=None):
    """A checkpoint in the authors' names."""
    vocabulary = vocabulary or len(build_clip_tokenizer())
    state = {
        "token_embedding.weight": torch.randn(vocabulary, width),
        "positional_embedding": torch.randn(248, width),
        "positional_embedding_res": torch.randn(248, width),
        "text_projection": torch.randn(width, 32),
        "ln_final.weight": torch.ones(width),
        "ln_final.bias": torch.zeros(width),
        "logit_scale": torch.tensor(4.6),
        "visual.proj": torch.randn(4, 4),
    }
    for layer in range(layers):
        shapes = {
            "attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,),
            "attn.out_proj.weight": (width, width), "attn.out_proj.bias": (width,),
            "ln_1.weight": (width,), "ln_1.bias": (width,), "ln_2.weight": (width,), "ln_2.bias": (width,),
            "mlp.c_fc.weight": (4 * width, width), "mlp.c_fc.bias": (4 * width,),
            "mlp.c_proj.weight": (width, 4 * width), "mlp.c_proj.bias": (width,),
        }  # fmt: skip
        state.update({f"transformer.resblocks.{layer}.{k}": torch.randn(s) * 0.1 for k, s in shapes.items()})
    return state


def test_a_checkpoint_becomes_a_folder(tmp_path):
    from transformers import AutoTokenizer, CLIPTextModel

    state = checkpoint()
    torch.save(state, tmp_path / "longclip.pt")
    build_clip_tokenizer().save_pretrained(tmp_path / "tokenizer")
    out = tmp_path / "out"
    convert_main(
        ["--checkpoint", str(tmp_path / "longclip.pt"), "--tokenizer", str(tmp_path / "tokenizer"),
         "--out", str(out)]
    )  # fmt: skip
    model, tokenizer = (
        CLIPTextModel.from_pretrained(out / "text_encoder"),
        AutoTokenizer.from_pretrained(out / "tokenizer"),
    )
    assert tokenizer.model_max_length == model.config.max_position_embeddings == 248
    table = model.embeddings.position_embedding.weight
    assert torch.equal(table[:20], state["positional_embedding"][:20])
    assert torch.equal(table[20:], state["positional_embedding_res"][20:])
    with pytest.raises(ValueError, match="exists already"):
        convert_main(
            ["--checkpoint", str(tmp_path / "longclip.pt"), "--tokenizer", str(out), "--out", str(out)]
        )


def test_a_folder_is_stretched(tmp_path):
    torch.manual_seed(0)
    build_clip_text().save_pretrained(tmp_path / "model" / "text_encoder")
    build_clip_tokenizer().save_pretrained(tmp_path / "model" / "tokenizer")
    convert_main(["--folder", str(tmp_path / "model"), "--pad-id", "7", "--out", str(tmp_path / "out")])
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "tokenizer")
    assert (tokenizer.model_max_length, tokenizer.pad_token_id) == (248, 7)


def test_something_else_than_a_checkpoint_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.pt")
    build_clip_tokenizer().save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="positional_embedding_res"):
        convert_main(
            ["--checkpoint", str(tmp_path / "x.pt"), "--tokenizer", str(tmp_path / "tokenizer"), "--out", "o"]
        )


def test_matching_rewards_the_right_pairs():
    torch.manual_seed(0)
    pictures = torch.randn(8, 16)
    right = component_matching_loss(
        pictures, pictures, principal_components(pictures, 4), torch.tensor(20.0), 4
    )
    wrong = component_matching_loss(pictures, pictures.flip(0), pictures.flip(0), torch.tensor(20.0), 4)
    assert float(right) < float(wrong)
    assert torch.linalg.matrix_rank(principal_components(pictures, 4) - pictures.mean(0)) == 4
