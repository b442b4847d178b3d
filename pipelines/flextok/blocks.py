"""Layers of the tokenizer: patches, attention with unit queries and keys, gated MLPs, time-modulated blocks.

Names of parameters are those of published checkpoints. Norms have no weights and run in float32.

Source: arXiv 2502.13967; modulation with closed gates arXiv 2212.09748; softmax scale arXiv 2203.03466.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

MASK_MODES = ("full", "causal", "causal_last")
ATTENTION_SCALE = 8.0  # over head_dim; equals 1 / sqrt(head_dim) for heads of 64 only
Modulation = tuple[torch.Tensor, ...]


def normalize(x: torch.Tensor) -> torch.Tensor:
    """Layer norm over the last axis without weights, computed in float32, in the input's dtype."""
    return F.layer_norm(x.float(), x.shape[-1:], eps=1e-5).to(x.dtype)


def attention_mask(parts: Sequence[int], mode: str) -> torch.Tensor:
    """`[S, S]` bool over a sequence of parts: may the row's token see the column's?

    Args:
        parts: lengths of the sub-sequences, for instance (patches, registers).
        mode: "full"; "causal" (a token sees itself and what comes before); "causal_last" (all see every part
            but the last, whose tokens also see each other causally).
    """
    if mode not in MASK_MODES:
        raise ValueError(f"mask mode {mode!r} is unknown; known: {MASK_MODES}")
    length = sum(parts)
    place = torch.arange(length)
    if mode == "full":
        return torch.ones(length, length, dtype=torch.bool)
    mask = place[:, None] >= place
    return mask if mode == "causal" else mask | (place < length - parts[-1])


def patchify(x: torch.Tensor, patch: Sequence[int]) -> torch.Tensor:
    """`[B, C, H, W]` to `[B, H / py, W / px, py * px * C]`, channels fastest.

    Raises:
        ValueError: sides aren't multiples of the patch.
    """
    down, across = patch
    if x.shape[-2] % down or x.shape[-1] % across:
        raise ValueError(f"latents of {x.shape[-2]}x{x.shape[-1]} don't divide into {down}x{across} patches")
    x = x.unflatten(-1, (-1, across)).unflatten(-3, (-1, down))  # [B, C, h, py, w, px]
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3)


def unpatchify(x: torch.Tensor, patch: Sequence[int]) -> torch.Tensor:
    """The inverse of `patchify`."""
    down, across = patch
    x = x.unflatten(-1, (down, across, -1))  # [B, h, w, py, px, C]
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """Softmax attention on `[B, S, H, D]` tensors; `[B, S, H * D]` out.

    Args:
        mask: bool or additive, broadcastable to `[B, H, S, S]`.
        scale: factor on the logits. Default: `D ** -0.5`.
    """
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    if mask is not None and mask.is_floating_point():
        mask = mask.to(query.dtype)
    if query.requires_grad and query.device.type == "cpu":
        # few tokens: written out, the backward in bf16 on CPUs is several times faster than the fused one
        logits = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-1, -2)
        if mask is not None:
            is_bias = mask.is_floating_point()
            logits = logits + mask if is_bias else logits.masked_fill(~mask, -torch.inf)
        seen = logits.softmax(-1) @ value
    else:
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    return seen.transpose(1, 2).flatten(2)


