"""Scale-DiT's forward pass over a stock FLUX transformer: text, high-res tokens, clean low-res guide.

The guide is modulated at time 0. As long as it sees only itself it is the same in every denoising step: it is
then encoded once (`encode_guide`) and enters the other tokens' attention as keys and values. A guide that
reads the text runs along in every step (`LiveGuide`). Weights and module names are diffusers'
(`FluxTransformer2DModel`, `Flux2Transformer2DModel`); without a guide and with dense attention the result
equals the stock forward.
"""

# Shape letters: B batch, T text tokens, N image tokens, G guide tokens, H heads, D head dim, C channels.

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.kernels.local_attention.op import hierarchical_local_attention
from pipelines.scale_dit.lora_routing import LoraRouting
from pipelines.scale_dit.model_lines import ModelLine, Stream
from pipelines.scale_dit.positions import RopeFactors, anchors, rotary_table, rotate

__all__ = [
    "Attend", "GuideCache", "KeyValue", "LiveGuide", "anchors", "denoise", "dense_attention", "encode_guide",
    "local_attention", "pack", "unpack",
]  # fmt: skip

KeyValue = tuple[Tensor, Tensor]
GuideCache = list[KeyValue]
# (query, key, value [B, S, H, D], encoded guide's key and value [B, G, H, D] or None) -> [B, S, H, D], where
# S = T + N, or T + N + G with a guide that runs along
Attend = Callable[[Tensor, Tensor, Tensor, KeyValue | None], Tensor]


@dataclass(frozen=True)
class LiveGuide:
    """A guide that runs along in every step.

    Attributes:
        tokens: packed clean latents `[B, G, C]`.
        ids: positions `[G, axes]` or `[B, G, axes]`, the scaled anchors.
    """

    tokens: Tensor
    ids: Tensor


def dense_attention(text: int, live: int = 0, reads_text: bool = False) -> Attend:
    """Every image token sees all; text sees text and image; for short sequences and training.

    Args:
        text: number of text tokens. live: number of guide tokens that run along.
        reads_text: whether those see the text beside themselves.
    """

    def attend(query: Tensor, key: Tensor, value: Tensor, guide: KeyValue | None) -> Tensor:
        if guide is not None:
            key, value = torch.cat([key, guide[0]], 1), torch.cat([value, guide[1]], 1)
        elif not live:
            return _sdpa(query, key, value)
        image = query.shape[1] - live  # first row of the guide, or the end
        words = _sdpa(query[:, :text], key[:, :image], value[:, :image])
        parts = [words, _sdpa(query[:, text:image], key, value)]
        if live:
            rows = torch.arange(key.shape[1], device=key.device)
            seen = rows[(rows >= image) | (rows < text)] if reads_text else rows[image:]
            parts.append(_sdpa(query[:, image:], key[:, seen], value[:, seen]))
        return torch.cat(parts, 1)

    return attend


def local_attention(layout: AttentionLayout, backend: str = "auto") -> Attend:
    """Attention under a layout; tokens must already be in its order."""

    def attend(query: Tensor, key: Tensor, value: Tensor, guide: KeyValue | None) -> Tensor:
        return hierarchical_local_attention(query, key, value, layout, guide=guide, backend=backend)

    return attend


def encode_guide(
    transformer: nn.Module,
    guide: Tensor,
    pooled: Tensor | None,
    ids: Tensor,
    attend: Attend,
    guidance: Tensor | None = None,
    *,
    rope: RopeFactors | None = None,
    routing: LoraRouting | None = None,
) -> GuideCache:
    """Run the low-res branch once.

    Args:
        guide: packed clean latents `[B, G, C]`.
        pooled: pooled text `[B, P]`; None for FLUX.2, which has none.
        ids: positions `[G, axes]` (or `[B, G, axes]`), the scaled anchors.
        attend: attention of guide tokens among themselves.
        guidance: `[B]`, for transformers with a guidance embedding.
        rope, routing: as in `denoise`.
    Returns:
        keys (rotated) and values `[B, G, H, D]` of every block, double blocks first.
    """
    _bring_in(transformer)
    line = ModelLine.of(transformer, routing)
    stream = line.embed(guide, "guide", line.embed_time(guide.new_zeros(len(guide)), pooled, guidance))
    table = rotary_table(line.transformer.pos_embed, ids, rope)
    cache: GuideCache = []
    _run_blocks(line, [stream], table, attend, repeat(None), cache)
    return cache


