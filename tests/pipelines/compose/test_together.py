"""Everything at once: TENOR, a page in segments, local attention and two adapters in one forward pass."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import FluxPipeline

from pipelines.compass.sidecar import Sidecar
from pipelines.compass.support import BASE, note_weights
from pipelines.compass.tenor import find_tenor, install_tenor
from pipelines.compass.tenor_table import tenor_table
from pipelines.compose.spatial import plan_positions, tenor_positions
from pipelines.kernels.hilbert.order import token_order
from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.longalign.conditioning import LongPromptEncoder
from pipelines.longalign.plan import PromptPlan, Segment
from pipelines.longalign.tokens import TokenRun
from pipelines.scale_dit.transformer_scale_dit import anchors, denoise, dense_attention, local_attention
from tests.pipelines.compass.plain_flux import reference
from tests.pipelines.compass.test_tenor import add_adapter

GRID, WINDOW = (8, 8), 4
SIDE = 32  # width of the tiny transformer's text
PAGE = " ".join(
    f"There is a {thing}, it stands near the number {number}. It is to the left of a purple tree."
    for number in range(24)
    for thing in ("red cat", "blue house")
)


@pytest.fixture
def flux(build_parts):
    parts = build_parts(num_layers=2, num_single_layers=3)
    with torch.no_grad():  # the text must be loud enough to matter
        for name, parameter in parts["transformer"].named_parameters():
            if name.endswith("weight") and parameter.ndim == 2 and "blocks" in name:
                parameter.mul_(2.5)
    return FluxPipeline(**parts)


def plain_states(flux, plan):
    """The page's T5 states `[1, L, J]`: a call for each block; all but the last lose their end."""
    tokenizer, encoder, parts = flux.tokenizer_2, flux.text_encoder_2, []
    for segment in plan.segments:
        ids = torch.tensor([[*segment.runs[0].ids, tokenizer.eos_token_id]])
        states = encoder(input_ids=ids).last_hidden_state[0]
        parts.append(states if segment is plan.segments[-1] else states[:-1])
    blank = torch.full((1, 512), tokenizer.pad_token_id)
    blank[0, 0] = tokenizer.eos_token_id
    padding = encoder(input_ids=blank).last_hidden_state[0, -60:].mean(0)
    rows = torch.cat(parts)
    return torch.cat([rows, padding.expand(plan.rows - len(rows), -1)])[None]


def plain_positions(plan):
    """From 0 in every block; the end mark and the padding go on behind the last one."""
    first = [torch.arange(segment.num_rows) for segment in plan.segments[:-1]]
    begun = sum(map(len, first))
    return torch.cat([*first, torch.arange(plan.rows - begun)])


def window_mask(text):
    """`[S, S]` in raster order: text sees all, an image token its window of 4 x 4 and the text."""
    place = torch.arange(GRID[0] * GRID[1])
    windows = place // GRID[1] // WINDOW * GRID[1] + place % GRID[1] // WINDOW
    mask = torch.ones(text + len(place), text + len(place), dtype=torch.bool)
    mask[text:, text:] = windows[:, None] == windows
    return mask


