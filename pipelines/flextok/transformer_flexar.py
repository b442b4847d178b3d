"""Autoregressive transformer over token ids, told what to make by a class or by encoded text.

Parameter names are those of published checkpoints without their first word (`models.`).

Sources: arXiv 2502.13967 (class-conditional), the FlexAR release (text, cross-attention in each block).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import nn

from pipelines.flextok.blocks import attend
from pipelines.flextok.strict_loading import ConfigMixin, ModelMixin, StrictModel

HIDDEN_MULTIPLE = 256
CONDITIONS = ("class", "text")
NULL_CLASS = -1
SMALL = 1 << 25  # parameters: 128 MiB


@dataclass(frozen=True)
class ARCondition:
    """What rows are told: class ids `[B]` (-1: nothing), or projected text `[B, L, width]` with its mask.

    Attributes:
        text_bias: `[B, 1, 1, L]`, 0 where there is text and -inf where there is padding.
    """

    classes: torch.Tensor | None = None
    text: torch.Tensor | None = None
    text_bias: torch.Tensor | None = None


@dataclass
class ARCache:
    """Keys and values of the tokens seen so far, per layer `[2, B, H, T, D]`, and those of the text.

    Attributes:
        length: places that are filled.
        text: per layer, keys and values `[B, H, L, D]`.
        is_small: the model's weights may be copied, and are too few for several threads.
        weights: per layer, laid out for single tokens when the first one comes.
    """

    store: list[torch.Tensor]
    length: int = 0
    text: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    is_small: bool = False
    weights: list["_StepWeights"] = field(default_factory=list)


class _SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)

    def forward(self, x: torch.Tensor, cache: ARCache | None, layer: int) -> torch.Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        new, mask = x.shape[1], None
        if cache is not None:
            end = cache.length + new
            kept = cache.store[layer]
            kept[:, :, :, cache.length : end] = torch.stack([key, value]).transpose(2, 3)
            key, value = (part[:, :, :end].transpose(1, 2) for part in kept)
        if new > 1:
            seen = key.shape[1]
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
        return self.proj(attend(query, key, value, mask))


class _CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.Wq, self.Wk, self.Wv, self.proj = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(
        self, x: torch.Tensor, condition: ARCondition, cache: ARCache | None, layer: int
    ) -> torch.Tensor:
        if cache is not None and len(cache.text) > layer:
            key, value = (part.transpose(1, 2) for part in cache.text[layer])
        else:
            key, value = (part(condition.text).unflatten(-1, (self.heads, -1)) for part in (self.Wk, self.Wv))
            if cache is not None:
                cache.text.append((key.transpose(1, 2).contiguous(), value.transpose(1, 2).contiguous()))
        query = self.Wq(x).unflatten(-1, (self.heads, -1))
        return self.proj(attend(query, key, value, condition.text_bias))


class _MLP(nn.Module):
    """`fc2(silu(fc1 x) * fc3 x)`; hidden width `8/3 * width`, rounded up to a multiple of 256."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = -(-int(8 * width / 3) // HIDDEN_MULTIPLE) * HIDDEN_MULTIPLE
        self.fc1, self.fc3 = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.silu(self.fc1(x)) * self.fc3(x))


class _ClassBlock(nn.Module):
    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.attn, self.mlp = _SelfAttention(width, heads), _MLP(width)
        self.norm_1, self.norm_2 = nn.RMSNorm(width, eps), nn.RMSNorm(width, eps)

    def forward(
        self, x: torch.Tensor, condition: ARCondition, cache: ARCache | None, layer: int
    ) -> torch.Tensor:
        x = x + self.attn(self.norm_1(x), cache, layer)
        return x + self.mlp(self.norm_2(x))


class _TextBlock(nn.Module):
    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.self_attn, self.cross_attn = _SelfAttention(width, heads), _CrossAttention(width, heads)
        self.mlp = _MLP(width)
        self.norm_1, self.norm_2, self.norm_3 = (nn.RMSNorm(width, eps) for _ in range(3))

    def forward(
        self, x: torch.Tensor, condition: ARCondition, cache: ARCache | None, layer: int
    ) -> torch.Tensor:
        x = x + self.self_attn(self.norm_1(x), cache, layer)
        x = x + self.cross_attn(self.norm_2(x), condition, cache, layer)
        return x + self.mlp(self.norm_3(x))


class _Preprocessor(nn.Module):
    """Ids and the start token as vectors with learned positions; a class is added to the start token only."""

    def __init__(self, vocab_size: int, num_tokens: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.randn(num_tokens, width) * 0.02)
        self.sos_token_embed = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        if num_classes:
            self.cls_embedding = nn.Embedding(num_classes, width)

    def forward(self, ids: torch.Tensor, classes: torch.Tensor | None, start: int) -> torch.Tensor:
        """`[B, n, width]` of ids `[B, n]` from place `start` on; at place 0 the start token comes first."""
        x = self.embedding(ids)
        if start == 0:
            first = self.sos_token_embed.expand(len(ids), -1, -1)
            if classes is not None:
                known = (classes != NULL_CLASS)[:, None, None]
                first = first + self.cls_embedding(classes.clamp(min=0))[:, None] * known
            x = torch.cat([first, x], dim=1)
        return x + self.positional_embedding[start : start + x.shape[1]]