def denoise(
    transformer: nn.Module,
    image: Tensor,
    text: Tensor,
    pooled: Tensor | None,
    timestep: Tensor,
    *,
    image_ids: Tensor,
    attend: Attend,
    guide: GuideCache | LiveGuide | None = None,
    guidance: Tensor | None = None,
    rope: RopeFactors | None = None,
    routing: LoraRouting | None = None,
) -> Tensor:
    """Velocity of the image tokens.

    Args:
        image: packed noisy latents `[B, N, C]`, in the order that `attend` expects.
        text: text states `[B, T, J]`; pooled: `[B, P]`, or None for FLUX.2.
        timestep: `[B]` in [0, 1].
        image_ids: positions `[N, axes]` (or `[B, N, axes]`) in the order of `image`.
        guide: what `encode_guide` returned, a guide that runs along, or None.
        guidance: `[B]`, for transformers with a guidance embedding.
        rope: factors of the rotary frequencies. Default: the model's own.
        routing: a LoRA adapter that acts on some tokens only, and on none without a guide.
    Returns:
        `[B, N, C]`.
    Source: arXiv 2510.16325, section 3; block structure of FLUX.1 and FLUX.2.
    """
    _bring_in(transformer)
    line = ModelLine.of(transformer, routing if guide is not None or routing is None else routing.silenced())
    temb = line.embed_time(timestep.to(image.dtype), pooled, guidance)
    streams = [line.embed(text, "text", temb), line.embed(image, "image", temb)]
    ids = [line.text_ids(text.shape[1], image_ids), image_ids]
    caches: list[KeyValue] = []
    if isinstance(guide, LiveGuide):
        clean = line.embed_time(torch.zeros_like(timestep).to(image.dtype), pooled, guidance)
        streams.append(line.embed(guide.tokens, "guide", clean))
        ids.append(guide.ids)
    elif guide is not None:
        caches = guide
    table = rotary_table(line.transformer.pos_embed, torch.cat(ids, -2), rope)
    _run_blocks(line, streams, table, attend, chain(caches, repeat(None)))
    joint = streams[0].tokens[:, text.shape[1] :]
    return line.transformer.proj_out(line.transformer.norm_out(joint, temb))


