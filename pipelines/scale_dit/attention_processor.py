"""Local attention for any diffusers transformer: a processor that wraps the model's own.

The wrapped processor projects, normalises and rotates as ever. While it runs, its call of
`scaled_dot_product_attention` is answered by the local attention of `kernels/local_attention`: one class
serves every family whose image tokens form a grid, whatever else its processor does.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.kernels.local_attention.op import hierarchical_local_attention


class ScaleDiTAttnProcessor:
    """Runs `processor` with self-attention limited by `layout`. Cross-attention passes through.

    Args:
        processor: the attention module's own processor.
        layout: grid, reach and guide of the image tokens; its `text` must be 0: all tokens beyond its image
            and guide are taken as text, however many a prompt has.
        text: whether text comes "first" (FLUX, Qwen-Image) or "last" (Stable Diffusion 3) in the sequence.
            Guide tokens follow the image's.
        tokens: "raster" for image (and guide) tokens row by row, as models have them; "ordered" when they
            are in the layout's order already, which saves a gather per layer.
        backend: "auto" or a name of `kernels/local_attention`.
    Raises:
        ValueError: a layout with text, or when called: a sequence shorter than the layout, a mask, dropout or
            causal attention, or a processor that doesn't call `scaled_dot_product_attention`.
    """

    def __init__(
        self,
        processor: Any,
        layout: AttentionLayout,
        *,
        text: Literal["first", "last"] = "first",
        tokens: Literal["raster", "ordered"] = "raster",
        backend: str = "auto",
    ) -> None:
        if layout.text:
            raise ValueError(f"the layout has {layout.text} text tokens; give 0, each call counts its own")
        for name, value, allowed in (
            ("text", text, ("first", "last")),
            ("tokens", tokens, ("raster", "ordered")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
        self.processor, self.layout, self.backend = processor, layout, backend
        self.text, self.tokens = text, tokens
        self._orders: dict[tuple[int, torch.device], tuple[Tensor, Tensor] | None] = {}
        # diffusers reads this signature to learn which keyword arguments a processor takes
        self.__dict__["__call__"] = processor.__call__

    def __call__(self, attn: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with _Answer(self._attend) as answer:
            out = self.processor(attn, *args, **kwargs)
        if not answer.calls:
            name = type(self.processor).__name__
            raise ValueError(f"{name} didn't call scaled_dot_product_attention; use the native backend")
        return out

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """`F.scaled_dot_product_attention`'s signature and shapes: `[B, H, S, D]`."""
        length = query.shape[2]
        if key.shape[2] != length:
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        if attn_mask is not None or dropout_p or is_causal:
            raise ValueError("local attention takes no mask, no dropout and no causal order")
        text = length - self.layout.length
        if text < 0:
            raise ValueError(f"the sequence has {length} tokens; the layout's alone are {self.layout.length}")
        if enable_gqa:
            groups = query.shape[1] // key.shape[1]
            key, value = (part.repeat_interleave(groups, 1) for part in (key, value))
        rows = [part.transpose(1, 2) for part in (query, key, value)]
        order = self._order(text, query.device)
        if order is not None:
            rows = [part.index_select(1, order[0]) for part in rows]
        layout = replace(self.layout, text=text)
        out = hierarchical_local_attention(*rows, layout, scale=scale, backend=self.backend)
        if order is not None:
            out = out.index_select(1, order[1])
        return out.transpose(1, 2)

    def _order(self, text: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """From the model's sequence to the layout's and back; None: they are the same."""
        key = (text, device)
        if key not in self._orders:
            layout, start = self.layout, text if self.text == "first" else 0
            image, guide = torch.arange(layout.image), torch.arange(layout.guide)
            if self.tokens == "raster":
                image = layout.image_order.order
                guide = layout.guide_order.order if layout.guide else guide
            words = torch.arange(text) + (0 if self.text == "first" else layout.length)
            order = torch.cat([words, image + start, guide + start + layout.image])
            same = torch.equal(order, torch.arange(len(order)))
            self._orders[key] = None if same else (order.to(device), torch.argsort(order).to(device))
        return self._orders[key]


class _Answer(TorchFunctionMode):
    """Within the block, calls of `scaled_dot_product_attention` go to `attend`; `calls` counts them."""

    def __init__(self, attend: Callable[..., Tensor]) -> None:
        super().__init__()
        self.attend, self.calls = attend, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.calls += 1
            return self.attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def use_local_attention(model: nn.Module, layout: AttentionLayout, **options: Any) -> None:
    """Put `ScaleDiTAttnProcessor` on every self-attention of a diffusers transformer.

    Args:
        layout, options: as for `ScaleDiTAttnProcessor`. A second call replaces the first one's.
    Raises:
        ValueError: the model has no attention processors.
    """
    use_stock_attention(model)
    modules = [module for module in model.modules() if _is_self_attention(module)]
    if not modules:
        raise ValueError(f"{type(model).__name__} has no attention processors")
    for module in modules:
        module.set_processor(ScaleDiTAttnProcessor(module.processor, layout, **options))


def use_stock_attention(model: nn.Module) -> None:
    """Undo `use_local_attention`."""
    for module in model.modules():
        if isinstance(getattr(module, "processor", None), ScaleDiTAttnProcessor):
            module.set_processor(module.processor.processor)


def _is_self_attention(module: Any) -> bool:
    return hasattr(module, "set_processor") and not getattr(module, "is_cross_attention", False)