class _Trunk(nn.Module):
    def __init__(self, depth: int, width: int, heads: int, eps: float, condition: str) -> None:
        super().__init__()
        block = _TextBlock if condition == "text" else _ClassBlock
        self.blocks = nn.ModuleList(block(width, heads, eps) for _ in range(depth))
        self.post_trunk_norm = nn.RMSNorm(width, eps)


class _Named(nn.Module):
    """Puts a module under the name that published checkpoints give it."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


@dataclass(frozen=True)
class _StepWeights:
    """A block's weights as `step` uses them: matrices `[in, out]`, norms `[2 width]`."""

    norms: tuple[torch.Tensor, ...]  # one per part, the MLP's last
    qkv: torch.Tensor
    proj: torch.Tensor
    cross: tuple[torch.Tensor, torch.Tensor] | None  # query, projection
    mlp: tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # fc1, fc3, fc2

    @classmethod
    def of(cls, block: Any, is_small: bool) -> "_StepWeights":
        def turned(linear: nn.Linear) -> torch.Tensor:
            # products of few rows are faster with it; large models would need too much memory twice
            return linear.weight.t().contiguous() if is_small else linear.weight.t()

        cross, mlp = getattr(block, "cross_attn", None), block.mlp
        own = block.attn if cross is None else block.self_attn
        norms = (block.norm_1, block.norm_2) if cross is None else (block.norm_1, block.norm_2, block.norm_3)
        return cls(
            tuple(norm.weight.repeat(2) for norm in norms),
            turned(own.qkv),
            turned(own.proj),
            None if cross is None else (turned(cross.Wq), turned(cross.proj)),
            (turned(mlp.fc1), turned(mlp.fc3), turned(mlp.fc2)),
        )


def unit_rms(x: torch.Tensor, twice: torch.Tensor, eps: float) -> torch.Tensor:
    """RMS norm of `[B, width]` in one fused call: [x, -x] has mean 0 and the mean square of x.

    Args:
        twice: the norm's weight, repeated, `[2 width]`.
    """
    both = torch.cat([x, -x], dim=-1)
    return F.layer_norm(both, twice.shape, twice, eps=eps)[:, : x.shape[1]]


def step(trunk: _Trunk, x: torch.Tensor, text_bias: torch.Tensor | None, cache: ARCache) -> torch.Tensor:
    """One more token through all layers, `[B, width]`; the place `cache.length - 1` is filled.

    The same sums as the blocks' own forward, in as few calls as possible: with one token a row the calls take
    more time than the arithmetic.
    """
    rows, end, last = len(x), cache.length, trunk.post_trunk_norm
    eps = last.eps
    if not cache.weights:
        is_small = cache.is_small
        cache.weights = [_StepWeights.of(block, is_small) for block in trunk.blocks]
    for layer, weights in enumerate(cache.weights):
        keys, values = cache.store[layer]
        heads = keys.shape[1]
        qkv = torch.mm(unit_rms(x, weights.norms[0], eps), weights.qkv)
        query, key, value = qkv.view(rows, 3, heads, 1, -1).unbind(1)
        keys[:, :, end - 1 : end], values[:, :, end - 1 : end] = key, value
        seen = F.scaled_dot_product_attention(query, keys[:, :, :end], values[:, :, :end])
        x = torch.addmm(x, seen.reshape(rows, -1), weights.proj)
        if weights.cross is not None:
            query = torch.mm(unit_rms(x, weights.norms[1], eps), weights.cross[0]).view(rows, heads, 1, -1)
            seen = F.scaled_dot_product_attention(query, *cache.text[layer], attn_mask=text_bias)
            x = torch.addmm(x, seen.reshape(rows, -1), weights.cross[1])
        fc1, fc3, fc2 = weights.mlp
        hidden = unit_rms(x, weights.norms[-1], eps)
        x = torch.addmm(x, F.silu(torch.mm(hidden, fc1)) * torch.mm(hidden, fc3), fc2)
    return unit_rms(x, last.weight.repeat(2), eps)