def _bring_in(transformer: nn.Module) -> None:
    """Do what `enable_model_cpu_offload` hangs on `forward`, which is never called here."""
    hook = getattr(transformer, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(transformer)


def _run_blocks(
    line: ModelLine,
    streams: list[Stream],
    table: KeyValue,
    attend: Attend,
    guides: Iterator[KeyValue | None],
    kept: GuideCache | None = None,
) -> None:
    """Replace the tokens of `streams` block by block; each block's keys (rotated) and values go to `kept`.

    After the double blocks text and image, the first two of several streams, become one.
    """

    def keep(pair: KeyValue) -> None:
        if kept is not None:
            kept.append(pair)

    for block in line.transformer.transformer_blocks:
        keep(_double_block(line, block, streams, table, attend, next(guides)))
    if len(streams) > 1:
        text, image = streams[:2]
        tokens = torch.cat([text.tokens, image.tokens], 1)
        streams[:2] = [Stream("joint", tokens, image.condition)]
    for block in line.transformer.single_transformer_blocks:
        keep(_single_block(line, block, streams, table, attend, next(guides)))


def _double_block(
    line: ModelLine,
    block: Any,
    streams: list[Stream],
    table: KeyValue,
    attend: Attend,
    guide: KeyValue | None,
) -> KeyValue:
    every = [line.double_layers(block, stream.role) for stream in streams]
    modulations = [line.double_modulation(*pair) for pair in zip(every, streams, strict=True)]
    parts = []
    for stream, layers, (shift, scale, *_) in zip(streams, every, modulations, strict=True):
        normed = _modulate(line.first_norm(layers, stream.tokens), shift, scale)
        projections = (layers.query, layers.key, layers.value)
        query, key, value = (
            line.linear(layer, normed, stream.role, is_qkv=True).unflatten(-1, (block.attn.heads, -1))
            for layer in projections
        )
        parts.append((layers.query_norm(query), layers.key_norm(key), value))
    out, rotated = _attend_together(parts, table, attend, guide)
    for stream, layers, modulation, attended in zip(streams, every, modulations, out, strict=True):
        _, _, gate, shift, scale, gate_mlp = modulation
        tokens = stream.tokens + gate * line.linear(layers.out, attended, stream.role)
        normed = _modulate(layers.second_norm(tokens), shift, scale)
        inner = line.feed_forward(layers.feed_forward, normed, stream.role)
        stream.tokens = _finite(tokens + gate_mlp * inner)
    return rotated


def _single_block(
    line: ModelLine,
    block: Any,
    streams: list[Stream],
    table: KeyValue,
    attend: Attend,
    guide: KeyValue | None,
) -> KeyValue:
    attn, modulations = block.attn, [line.single_modulation(block, stream) for stream in streams]
    parts, rests = [], []
    for stream, (shift, scale, _) in zip(streams, modulations, strict=True):
        normed = _modulate(line.single_norm(block, stream.tokens), shift, scale)
        *projected, rest = line.single_project(block, normed, stream.role)
        query, key, value = (part.unflatten(-1, (attn.heads, -1)) for part in projected)
        parts.append((attn.norm_q(query), attn.norm_k(key), value))
        rests.append(rest)
    out, rotated = _attend_together(parts, table, attend, guide)
    for stream, (_, _, gate), attended, rest in zip(streams, modulations, out, rests, strict=True):
        stream.tokens = _finite(stream.tokens + gate * line.single_out(block, attended, rest, stream.role))
    return rotated


def _attend_together(
    parts: list[tuple[Tensor, Tensor, Tensor]], table: KeyValue, attend: Attend, guide: KeyValue | None
) -> tuple[tuple[Tensor, ...], KeyValue]:
    """Attention over all streams: each one's output `[B, S, H D]`, and rotated keys with values of all."""
    query, key, value = (torch.cat(same, 1) for same in zip(*parts, strict=True))
    query, key = rotate(query, table), rotate(key, table)
    out = attend(query, key, value, guide).flatten(2)
    return out.split([part[0].shape[1] for part in parts], 1), (key, value)


def _modulate(normed: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, normed, 1 + scale)


def _finite(tokens: Tensor) -> Tensor:
    """Half precision overflows in late blocks; stock code cuts it off there, too."""
    return tokens.clip(-65504, 65504) if tokens.dtype == torch.float16 else tokens


def _sdpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    out = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    return out.transpose(1, 2)


def pack(latents: Tensor, patch: int = 2) -> Tensor:
    """`[B, C, p h, p w]` -> `[B, h w, C p p]`, FLUX's order of channels; p = `patch`."""
    b, c, height, width = latents.shape
    parts = latents.view(b, c, height // patch, patch, width // patch, patch).permute(0, 2, 4, 1, 3, 5)
    return parts.reshape(b, (height // patch) * (width // patch), c * patch * patch)


def unpack(tokens: Tensor, grid: tuple[int, int], patch: int = 2) -> Tensor:
    """Inverse of `pack` for a grid of (h, w) tokens."""
    b, _, c = tokens.shape
    channels = c // (patch * patch)
    parts = tokens.view(b, *grid, channels, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return parts.reshape(b, channels, grid[0] * patch, grid[1] * patch)