class PatchEmbedder(nn.Module):
    """Patches of a picture's latents, projected to tokens `[B, h, w, dim]`."""

    def __init__(self, channels: int, patch: Sequence[int], dim: int) -> None:
        super().__init__()
        self.patch = tuple(patch)
        self.patch_proj = nn.Linear(channels * patch[0] * patch[1], dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.patch_proj(patchify(x, self.patch))


class SelfAttention(nn.Module):
    """Attention over `[B, S, dim]` with layer-normed queries and keys."""

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        if dim % head_dim:
            raise ValueError(f"width {dim} doesn't divide into heads of {head_dim}")
        self.head_dim = head_dim
        self.wq, self.wk, self.wv, self.proj = (nn.Linear(dim, dim, bias=False) for _ in range(4))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """`mask`: bool or additive, broadcastable to `[B, H, S, S]`."""
        heads = [layer(x).unflatten(-1, (-1, self.head_dim)) for layer in (self.wq, self.wk, self.wv)]
        query, key, value = normalize(heads[0]), normalize(heads[1]), heads[2]  # [B, S, H, D]
        return self.proj(attend(query, key, value, mask, ATTENTION_SCALE / self.head_dim))


class GatedMLP(nn.Module):
    """`fc2(silu(fc1 x) * fc3 x)`; the hidden width is `2/3 * ratio * dim`, rounded down."""

    def __init__(self, dim: int, ratio: float) -> None:
        super().__init__()
        hidden = int(2 * int(ratio * dim) / 3)
        self.fc1, self.fc3 = nn.Linear(dim, hidden, bias=False), nn.Linear(dim, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.silu(self.fc1(x)) * self.fc3(x))


def modulation_layer(dim: int, out: int) -> nn.Sequential:
    """What turns a time embedding into shifts, scales and gates; starts at zero, with closed gates."""
    linear = nn.Linear(dim, out)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.SiLU(), linear)


class Block(nn.Module):
    """Pre-norm attention and MLP; with `expansion`, modulated for each of that many parts of the sequence."""

    def __init__(self, dim: int, head_dim: int, mlp_ratio: float, expansion: int = 0) -> None:
        super().__init__()
        self.attn, self.mlp = SelfAttention(dim, head_dim), GatedMLP(dim, mlp_ratio)
        self.adaLN_modulation = modulation_layer(dim, 6 * expansion * dim) if expansion else None

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None, modulation: Modulation | None = None
    ) -> torch.Tensor:
        """`modulation`: gate, gate, shift, scale, shift, scale, each broadcastable to `[B, S, dim]`."""
        if modulation is None:
            x = x + self.attn(normalize(x), mask)
            return x + self.mlp(normalize(x))
        gate_attention, gate_mlp, shift, scale, shift_mlp, scale_mlp = modulation
        x = x + gate_attention * self.attn(normalize(x) * (1 + scale) + shift, mask)
        return x + gate_mlp * self.mlp(normalize(x) * (1 + scale_mlp) + shift_mlp)


def spread_modulation(m: torch.Tensor, parts: Sequence[int]) -> Modulation:
    """Six `[B, S, dim]` tensors from `[B, 6 * len(parts) * dim]`: each part of the sequence has its own."""
    rows = [piece.chunk(6, dim=-1) for piece in m.chunk(len(parts), dim=-1)]
    return tuple(
        torch.cat([row[i][:, None].expand(-1, n, -1) for row, n in zip(rows, parts, strict=True)], dim=1)
        for i in range(6)
    )


class Trunk(nn.Module):
    """The blocks of one transformer."""

    def __init__(self, dim: int, depth: int, head_dim: int, mlp_ratio: float, expansion: int = 0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, head_dim, mlp_ratio, expansion) for _ in range(depth))


class LinearHead(nn.Module):
    """Norm, then a linear layer, in float32 whatever the rest runs in: its outputs are rounded to ids."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return float_linear(self.proj, normalize(x.float()))


class LinearLayer(nn.Module):
    """A linear layer under its published name."""

    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim_in, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return float_linear(self.proj, x)


class PatchHead(nn.Module):
    """Tokens to patches of a velocity field: modulated norm, then a linear layer that starts at zero."""

    def __init__(self, dim: int, channels: int, patch: Sequence[int]) -> None:
        super().__init__()
        self.patch = tuple(patch)
        self.adaLN_modulation = modulation_layer(dim, 2 * dim)
        self.proj = nn.Linear(dim, channels * patch[0] * patch[1])
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: torch.Tensor, modulation: torch.Tensor) -> torch.Tensor:
        """`[B, h, w, dim]` and `[B, 2 * dim]` (shift, scale) to `[B, C, H, W]`."""
        shift, scale = modulation[:, None, None].chunk(2, dim=-1)
        return unpatchify(self.proj(normalize(x) * (1 + scale) + shift), self.patch)


class TimeEmbedder(nn.Module):
    """Time features through two layers; the features themselves come from `positions.time_features`."""

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(features, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.mlp(features.to(self.mlp[0].weight.dtype))


def float_linear(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """`layer(x)` computed and returned in float32."""
    return F.linear(x.float(), layer.weight.float(), layer.bias.float())
