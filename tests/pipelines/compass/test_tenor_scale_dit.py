"""TENOR inside Scale-DiT's own forward pass: the same hooks, with local attention and two adapters."""

import torch
import torch.nn.functional as F

from pipelines.compass.tenor import find_tenor, install_tenor, is_installed, remove_tenor
from pipelines.compass.tenor_table import tenor_table
from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.scale_dit.transformer_scale_dit import anchors, denoise, dense_attention, local_attention
from tests.pipelines.compass.plain_flux import merged, reference
from tests.pipelines.compass.test_tenor import WORDS, add_adapter

GRID = (4, 4)


def inputs(batch=2):
    generator = torch.Generator().manual_seed(5)
    return (
        torch.randn(batch, 16, 16, generator=generator),
        torch.randn(batch, WORDS, 16, generator=generator),
        torch.randn(batch, 24, generator=generator),
        torch.tensor([0.3, 0.8]),
    )


def stock(transformer):
    image, text, pooled, time = inputs()
    return transformer(
        hidden_states=image,
        encoder_hidden_states=text,
        pooled_projections=pooled,
        timestep=time,
        img_ids=anchors(GRID),
        txt_ids=torch.zeros(WORDS, 3),
    ).sample


def ours(transformer, attend=None):
    image, text, pooled, time = inputs()
    attend = attend or dense_attention(WORDS)
    return denoise(transformer, image, text, pooled, time, image_ids=anchors(GRID), attend=attend)


@torch.no_grad()
def test_the_same_hooks_serve_both_forward_passes(transformer):
    plain = ours(transformer)
    torch.testing.assert_close(plain, stock(transformer), rtol=1e-5, atol=1e-5)
    install_tenor(transformer)
    torch.testing.assert_close(ours(transformer), stock(transformer), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours(transformer), plain, atol=1e-3)
    remove_tenor(transformer)
    assert torch.equal(ours(transformer), plain)


@torch.no_grad()
def test_an_adapter_that_comes_later_is_hooked_without_a_stock_forward(transformer):
    install_tenor(transformer)
    add_adapter(transformer, "late", ["add_q_proj", "add_k_proj"])
    torch.testing.assert_close(ours(transformer), stock(transformer), rtol=1e-5, atol=1e-5)
    assert is_installed(transformer)


@torch.no_grad()
def test_tenor_local_attention_and_two_adapters_equal_the_plain_computation(transformer):
    """Against a computation written out: merged weights, projected table, explicit masked scores."""
    for name in ("first", "second"):
        add_adapter(transformer, name, ["to_q", "add_k_proj", "add_q_proj", "to_add_out"])
    transformer.set_adapters(["first", "second"], [0.7, 0.4])
    install_tenor(transformer)
    # windows of 2 x 2 tokens: each token sees its own window and all text
    layout = AttentionLayout(text=WORDS, grid=GRID, window=2, order="raster", local="own")
    together, mask = ours(transformer, local_attention(layout)), layout.token_mask()
    fixed = {"image_ids": anchors(GRID), "table": tenor_table(WORDS, 32)}
    torch.testing.assert_close(
        together, reference(transformer, mask, *inputs(), **fixed), rtol=1e-4, atol=1e-4
    )
    everything = reference(transformer, torch.ones_like(mask), *inputs(), **fixed)
    assert not mask.all() and not torch.allclose(together, everything, atol=1e-3)


@torch.no_grad()
def test_positions_are_added_once_when_a_caller_goes_under_an_adapter(transformer):
    install_tenor(transformer)
    expected = ours(transformer)
    add_adapter(transformer, "routed", ["add_q_proj", "add_k_proj"])
    beside = ours(transformer)
    around = [
        (block.attn, name)
        for block in transformer.transformer_blocks
        for name in ("add_q_proj", "add_k_proj")
    ]
    text = torch.randn(2, WORDS, 32)
    for attention, name in around:
        layer = getattr(attention, name)
        with_adapter, under = layer(text), layer.base_layer(text)
        table = tenor_table(WORDS, 32)
        base = F.linear(text + table, layer.base_layer.weight, layer.base_layer.bias)
        torch.testing.assert_close(under, base)
        torch.testing.assert_close(with_adapter, F.linear(text + table, *merged(layer)), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, beside, atol=1e-3)


def test_there_is_one_installation_for_both(transformer):
    handle = install_tenor(transformer)
    assert find_tenor(transformer).num_layers == handle.num_layers == 2
