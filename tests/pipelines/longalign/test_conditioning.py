"""Prompts of a page through stock pipelines."""

import torch

from pipelines.longalign.conditioning import LongPromptEncoder


def paint(pipe, encoded, **options):
    images = pipe(
        **encoded.arguments(), num_inference_steps=2, generator=torch.Generator().manual_seed(0),
        output_type="pt", **options,
    ).images  # fmt: skip
    assert torch.isfinite(images).all()
    return images


def test_stable_diffusion_reads_a_page(sd, page):
    encoded = LongPromptEncoder.from_pipeline(sd)([page, "a cat"], "ugly, blurred. " * 60)
    (plan,), (short,) = encoded.plans
    assert plan.dropped_tokens == 0 and plan.used > 900 and plan.rows % 80 == 0 and short.used == 5
    assert encoded.prompt_embeds.shape == encoded.negative_prompt_embeds.shape == (2, plan.rows, 16)
    assert paint(sd, encoded, height=64, width=64).shape == (2, 3, 64, 64)


def test_sdxl_reads_a_page(sdxl, page):
    encoded = LongPromptEncoder.from_pipeline(sdxl)(page)
    (plan,) = encoded.plans[0]
    assert plan.dropped_tokens == 0 and encoded.prompt_embeds.shape == (1, plan.rows, 40)
    assert encoded.negative_prompt_embeds.eq(0).all() and encoded.pooled_prompt_embeds.shape == (1, 12)
    assert paint(sdxl, encoded, height=64, width=64).shape == (1, 3, 64, 64)


def test_flux_reads_beyond_its_window(flux, page):
    encoded = LongPromptEncoder.from_pipeline(flux)([page, "a red cat"])
    (plan,) = encoded.plans[0]
    assert plan.dropped_tokens == 0 and len(plan.segments) >= 2 and plan.rows > 1000
    assert encoded.prompt_embeds.shape == (2, plan.rows, 16)
    assert paint(flux, encoded, height=64, width=64).shape == (2, 3, 64, 64)


def test_flux_is_the_stock_encoding_where_that_suffices(flux):
    text = "a red cat to the left of a blue house in a meadow"
    stock, pooled, _ = flux.encode_prompt(text, None, max_sequence_length=512)
    encoded = LongPromptEncoder.from_pipeline(flux)(text)
    torch.testing.assert_close(encoded.prompt_embeds, stock, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(encoded.pooled_prompt_embeds, pooled, rtol=1e-4, atol=1e-4)


def test_flux_takes_no_more_rows_than_a_text_needs_where_it_is_told_so(flux):
    stock, stepped = (LongPromptEncoder.from_pipeline(flux, t5_row_step=step) for step in (None, 8))
    texts = ["a (red:1.5) cat", "a red cat to the left of a blue house in a meadow"]
    assert stock(texts).prompt_embeds.shape[1] == 512
    found = stepped(texts)
    assert found.prompt_embeds.shape[1] == 16
    assert stepped(texts[:1]).prompt_embeds.shape[1] == 8
    assert stepped(["a cat. " * 170]).prompt_embeds.shape[1] == 512
    # what is weighted moves away from the empty text of the same length
    plain = stepped(["a red cat", texts[1]])
    blank = stepped(["", texts[1]])
    moved = blank.prompt_embeds[0, 1] + 1.5 * (plain.prompt_embeds[0, 1] - blank.prompt_embeds[0, 1])
    torch.testing.assert_close(found.prompt_embeds[0, 1], moved, rtol=1e-3, atol=1e-4)
    assert torch.equal(found.prompt_embeds[0, 0], plain.prompt_embeds[0, 0])
