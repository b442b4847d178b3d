"""Local attention on stock models of several families, against the same models under a dense mask."""

import pytest
import torch
import torch.nn.functional as F
from diffusers import Flux2Transformer2DModel, FluxTransformer2DModel, PixArtTransformer2DModel
from diffusers import SD3Transformer2DModel as SD3

from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.scale_dit.attention_processor import (
    ScaleDiTAttnProcessor,
    use_local_attention,
    use_stock_attention,
)
from pipelines.scale_dit.positions import anchors
from tests.pipelines.conftest import TINY_FLUX
from tests.pipelines.scale_dit.conftest import TINY_FLUX2

ROWS, COLUMNS, TEXT, RADIUS = 9, 12, 5, 2
STOCK = F.scaled_dot_product_attention


def tokens(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def flux1():
    model = FluxTransformer2DModel(**TINY_FLUX)
    inputs = {
        "hidden_states": tokens(2, ROWS * COLUMNS, 16), "encoder_hidden_states": tokens(2, TEXT, 16),
        "pooled_projections": tokens(2, 24), "timestep": torch.tensor([0.3, 0.7]),
        "img_ids": anchors((ROWS, COLUMNS)), "txt_ids": torch.zeros(TEXT, 3),
    }  # fmt: skip
    return model, inputs, "first"


def flux2():
    model = Flux2Transformer2DModel(**TINY_FLUX2)
    inputs = {
        "hidden_states": tokens(2, ROWS * COLUMNS, 16), "encoder_hidden_states": tokens(2, TEXT, 24),
        "timestep": torch.tensor([0.3, 0.7]), "img_ids": anchors((ROWS, COLUMNS), axes=4),
        "txt_ids": torch.zeros(TEXT, 4),
    }  # fmt: skip
    return model, inputs, "first"


def stable_diffusion_3():
    """Text last in the sequence; the first block has a second attention of image tokens alone."""
    model = SD3(
        sample_size=24, patch_size=2, in_channels=4, out_channels=4, num_layers=2, num_attention_heads=2,
        attention_head_dim=8, caption_projection_dim=16, joint_attention_dim=12, pooled_projection_dim=10,
        pos_embed_max_size=24, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    inputs = {
        "hidden_states": tokens(2, 4, ROWS * 2, COLUMNS * 2), "encoder_hidden_states": tokens(2, TEXT, 12),
        "pooled_projections": tokens(2, 10), "timestep": torch.tensor([300, 700]),
    }  # fmt: skip
    return model, inputs, "last"


def pixart():
    """No text in the sequence: it comes by cross-attention, which stays as it is."""
    model = PixArtTransformer2DModel(
        sample_size=24, patch_size=2, in_channels=4, num_layers=2, num_attention_heads=2, norm_num_groups=1,
        attention_head_dim=8, cross_attention_dim=16, caption_channels=12, use_additional_conditions=False,
        norm_type="ada_norm_single",
    )  # fmt: skip
    inputs = {
        "hidden_states": tokens(2, 4, ROWS * 2, COLUMNS * 2), "encoder_hidden_states": tokens(2, TEXT, 12),
        "timestep": torch.tensor([300, 700]), "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }  # fmt: skip
    return model, inputs, "first"


FAMILIES = [flux1, flux2, stable_diffusion_3, pixart]


def mask_of(length, text):
    """By coordinates: image tokens see a box and the text, text sees everything."""
    at = torch.arange(ROWS * COLUMNS)
    near = [(axis[:, None] - axis[None]).abs() <= RADIUS for axis in (at // COLUMNS, at % COLUMNS)]
    mask = torch.ones(length, length, dtype=torch.bool)
    image = slice(-len(at), None) if text == "first" else slice(0, len(at))
    mask[image, image] = near[0] & near[1]
    return mask


def masked(text):
    """`scaled_dot_product_attention` under the mask."""

    def attend(query, key, value, *args, **kwargs):
        if query.shape[2] == key.shape[2]:
            kwargs = {"attn_mask": mask_of(query.shape[2], text)}
            args = ()
        return STOCK(query, key, value, *args, **kwargs)

    return attend


@torch.no_grad()
@pytest.mark.parametrize("order", ["raster", "window_hilbert"])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_equals_its_masked_self(family, order, monkeypatch):
    torch.manual_seed(0)
    model, inputs, text = family()
    model.eval()
    for parameter in model.parameters():  # some families close their gates at first
        parameter.add_(0.05 * torch.randn(parameter.shape))
    dense = model(**inputs, return_dict=False)[0]
    use_local_attention(model, AttentionLayout(0, (ROWS, COLUMNS), radius=RADIUS, order=order), text=text)
    ours = model(**inputs, return_dict=False)[0]
    use_stock_attention(model)
    assert torch.equal(model(**inputs, return_dict=False)[0], dense)
    monkeypatch.setattr(F, "scaled_dot_product_attention", masked(text))
    expected = model(**inputs, return_dict=False)[0]
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    assert (ours - dense).abs().max() > 1e-4


@torch.no_grad()
def test_tokens_may_come_in_the_layouts_order_with_a_guide_behind_them():
    """Guide tokens follow the image's, with their own positions: the stock forward of FLUX.1 takes them."""
    torch.manual_seed(0)
    model, inputs, _ = flux1()
    model.eval()
    layout = AttentionLayout(0, (ROWS, COLUMNS), (3, 4), radius=RADIUS)
    guide, places = tokens(2, 12, 16), anchors((3, 4), (ROWS, COLUMNS))
    raster = {
        **inputs,
        "hidden_states": torch.cat([inputs["hidden_states"], guide], 1),
        "img_ids": torch.cat([inputs["img_ids"], places]),
    }
    use_local_attention(model, layout)
    expected = model(**raster, return_dict=False)[0]
    order = torch.cat([layout.image_order.order, layout.guide_order.order + layout.image])
    ordered = {
        **raster, "hidden_states": raster["hidden_states"][:, order], "img_ids": raster["img_ids"][order],
    }  # fmt: skip
    use_local_attention(model, layout, tokens="ordered")
    ours = model(**ordered, return_dict=False)[0]
    torch.testing.assert_close(ours, expected[:, order], rtol=1e-4, atol=1e-5)
    without = {**inputs, "hidden_states": inputs["hidden_states"]}
    use_local_attention(model, AttentionLayout(0, (ROWS, COLUMNS), radius=RADIUS))
    assert (model(**without, return_dict=False)[0] - expected[:, : ROWS * COLUMNS]).abs().max() > 1e-4


def test_gradients_reach_a_model_through_it():
    model, inputs, _ = flux1()
    use_local_attention(model, AttentionLayout(0, (ROWS, COLUMNS), radius=RADIUS))
    model(**inputs, return_dict=False)[0].square().mean().backward()
    gradient = model.single_transformer_blocks[0].attn.to_k.weight.grad
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


def test_what_does_not_fit_is_refused():
    model, inputs, _ = flux1()
    with pytest.raises(ValueError, match="the layout has 5 text tokens; give 0"):
        use_local_attention(model, AttentionLayout(5, (ROWS, COLUMNS)))
    with pytest.raises(ValueError, match="text is 'middle'; it must be one of first, last"):
        use_local_attention(model, AttentionLayout(0, (ROWS, COLUMNS)), text="middle")
    with pytest.raises(ValueError, match="Linear has no attention processors"):
        use_local_attention(torch.nn.Linear(1, 1), AttentionLayout(0, (2, 2)))
    use_local_attention(model, AttentionLayout(0, (40, 40)))
    with pytest.raises(ValueError, match="the sequence has 113 tokens; the layout's alone are 1600"):
        model(**inputs)
    use_local_attention(model, AttentionLayout(0, (ROWS, COLUMNS)))
    whole = torch.ones(ROWS * COLUMNS + TEXT, ROWS * COLUMNS + TEXT, dtype=torch.bool)
    with pytest.raises(ValueError, match="local attention takes no mask"):
        model(**inputs, joint_attention_kwargs={"attention_mask": whole})


def test_a_processor_that_attends_by_other_means_is_named():
    class Other:
        def __call__(self, attn, hidden_states):
            return hidden_states

    processor = ScaleDiTAttnProcessor(Other(), AttentionLayout(0, (2, 2)))
    with pytest.raises(ValueError, match="Other didn't call scaled_dot_product_attention"):
        processor(torch.nn.Identity(), torch.zeros(1, 4, 8))
