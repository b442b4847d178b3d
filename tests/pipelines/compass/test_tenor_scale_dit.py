"""TENOR inside Scale-DiT's own forward pass: the same hooks, with local attention and two adapters."""

import torch
import torch.nn.functional as F

from pipelines.compass.tenor import find_tenor, install_tenor, is_installed, remove_tenor
from pipelines.compass.tenor_table import tenor_table
from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.scale_dit.transformer_scale_dit import anchors, denoise, dense_attention, local_attention
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
    torch.testing.assert_close(together, reference(transformer, mask), rtol=1e-4, atol=1e-4)
    everything = reference(transformer, torch.ones_like(mask))
    assert not mask.all() and not torch.allclose(together, everything, atol=1e-3)


def merged(layer):
    """Effective weight and bias of a projection with its adapters."""
    base = getattr(layer, "base_layer", layer)
    weight = base.weight.clone()
    for name in getattr(layer, "active_adapters", []):
        if name in layer.lora_A:
            weight += layer.scaling[name] * layer.lora_B[name].weight @ layer.lora_A[name].weight
    return weight, base.bias


def reference(transformer, mask):
    """Scale-DiT's block equations with everything spelled out, text first."""
    image, text, pooled, time = inputs()
    temb = transformer.time_text_embed(time * 1000, pooled)
    cos, sin = transformer.pos_embed(torch.cat([torch.zeros(WORDS, 3), anchors(GRID)]))
    hidden, words = transformer.x_embedder(image), transformer.context_embedder(text)
    table = tenor_table(WORDS, words.shape[-1])

    def rotate(x):
        pairs = x.unflatten(-1, (-1, 2))
        turned = torch.stack([-pairs[..., 1], pairs[..., 0]], -1).flatten(-2)
        return x * cos[None, :, None] + turned * sin[None, :, None]

    def attend(query, key, value):
        scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
        return torch.einsum(
            "bhqk,bkhd->bqhd", scores.masked_fill(~mask, -torch.inf).softmax(-1), value
        ).flatten(2)

    def heads(x, attn):
        return x.unflatten(-1, (attn.heads, -1))

    for block in transformer.transformer_blocks:
        attn = block.attn
        n, gate, shift, scale, gate_mlp = block.norm1(hidden, emb=temb)
        m, gate_c, shift_c, scale_c, gate_mlp_c = block.norm1_context(words, emb=temb)
        q, k, v = (heads(F.linear(n, *merged(layer)), attn) for layer in (attn.to_q, attn.to_k, attn.to_v))
        qc, kc = (
            heads(F.linear(m + table, *merged(layer)), attn) for layer in (attn.add_q_proj, attn.add_k_proj)
        )
        vc = heads(F.linear(m, *merged(attn.add_v_proj)), attn)
        query = rotate(torch.cat([attn.norm_added_q(qc), attn.norm_q(q)], 1))
        key = rotate(torch.cat([attn.norm_added_k(kc), attn.norm_k(k)], 1))
        out = attend(query, key, torch.cat([vc, v], 1))
        hidden = hidden + gate[:, None] * F.linear(out[:, WORDS:], *merged(attn.to_out[0]))
        hidden = hidden + gate_mlp[:, None] * block.ff(
            block.norm2(hidden) * (1 + scale[:, None]) + shift[:, None]
        )
        words = words + gate_c[:, None] * F.linear(out[:, :WORDS], *merged(attn.to_add_out))
        normed = block.norm2_context(words) * (1 + scale_c[:, None]) + shift_c[:, None]
        words = words + gate_mlp_c[:, None] * block.ff_context(normed)
    joint = torch.cat([words, hidden], 1)
    for block in transformer.single_transformer_blocks:
        attn = block.attn
        n, gate = block.norm(joint, emb=temb)
        q, k, v = (heads(F.linear(n, *merged(layer)), attn) for layer in (attn.to_q, attn.to_k, attn.to_v))
        out = attend(rotate(attn.norm_q(q)), rotate(attn.norm_k(k)), v)
        joint = joint + gate[:, None] * block.proj_out(torch.cat([out, block.act_mlp(block.proj_mlp(n))], 2))
    return transformer.proj_out(transformer.norm_out(joint[:, WORDS:], temb))


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
