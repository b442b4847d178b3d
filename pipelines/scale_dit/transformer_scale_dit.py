"""Scale-DiT's forward pass over a stock `FluxTransformer2DModel`: text, high-res tokens, clean low-res guide.

The guide sees only itself and is modulated at time 0, so it is the same in every denoising step: it is
encoded once (`encode_guide`) and enters the other tokens' attention as keys and values. Weights and module
names are diffusers'; without a guide and with dense attention the result equals the stock forward.
"""

# Shape letters: B batch, T text tokens, N image tokens, G guide tokens, H heads, D head dim, C channels.

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.kernels.local_attention.op import hierarchical_local_attention

KeyValue = tuple[Tensor, Tensor]
GuideCache = list[KeyValue]
# (query, key, value [B, T + N, H, D], guide key and value [B, G, H, D] or None) -> [B, T + N, H, D]
Attend = Callable[[Tensor, Tensor, Tensor, KeyValue | None], Tensor]


def dense_attention(text: int) -> Attend:
    """Every image token sees all; text sees text and image; for short sequences and training."""

    def attend(query: Tensor, key: Tensor, value: Tensor, guide: KeyValue | None) -> Tensor:
        if guide is None:
            return _sdpa(query, key, value)
        words = _sdpa(query[:, :text], key, value)
        key, value = torch.cat([key, guide[0]], 1), torch.cat([value, guide[1]], 1)
        return torch.cat([words, _sdpa(query[:, text:], key, value)], 1)

    return attend


def local_attention(layout: AttentionLayout, backend: str = "auto") -> Attend:
    """Attention under a layout; tokens must already be in its order."""

    def attend(query: Tensor, key: Tensor, value: Tensor, guide: KeyValue | None) -> Tensor:
        return hierarchical_local_attention(query, key, value, layout, guide=guide, backend=backend)

    return attend


def encode_guide(
    transformer: nn.Module,
    guide: Tensor,
    pooled: Tensor,
    ids: Tensor,
    attend: Attend,
    guidance: Tensor | None = None,
) -> GuideCache:
    """Run the low-res branch once.

    Args:
        guide: packed clean latents `[B, G, C]`.
        pooled: pooled text `[B, P]`.
        ids: positions `[G, 3]` (or `[B, G, 3]`), the scaled anchors.
        attend: attention of guide tokens among themselves.
        guidance: `[B]`, for transformers with a guidance embedding.
    Returns:
        keys (rotated) and values `[B, G, H, D]` of every block, double blocks first.
    """
    _bring_in(transformer)
    temb = _modulation(transformer, torch.zeros_like(pooled[:, 0]), pooled, guidance)
    rotary = _rotary(transformer, ids)
    hidden = transformer.x_embedder(guide)
    cache: GuideCache = []
    for block in transformer.transformer_blocks:
        normed, gate, shift_mlp, scale_mlp, gate_mlp = block.norm1(hidden, emb=temb)
        query, key, value = _project(block.attn, normed, rotary)
        cache.append((key, value))
        hidden = hidden + gate[:, None] * block.attn.to_out[0](attend(query, key, value, None).flatten(2))
        hidden = hidden + gate_mlp[:, None] * block.ff(_modulate(block.norm2(hidden), shift_mlp, scale_mlp))
    for block in transformer.single_transformer_blocks:
        normed, gate = block.norm(hidden, emb=temb)
        query, key, value = _project(block.attn, normed, rotary)
        cache.append((key, value))
        hidden = hidden + gate[:, None] * _single_out(block, attend(query, key, value, None), normed)
    return cache


def denoise(
    transformer: nn.Module,
    image: Tensor,
    text: Tensor,
    pooled: Tensor,
    timestep: Tensor,
    *,
    image_ids: Tensor,
    attend: Attend,
    guide: GuideCache | None = None,
    guidance: Tensor | None = None,
) -> Tensor:
    """Velocity of the image tokens.

    Args:
        image: packed noisy latents `[B, N, C]`, in the order that `attend` expects.
        text: T5 states `[B, T, J]`; pooled: `[B, P]`.
        timestep: `[B]` in [0, 1].
        image_ids: positions `[N, 3]` (or `[B, N, 3]`) in the order of `image`; text sits at position 0.
        guide: what `encode_guide` returned, or None.
        guidance: `[B]`, for transformers with a guidance embedding.
    Returns:
        `[B, N, C]`.
    Source: arXiv 2510.16325, section 3; block structure of FLUX.1.
    """
    _bring_in(transformer)
    temb = _modulation(transformer, timestep.to(image.dtype), pooled, guidance)
    length = text.shape[1]
    text_ids = image_ids.new_zeros(*image_ids.shape[:-2], length, 3)
    rotary = _rotary(transformer, torch.cat([text_ids, image_ids], -2))
    hidden, words = transformer.x_embedder(image), transformer.context_embedder(text)
    caches: list[KeyValue | None] = list(guide) if guide is not None else []
    caches += [None] * (
        len(transformer.transformer_blocks) + len(transformer.single_transformer_blocks) - len(caches)
    )
    at = iter(caches)
    for block in transformer.transformer_blocks:
        words, hidden = _double_block(block, words, hidden, temb, rotary, attend, next(at))
    joint = torch.cat([words, hidden], 1)
    for block in transformer.single_transformer_blocks:
        normed, gate = block.norm(joint, emb=temb)
        query, key, value = _project(block.attn, normed, rotary)
        joint = joint + gate[:, None] * _single_out(block, attend(query, key, value, next(at)), normed)
    return transformer.proj_out(transformer.norm_out(joint[:, length:], temb))


