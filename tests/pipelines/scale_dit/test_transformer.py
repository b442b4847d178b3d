"""Scale-DiT over a stock transformer: against the stock forward, the layouts and the definitions."""

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from hypothesis import given
from hypothesis import strategies as st

from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.scale_dit.transformer_scale_dit import (
    anchors,
    denoise,
    dense_attention,
    encode_guide,
    local_attention,
    pack,
    unpack,
)

GRID, TEXT = (5, 6), 7


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "guidance_embedding"])
def transformer(request):
    torch.manual_seed(0)
    return FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=20, pooled_projection_dim=12, axes_dims_rope=(4, 6, 6),
        guidance_embeds=request.param,
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(1)
    make = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return make(2, GRID[0] * GRID[1], 16), make(2, TEXT, 20), make(2, 12), torch.tensor([0.9, 0.3])


def guidance_of(transformer):
    return torch.tensor([3.5, 2.0]) if transformer.config.guidance_embeds else None


@torch.no_grad()
def run(transformer, inputs, grid=GRID, ids=None, attend=None, guide=None):
    image, text, pooled, time = inputs
    return denoise(
        transformer, image, text, pooled, time, image_ids=anchors(grid) if ids is None else ids,
        attend=attend or dense_attention(TEXT), guide=guide, guidance=guidance_of(transformer),
    )  # fmt: skip


@torch.no_grad()
def test_without_a_guide_it_is_the_stock_forward(transformer, inputs):
    image, text, pooled, time = inputs
    stock = transformer(
        hidden_states=image, encoder_hidden_states=text, pooled_projections=pooled, timestep=time,
        img_ids=anchors(GRID), txt_ids=torch.zeros(TEXT, 3), guidance=guidance_of(transformer),
    ).sample  # fmt: skip
    ours = run(transformer, inputs)
    assert stock.std() > 0.01
    torch.testing.assert_close(ours, stock, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def guide_for(transformer, inputs, low_grid, full, attend=None):
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randn(2, low_grid[0] * low_grid[1], 16, generator=generator)
    ids = anchors(low_grid, full)
    return encode_guide(
        transformer, tokens, inputs[2], ids, attend or dense_attention(0), guidance_of(transformer)
    )


def test_the_guide_reaches_the_image_in_every_block(transformer, inputs):
    guide = guide_for(transformer, inputs, (2, 3), GRID)
    assert len(guide) == 4 and all(part.shape == (2, 6, 2, 16) for pair in guide for part in pair)
    out = run(transformer, inputs, guide=guide)
    assert (out - run(transformer, inputs)).abs().max() > 1e-3
    for block in range(4):
        changed = [pair if i != block else (pair[0], pair[1] + 1) for i, pair in enumerate(guide)]
        assert (run(transformer, inputs, guide=changed) - out).abs().max() > 1e-4


def test_dense_attention_is_local_attention_with_everything_in_reach(transformer, inputs):
    guide = guide_for(transformer, inputs, (2, 3), GRID)
    layout = AttentionLayout(TEXT, GRID, (2, 3), radius=8, image_to_guide="all")
    order, inverse = layout.image_order.order, layout.image_order.inverse
    low = layout.guide_order.order
    ordered = [(key[:, low], value[:, low]) for key, value in guide]
    image, *rest = inputs
    local = run(
        transformer, (image[:, order], *rest), ids=anchors(GRID)[order],
        attend=local_attention(layout), guide=ordered,
    )[:, inverse]  # fmt: skip
    torch.testing.assert_close(local, run(transformer, inputs, guide=guide), rtol=1e-5, atol=1e-5)


def test_local_attention_with_a_small_reach_differs(transformer, inputs):
    layout = AttentionLayout(TEXT, GRID, radius=1)
    image, *rest = inputs
    order, inverse = layout.image_order.order, layout.image_order.inverse
    local = run(
        transformer, (image[:, order], *rest), ids=anchors(GRID)[order], attend=local_attention(layout)
    )[:, inverse]
    assert (local - run(transformer, inputs)).abs().max() > 1e-3


@torch.no_grad()
def test_the_guide_depends_on_its_tokens_and_places_alone(transformer, inputs):
    """It has no timestep and no text states to depend on; in the full sequence it must be the same, too."""
    guide = guide_for(transformer, inputs, (2, 3), GRID)
    moved = guide_for(transformer, inputs, (2, 3), (8, 12))
    assert (guide[0][0] - moved[0][0]).abs().max() > 1e-3  # keys carry the positions
    torch.testing.assert_close(guide[0][1], moved[0][1])  # values of the first block do not
    other = (inputs[0] + 1, inputs[1] - 1, inputs[2], inputs[3] / 2)
    assert all(
        torch.equal(a, b)
        for ours, theirs in zip(guide, guide_for(transformer, other, (2, 3), GRID), strict=True)
        for a, b in zip(ours, theirs, strict=True)
    )


def test_each_sample_may_have_its_own_positions(transformer, inputs):
    places = torch.stack([anchors(GRID), anchors(GRID) + torch.tensor([0.0, 7.0, 3.0])])
    together = run(transformer, inputs, ids=places)
    for row in range(2):
        alone = run(transformer, inputs, ids=places[row])[row]
        torch.testing.assert_close(together[row], alone, rtol=1e-5, atol=1e-5)
    assert (together[1] - run(transformer, inputs)[1]).abs().max() > 1e-4


def test_offloading_hooks_are_called_though_forward_is_not(transformer, inputs):
    class Hook:
        calls = 0

        def pre_forward(self, module):
            assert module is transformer
            self.calls += 1

    hook = transformer._hf_hook = Hook()
    try:
        guide_for(transformer, inputs, (2, 3), GRID)
        run(transformer, inputs)
    finally:
        del transformer._hf_hook
    assert hook.calls == 2


def test_packing_is_that_of_the_stock_pipeline():
    latents = torch.randn(2, 4, 6, 10, generator=torch.Generator().manual_seed(3))
    assert torch.equal(pack(latents), FluxPipeline._pack_latents(latents, 2, 4, 6, 10))


@given(rows=st.integers(1, 9), columns=st.integers(1, 9), channels=st.integers(1, 4))
def test_unpacking_undoes_packing(rows, columns, channels):
    latents = torch.arange(channels * rows * columns * 4.0).view(1, channels, rows * 2, columns * 2)
    tokens = pack(latents)
    assert tokens.shape == (1, rows * columns, channels * 4)
    assert torch.equal(unpack(tokens, (rows, columns)), latents)


def test_anchors_of_a_grid_are_its_indices():
    ids = anchors((2, 3))
    assert ids.tolist() == [[0, r, c] for r in range(2) for c in range(3)]


def test_scaled_anchors_sit_at_the_centre_of_what_a_token_shows():
    ids = anchors((2, 4), (8, 10)).view(2, 4, 3)
    assert ids[..., 0].eq(0).all()
    assert ids[:, 0, 1].tolist() == [1.5, 5.5]  # four rows each: 0-3 and 4-7
    assert ids[0, :, 2].tolist() == [0.75, 3.25, 5.75, 8.25]


@given(low=st.integers(1, 40), high=st.integers(1, 160))
def test_scaled_anchors_follow_the_formula(low, high):
    ids = anchors((low, 1), (high, 1))[:, 1]
    expected = torch.tensor([(i + 0.5) * high / low - 0.5 for i in range(low)])
    torch.testing.assert_close(ids, expected, rtol=0, atol=1e-4)
    assert ids.mean().sub((high - 1) / 2).abs() < 1e-3  # spread evenly over the grid