@torch.no_grad()
def test_one_forward_pass_holds_everything(flux):
    transformer = flux.transformer
    for name in ("compass", "second"):
        add_adapter(transformer, name, ["to_q", "add_k_proj", "add_q_proj", "to_add_out"])
    transformer.set_adapters(["compass", "second"], [0.7, 0.4])
    note_weights(transformer, "compass", Sidecar(True, "flux-double", 512))
    install_tenor(transformer)
    encoded = LongPromptEncoder.from_pipeline(flux)(PAGE, guided=False)
    (plan,) = encoded.plans[0]
    assert len(plan.segments) >= 2 and plan.rows > 512 and plan.dropped_tokens == 0
    text = plain_states(flux, plan)
    torch.testing.assert_close(encoded.prompt_embeds, text, rtol=1e-4, atol=1e-4)

    generator = torch.Generator().manual_seed(7)
    image = torch.randn(1, 64, 16, generator=generator)
    order, time = token_order(*GRID, "window_hilbert", WINDOW), torch.tensor([0.6])
    layout = AttentionLayout(text=plan.rows, grid=GRID, window=WINDOW, local="own")
    pooled = encoded.pooled_prompt_embeds

    def ours(attend, place):
        return denoise(
            transformer, place(image), encoded.prompt_embeds, pooled, time,
            image_ids=place(anchors(GRID)[None])[0], attend=attend,
        )  # fmt: skip

    with tenor_positions(flux, encoded.plans[0]):
        together = order.to_raster(ours(local_attention(layout), order.to_sequence))
        everywhere = ours(dense_attention(plan.rows), lambda tokens: tokens)
    mask, ids = window_mask(plan.rows), anchors(GRID)
    table = tenor_table(plan.rows, SIDE)[plain_positions(plan)]
    plain = reference(transformer, mask, image, text, pooled, time, image_ids=ids, table=table)
    torch.testing.assert_close(together, plain, rtol=1e-4, atol=1e-4)
    dense = reference(
        transformer, torch.ones_like(mask), image, text, pooled, time, image_ids=ids, table=table
    )
    torch.testing.assert_close(everywhere, dense, rtol=1e-4, atol=1e-4)
    # each part matters: windows, positions that start again, and adapters
    assert not torch.allclose(plain, dense, atol=1e-3)
    assert find_tenor(transformer).positions.custom is None
    assert not torch.allclose(ours(dense_attention(plan.rows), lambda tokens: tokens), dense, atol=1e-3)
    transformer.set_adapters(["compass"], [0.7])
    alone = reference(transformer, mask, image, text, pooled, time, image_ids=ids, table=table)
    assert not torch.allclose(alone, plain, atol=1e-3)


def segment(start, rows, characters=None):
    starts = tuple(range(start, start + rows)) if characters is None else characters
    run = TokenRun(tuple(range(rows)), starts, tuple(at + 1 for at in starts), (1.0,) * rows)
    return Segment("words", start, start + rows, (run,), 0, rows)


def test_positions_by_hand():
    clip = PromptPlan("clip", "words", (segment(0, 3), segment(10, 4)), rows=12, used=7)
    assert plan_positions([clip], 77).tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    # padding never takes the place of a word, and never one that the weights haven't seen
    assert plan_positions([clip], 6).tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 4, 5, 4]
    t5 = PromptPlan("t5", "words", (segment(0, 5, (0, 4, 9, 10, 12)),), rows=8, used=6)
    assert plan_positions([clip, t5], 77).tolist()[12:] == [0, 1, 2, 0, 1, 2, 3, 4]
    empty = PromptPlan("clip", "", (), rows=3, used=0)
    assert plan_positions([empty], 2).tolist() == [0, 1, 0]
    for plans, length in (([], 77), ([clip], 0)):
        with pytest.raises(ValueError, match="at least 1 of each is needed"):
            plan_positions(plans, length)


def test_positions_are_set_for_pages_and_taken_back(flux):
    short = LongPromptEncoder.from_pipeline(flux)("a red cat", guided=False).plans[0]
    page = LongPromptEncoder.from_pipeline(flux)(PAGE, guided=False).plans[0]
    with tenor_positions(flux, page):  # nothing is installed
        pass
    handle = install_tenor(flux.transformer)
    note_weights(flux.transformer, BASE, Sidecar(True, "flux-double", 512))
    with tenor_positions(flux, short):
        assert handle.positions.custom is None
    with pytest.raises(RuntimeError, match="stop"), tenor_positions(flux, page):
        assert handle.positions.custom.max() < 512
        raise RuntimeError("stop")
    assert handle.positions.custom is None
    # trained on shorter texts: their positions are all there is
    note_weights(flux.transformer, BASE, Sidecar(True, "flux-double", 24))
    with tenor_positions(flux, short):
        assert handle.positions.custom.max() == 23 and len(handle.positions.custom) == short[0].rows
    with tenor_positions(SimpleNamespace(transformer=flux.transformer), ()):
        assert handle.positions.custom is None