def _bring_in(transformer: nn.Module) -> None:
    """Do what `enable_model_cpu_offload` hangs on `forward`, which is never called here."""
    hook = getattr(transformer, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(transformer)


def _modulation(transformer: Any, timestep: Tensor, pooled: Tensor, guidance: Tensor | None) -> Tensor:
    if guidance is None:
        return transformer.time_text_embed(timestep * 1000, pooled)
    return transformer.time_text_embed(timestep * 1000, guidance.to(timestep.dtype) * 1000, pooled)


def _double_block(
    block: Any,
    words: Tensor,
    hidden: Tensor,
    temb: Tensor,
    rotary: KeyValue,
    attend: Attend,
    guide: KeyValue | None,
) -> tuple[Tensor, Tensor]:
    attn, length = block.attn, words.shape[1]
    normed, gate, shift_mlp, scale_mlp, gate_mlp = block.norm1(hidden, emb=temb)
    normed_c, gate_c, shift_mlp_c, scale_mlp_c, gate_mlp_c = block.norm1_context(words, emb=temb)
    query, key, value = (
        layer(normed).unflatten(-1, (attn.heads, -1)) for layer in (attn.to_q, attn.to_k, attn.to_v)
    )
    query_c, key_c, value_c = (
        layer(normed_c).unflatten(-1, (attn.heads, -1))
        for layer in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
    )
    query = torch.cat([attn.norm_added_q(query_c), attn.norm_q(query)], 1)
    key = torch.cat([attn.norm_added_k(key_c), attn.norm_k(key)], 1)
    query, key = (_rotate(part, rotary) for part in (query, key))
    out = attend(query, key, torch.cat([value_c, value], 1), guide).flatten(2)
    hidden = hidden + gate[:, None] * attn.to_out[0](out[:, length:])
    hidden = hidden + gate_mlp[:, None] * block.ff(_modulate(block.norm2(hidden), shift_mlp, scale_mlp))
    words = words + gate_c[:, None] * attn.to_add_out(out[:, :length])
    words = words + gate_mlp_c[:, None] * block.ff_context(
        _modulate(block.norm2_context(words), shift_mlp_c, scale_mlp_c)
    )
    return words, hidden


def _project(attn: Any, normed: Tensor, rotary: KeyValue) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = (
        layer(normed).unflatten(-1, (attn.heads, -1)) for layer in (attn.to_q, attn.to_k, attn.to_v)
    )
    query = _rotate(attn.norm_q(query), rotary)
    key = _rotate(attn.norm_k(key), rotary)
    return query, key, value


def _single_out(block: Any, attended: Tensor, normed: Tensor) -> Tensor:
    return block.proj_out(torch.cat([attended.flatten(2), block.act_mlp(block.proj_mlp(normed))], 2))


def _modulate(normed: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift[:, None], normed, 1 + scale[:, None])


def _rotary(transformer: nn.Module, ids: Tensor) -> KeyValue:
    """Cosines and sines `[1 or B, S, 1, D]` of positions `[S, 3]` or `[B, S, 3]`."""
    cos, sin = transformer.pos_embed(ids.reshape(-1, 3))
    shape = (1 if ids.ndim == 2 else ids.shape[0], ids.shape[-2], 1, -1)
    return cos.float().view(shape), sin.float().view(shape)


def _rotate(x: Tensor, rotary: KeyValue) -> Tensor:
    """Rotate the pairs (0, 1), (2, 3), ... of `[B, S, H, D]` in fp32."""
    cos, sin = rotary
    y = x.float()
    turned = torch.stack([-y[..., 1::2], y[..., ::2]], -1).flatten(-2)
    return torch.addcmul(y * cos, turned, sin).to(x.dtype)


def _sdpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    out = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    return out.transpose(1, 2)


def anchors(grid: tuple[int, int], full: tuple[int, int] | None = None) -> Tensor:
    """Positions `[rows * columns, 3]` of a token grid, spread over a larger grid when `full` is given.

    Token i of n spread over m sits at `(i + 1/2) m / n - 1/2` (float, per axis): the centre of what it shows.
    """
    full = full or grid
    rows, columns = (
        (torch.arange(n, dtype=torch.float32) + 0.5) * m / n - 0.5 for n, m in zip(grid, full, strict=True)
    )
    ids = torch.zeros(grid[0], grid[1], 3)
    ids[..., 1], ids[..., 2] = rows[:, None], columns[None]
    return ids.reshape(-1, 3)


def pack(latents: Tensor) -> Tensor:
    """`[B, C, 2h, 2w]` -> `[B, h w, 4 C]`, FLUX's order."""
    b, c, height, width = latents.shape
    parts = latents.view(b, c, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return parts.reshape(b, (height // 2) * (width // 2), c * 4)


def unpack(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Inverse of `pack` for a grid of (h, w) tokens."""
    b, _, c = tokens.shape
    parts = tokens.view(b, grid[0], grid[1], c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return parts.reshape(b, c // 4, grid[0] * 2, grid[1] * 2)