@contextmanager
def one_thread(is_wanted: bool) -> Iterator[None]:
    """Compute on one thread, where that is wanted.

    Products of a few rows are over before a second thread has begun; on a busy machine waiting for it makes a
    token take ten times as long.
    """
    before = torch.get_num_threads()
    if not is_wanted or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class FlexARModel(StrictModel, ModelMixin, ConfigMixin):
    """Next-token logits.

    Args:
        vocab_size: token ids. num_tokens: longest sequence.
        width, depth, num_heads: the trunk.
        condition: "class" or "text". num_classes: for classes. text_dim: width of the text encoder's states.
        norm_eps: of all norms.
    """

    @register_to_config
    def __init__(
        self,
        vocab_size: int = 64_000,
        num_tokens: int = 256,
        width: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        condition: str = "text",
        num_classes: int = 1000,
        text_dim: int = 2048,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if condition not in CONDITIONS or width % num_heads:
            raise ValueError(
                f"condition {condition!r} must be in {CONDITIONS}, width {width} a multiple of {num_heads}"
            )
        self.ar_image_model = _Named(
            preprocessor=_Preprocessor(vocab_size, num_tokens, width, num_classes * (condition == "class")),
            trunk=_Trunk(depth, width, num_heads, norm_eps, condition),
            head=_Named(linear=nn.Linear(width, vocab_size, bias=False)),
        )
        if condition == "text":
            mlp = _Named(
                fc1=nn.Linear(text_dim, text_dim, bias=False), fc2=nn.Linear(text_dim, width, bias=False)
            )
            self.text_encoder = _Named(mlp=mlp)

    def class_condition(self, classes: Sequence[int | None]) -> ARCondition:
        """Condition on class ids; None is the null condition.

        Raises:
            ValueError: ids out of range, or a model of texts.
        """
        self._expect("class")
        most = self.config.num_classes
        if any(c is not None and not 0 <= c < most for c in classes):
            raise ValueError(f"class ids {list(classes)}; this model knows 0 to {most - 1} and None")
        ids = [NULL_CLASS if c is None else c for c in classes]
        return ARCondition(classes=torch.tensor(ids, device=self.device))

    def text_condition(self, states: torch.Tensor, mask: torch.Tensor) -> ARCondition:
        """Condition on text encoder states `[B, L, text_dim]`; `mask` `[B, L]` is nonzero where text is.

        Raises:
            ValueError: another width, an empty row, or a model of classes.
        """
        self._expect("text")
        if states.ndim != 3 or states.shape[2] != self.config.text_dim or mask.shape != states.shape[:2]:
            raise ValueError(
                f"text states {list(states.shape)} with mask {list(mask.shape)}; "
                f"expected [B, L, {self.config.text_dim}] and [B, L]"
            )
        if not bool(mask.bool().any(1).all()):
            raise ValueError("every text needs at least one token; the empty text has its end mark")
        mlp = self.text_encoder.mlp
        projected = mlp.fc2(F.gelu(mlp.fc1(states.to(self.dtype)), approximate="tanh"))
        bias = torch.zeros(mask.shape, dtype=projected.dtype, device=projected.device)
        bias = bias.masked_fill(~mask.to(bias.device).bool(), -torch.inf)
        return ARCondition(text=projected, text_bias=bias[:, None, None])

    def _expect(self, condition: str) -> None:
        if self.config.condition != condition:
            raise ValueError(f"this model is conditioned on a {self.config.condition}, not on a {condition}")

    def new_cache(self, rows: int) -> ARCache:
        """An empty cache for `rows` sequences."""
        config = self.config
        shape = (2, rows, config.num_heads, config.num_tokens, config.width // config.num_heads)
        store = [torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in range(config.depth)]
        is_small = sum(p.numel() for p in self.ar_image_model.parameters()) <= SMALL
        return ARCache(store, is_small=is_small and self.device.type == "cpu")

    def forward(
        self, ids: torch.Tensor, condition: ARCondition, cache: ARCache | None = None, last_only: bool = False
    ) -> torch.Tensor:
        """Logits `[B, S, vocab_size]` float32; those of place i are about token i.

        Args:
            ids: `[B, n]` int64. Without a cache, or with an empty one, the start token comes before them and
                S = n + 1. With a filled cache these are the next tokens, S = n.
            last_only: logits of the last place only.
        Raises:
            ValueError: more tokens than the model has places.
        """
        start = cache.length if cache is not None else 0
        places = start + ids.shape[1] + (start == 0)
        if places > self.config.num_tokens:
            raise ValueError(f"{places} places are needed; this model has {self.config.num_tokens}")
        parts = self.ar_image_model
        x = parts.preprocessor(ids, condition.classes, start)
        if cache is not None and start and x.shape[1] == 1 and not torch.is_grad_enabled():
            cache.length = places
            with one_thread(cache.is_small):
                x = step(parts.trunk, x[:, 0], condition.text_bias, cache)
                return parts.head.linear(x)[:, None].float()
        for layer, block in enumerate(parts.trunk.blocks):
            x = block(x, condition, cache, layer)
        if cache is not None:
            cache.length = places
        x = parts.trunk.post_trunk_norm(x[:, -1:] if last_only else x)
        return parts.head.linear(x).float()
