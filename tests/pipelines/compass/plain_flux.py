"""A FLUX-type transformer's forward pass with every step written out: merged adapters, projected positions,
explicit masked scores. What the fast paths are held against.
"""

import torch
import torch.nn.functional as F


def merged(layer):
    """Effective weight and bias of a projection with its adapters."""
    base = getattr(layer, "base_layer", layer)
    weight = base.weight.clone()
    for name in getattr(layer, "active_adapters", []):
        if name in layer.lora_A:
            weight += layer.scaling[name] * layer.lora_B[name].weight @ layer.lora_A[name].weight
    return weight, base.bias


def reference(transformer, mask, image, text, pooled, time, *, image_ids, table):
    """Velocity of the image tokens: Scale-DiT's block equations with everything spelled out, text first.

    Args:
        mask: `[S, S]`, who sees whom. image: `[B, N, C]`. text: `[B, T, J]`. pooled: `[B, P]`. time: `[B]`.
        image_ids: `[N, 3]`. table: TENOR's rows `[T, C]`.
    """
    count = text.shape[1]
    temb = transformer.time_text_embed(time * 1000, pooled)
    cos, sin = transformer.pos_embed(torch.cat([torch.zeros(count, 3), image_ids]))
    hidden, words = transformer.x_embedder(image), transformer.context_embedder(text)

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
        hidden = hidden + gate[:, None] * F.linear(out[:, count:], *merged(attn.to_out[0]))
        hidden = hidden + gate_mlp[:, None] * block.ff(
            block.norm2(hidden) * (1 + scale[:, None]) + shift[:, None]
        )
        words = words + gate_c[:, None] * F.linear(out[:, :count], *merged(attn.to_add_out))
        normed = block.norm2_context(words) * (1 + scale_c[:, None]) + shift_c[:, None]
        words = words + gate_mlp_c[:, None] * block.ff_context(normed)
    joint = torch.cat([words, hidden], 1)
    for block in transformer.single_transformer_blocks:
        attn = block.attn
        n, gate = block.norm(joint, emb=temb)
        q, k, v = (heads(F.linear(n, *merged(layer)), attn) for layer in (attn.to_q, attn.to_k, attn.to_v))
        out = attend(rotate(attn.norm_q(q)), rotate(attn.norm_k(k)), v)
        joint = joint + gate[:, None] * block.proj_out(torch.cat([out, block.act_mlp(block.proj_mlp(n))], 2))
    return transformer.proj_out(transformer.norm_out(joint[:, count:], temb))
