"""The tokens of one stage: their order, positions and attention, and the guide they look at."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.kernels.local_attention.op import choose
from pipelines.scale_dit.high_res import HighResOptions, guide_layout
from pipelines.scale_dit.lora_routing import LoraRouting
from pipelines.scale_dit.transformer_scale_dit import (
    Attend,
    GuideCache,
    LiveGuide,
    anchors,
    dense_attention,
    encode_guide,
    local_attention,
)

Guide = GuideCache | LiveGuide
Grid = tuple[int, int]


@dataclass(frozen=True)
class StageSequence:
    """The image tokens of a stage.

    Attributes:
        ids: positions `[N, axes]` in the tokens' order. attend: attention by text width.
        order, inverse: from raster to the tokens' order and back; None: they are in raster order.
        guide: what the words' pass looks at; negative_guide: the negative words' pass, where it differs.
        enlarged: packed latents of the stage before in the tokens' order, when they pull at the velocity.
        backend: of the attention: "dense" or a kernel's name.
    """

    ids: Tensor
    attend: Callable[[int], Attend]
    order: Tensor | None = None
    inverse: Tensor | None = None
    guide: Guide | None = None
    negative_guide: Guide | None = None
    enlarged: Tensor | None = None
    backend: str = "dense"

    def to_raster(self, tokens: Tensor) -> Tensor:
        return tokens if self.inverse is None else tokens[:, self.inverse]

    def from_raster(self, tokens: Tensor) -> Tensor:
        return tokens if self.order is None else tokens[:, self.order]


@dataclass(frozen=True)
class SequenceBuilder:
    """Lays out the tokens of stages.

    Attributes:
        transformer, options, routing, backend: as in `StageLoop`.
    """

    transformer: nn.Module
    options: HighResOptions
    routing: LoraRouting | None
    backend: str

    def first(self, grid: Grid, device: torch.device) -> StageSequence:
        """A stage without a guide; every token sees every other."""
        return StageSequence(self._anchors(grid).to(device), dense_attention)

    def guided(
        self,
        tokens: Tensor,
        grid: Grid,
        low_grid: Grid,
        texts: list[Tensor | None],
        guidance: Tensor | None,
    ) -> StageSequence:
        """A stage that is guided by the one before.

        Args:
            tokens: packed finished latents of the stage before `[B, G, C]`, in raster order.
            grid, low_grid: of this stage and of the one before.
            texts: pooled text `[B, P]` (None where the model takes none) of the words, and of the negative
                words when their pass needs a guide of its own.
            guidance: `[B]`, for transformers with a guidance embedding.
        """
        ids, guide_ids = self._anchors(grid), self._anchors(low_grid, grid)
        layout = self.options.layout(grid, low_grid)
        sequence = self._image(ids, layout, tokens)
        if self.options.guide != "cached":
            if layout is not None:
                own = layout.guide_order.order
                tokens, guide_ids = tokens[:, own.to(tokens.device)], guide_ids[own]
            return replace(sequence, guide=LiveGuide(tokens, guide_ids.to(tokens.device)))
        guides = [self._encode(tokens, guide_ids, layout, pooled, guidance) for pooled in texts]
        return replace(sequence, guide=guides[0], negative_guide=guides[1] if len(guides) > 1 else None)

    def _anchors(self, grid: Grid, full: Grid | None = None) -> Tensor:
        model: Any = self.transformer
        return anchors(grid, full, rule=self.options.anchors, axes=len(model.pos_embed.axes_dim))

    def _image(self, ids: Tensor, layout: AttentionLayout | None, tokens: Tensor) -> StageSequence:
        """The stage without its guide; `tokens` of the guide give number, dtype and device."""
        if layout is None:
            live = 0 if self.options.guide == "cached" else tokens.shape[1]
            reads = self.options.guide == "reads_text"
            return StageSequence(ids.to(tokens.device), lambda width: dense_attention(width, live, reads))
        order = layout.image_order
        model: Any = self.transformer
        heads, size = model.config.num_attention_heads, model.config.attention_head_dim
        query = tokens.new_empty(1).expand(len(tokens), layout.length, heads, size)
        return StageSequence(
            ids[order.order].to(tokens.device),
            lambda width: local_attention(replace(layout, text=width), self.backend),
            order.order.to(tokens.device),
            order.inverse.to(tokens.device),
            backend=choose(layout, query, self.backend).backend,
        )

    def _encode(
        self,
        tokens: Tensor,
        ids: Tensor,
        layout: AttentionLayout | None,
        pooled: Tensor | None,
        guidance: Tensor | None,
    ) -> GuideCache:
        """Keys and values of the guide in the order that `layout` expects."""
        alone = None if layout is None else guide_layout(layout)
        order = torch.arange(tokens.shape[1]) if alone is None else alone.image_order.order
        attend = dense_attention(0) if alone is None else local_attention(alone, self.backend)
        cache = encode_guide(
            self.transformer,
            tokens[:, order.to(tokens.device)],
            pooled,
            ids[order].to(tokens.device),
            attend,
            guidance,
            rope=self.options.rope,
            routing=self.routing,
        )
        if layout is None:
            return cache
        back = torch.argsort(order)[layout.guide_order.order].to(tokens.device)
        return [(key[:, back], value[:, back]) for key, value in cache]


def pick_rows(guide: Guide, rows: list[int]) -> Guide:
    """The guide of some pictures of a batch."""
    if isinstance(guide, LiveGuide):
        return replace(guide, tokens=guide.tokens[rows])
    return [(key[rows], value[rows]) for key, value in guide]
