"""Where FLUX.1 and FLUX.2 differ: how the layers of either stock transformer are called for some tokens.

Weights and module names are diffusers'. Both lines have double blocks (text and image with weights of their
own, joined in attention) and single blocks (one stream); guide tokens share the image's weights.
"""

# Shape letters: B batch, S tokens of a stream, H heads, D head dim, C channels.

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.scale_dit.lora_routing import LoraRouting, Role


@dataclass
class Stream:
    """Tokens that share weights and modulation.

    Attributes:
        role: "text", "image", "guide", or "joint" for text and image in one.
        tokens: `[B, S, C]`; blocks replace them.
        condition: what `ModelLine.condition` made of the time embedding.
    """

    role: Role
    tokens: Tensor
    condition: Any


class DoubleLayers(NamedTuple):
    """Layers of a double block that serve one role."""

    query: nn.Module
    key: nn.Module
    value: nn.Module
    query_norm: nn.Module
    key_norm: nn.Module
    out: nn.Module
    first_norm: nn.Module
    second_norm: nn.Module
    feed_forward: Any


class ModelLine(ABC):
    """Calls the layers of one stock transformer.

    Args:
        transformer: `FluxTransformer2DModel` or `Flux2Transformer2DModel`.
        routing: which tokens pass through a routed LoRA adapter, or None.
    """

    def __init__(self, transformer: nn.Module, routing: LoraRouting | None) -> None:
        self.transformer: Any = transformer
        self.routing = routing

    @staticmethod
    def of(transformer: nn.Module, routing: LoraRouting | None = None) -> "ModelLine":
        """The line that a transformer belongs to."""
        line = Flux1Line if hasattr(transformer, "time_text_embed") else Flux2Line
        return line(transformer, routing)

    def linear(self, layer: nn.Module, x: Tensor, role: Role, is_qkv: bool = False) -> Tensor:
        """A linear layer, its LoRA adapters routed."""
        return layer(x) if self.routing is None else self.routing.call(layer, x, role, is_qkv)

    def embed(self, tokens: Tensor, role: Role, temb: Tensor) -> Stream:
        """A stream from packed latents or text states."""
        layer = self.transformer.context_embedder if role == "text" else self.transformer.x_embedder
        return Stream(role, self.linear(layer, tokens, role), self.condition(role, temb))

    def double_layers(self, block: Any, role: Role) -> DoubleLayers:
        attn = block.attn
        if role == "text":
            return DoubleLayers(
                attn.add_q_proj, attn.add_k_proj, attn.add_v_proj, attn.norm_added_q, attn.norm_added_k,
                attn.to_add_out, block.norm1_context, block.norm2_context, block.ff_context,
            )  # fmt: skip
        return DoubleLayers(
            attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k,
            attn.to_out[0], block.norm1, block.norm2, block.ff,
        )  # fmt: skip

    @abstractmethod
    def embed_time(self, timestep: Tensor, pooled: Tensor | None, guidance: Tensor | None) -> Tensor:
        """Time embedding `[B, C]`; timestep in [0, 1] and guidance, both `[B]`."""

    @abstractmethod
    def condition(self, role: Role, temb: Tensor) -> Any:
        """What the modulations of a role are made from."""

    @abstractmethod
    def text_ids(self, length: int, image_ids: Tensor) -> Tensor:
        """Positions of text tokens, with the leading axes and device of `image_ids`."""

    @abstractmethod
    def double_modulation(self, layers: DoubleLayers, stream: Stream) -> tuple[Tensor, ...]:
        """Shift, scale and gate of attention, then of the feed-forward layer: six `[B, 1, C]`."""

    @abstractmethod
    def first_norm(self, layers: DoubleLayers, x: Tensor) -> Tensor:
        """The norm before attention, unmodulated."""

    @abstractmethod
    def feed_forward(self, layer: Any, x: Tensor, role: Role) -> Tensor: ...

    @abstractmethod
    def single_modulation(self, block: Any, stream: Stream) -> tuple[Tensor, ...]:
        """Shift, scale and gate of a single block: three `[B, 1, C]`."""

    @abstractmethod
    def single_norm(self, block: Any, x: Tensor) -> Tensor: ...

    @abstractmethod
    def single_project(self, block: Any, normed: Tensor, role: Role) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Query, key, value `[B, S, H D]`, and what `single_out` wants beside the attention's output."""

    @abstractmethod
    def single_out(self, block: Any, attended: Tensor, rest: Tensor, role: Role) -> Tensor: ...


class Flux1Line(ModelLine):
    """FLUX.1: modulations per block, pooled text in the time embedding, text at position 0."""

    def embed_time(self, timestep: Tensor, pooled: Tensor | None, guidance: Tensor | None) -> Tensor:
        embed = self.transformer.time_text_embed
        if guidance is None:
            return embed(timestep * 1000, pooled)
        return embed(timestep * 1000, guidance.to(timestep.dtype) * 1000, pooled)

    def condition(self, role: Role, temb: Tensor) -> Tensor:
        return F.silu(temb)

    def text_ids(self, length: int, image_ids: Tensor) -> Tensor:
        return image_ids.new_zeros(*image_ids.shape[:-2], length, image_ids.shape[-1])

    def double_modulation(self, layers: DoubleLayers, stream: Stream) -> tuple[Tensor, ...]:
        norm: Any = layers.first_norm
        return self.linear(norm.linear, stream.condition, stream.role)[:, None].chunk(6, -1)

    def first_norm(self, layers: DoubleLayers, x: Tensor) -> Tensor:
        norm: Any = layers.first_norm
        return norm.norm(x)

    def feed_forward(self, layer: Any, x: Tensor, role: Role) -> Tensor:
        activation, dropout, out = layer.net
        inner = F.gelu(self.linear(activation.proj, x, role), approximate=activation.approximate)
        return self.linear(out, dropout(inner), role)

    def single_modulation(self, block: Any, stream: Stream) -> tuple[Tensor, ...]:
        return self.linear(block.norm.linear, stream.condition, stream.role)[:, None].chunk(3, -1)

    def single_norm(self, block: Any, x: Tensor) -> Tensor:
        return block.norm.norm(x)

    def single_project(self, block: Any, normed: Tensor, role: Role) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        attn = block.attn
        query, key, value = (
            self.linear(layer, normed, role, is_qkv=True) for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        return query, key, value, normed

    def single_out(self, block: Any, attended: Tensor, rest: Tensor, role: Role) -> Tensor:
        inner = block.act_mlp(self.linear(block.proj_mlp, rest, role))
        return self.linear(block.proj_out, torch.cat([attended, inner], 2), role)


class Flux2Line(ModelLine):
    """FLUX.2: modulations shared by all blocks, fused projections, text numbered on an axis of its own."""

    def embed_time(self, timestep: Tensor, pooled: Tensor | None, guidance: Tensor | None) -> Tensor:
        scaled = None if guidance is None else guidance.to(timestep.dtype) * 1000
        return self.transformer.time_guidance_embed(timestep * 1000, scaled)

    def condition(self, role: Role, temb: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        model, active = self.transformer, F.silu(temb)
        double = model.double_stream_modulation_txt if role == "text" else model.double_stream_modulation_img
        return (
            self.linear(double.linear, active, role)[:, None].chunk(6, -1),
            self.linear(model.single_stream_modulation.linear, active, role)[:, None].chunk(3, -1),
        )

    def text_ids(self, length: int, image_ids: Tensor) -> Tensor:
        ids = image_ids.new_zeros(*image_ids.shape[:-2], length, image_ids.shape[-1])
        ids[..., -1] = torch.arange(length, device=ids.device)
        return ids

    def double_modulation(self, layers: DoubleLayers, stream: Stream) -> tuple[Tensor, ...]:
        return stream.condition[0]

    def first_norm(self, layers: DoubleLayers, x: Tensor) -> Tensor:
        return layers.first_norm(x)

    def feed_forward(self, layer: Any, x: Tensor, role: Role) -> Tensor:
        return self.linear(layer.linear_out, layer.act_fn(self.linear(layer.linear_in, x, role)), role)

    def single_modulation(self, block: Any, stream: Stream) -> tuple[Tensor, ...]:
        return stream.condition[1]

    def single_norm(self, block: Any, x: Tensor) -> Tensor:
        return block.norm(x)

    def single_project(self, block: Any, normed: Tensor, role: Role) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        attn = block.attn
        fused = self.linear(attn.to_qkv_mlp_proj, normed, role)
        qkv, rest = fused.split([3 * attn.inner_dim, attn.mlp_hidden_dim * attn.mlp_mult_factor], -1)
        query, key, value = qkv.chunk(3, -1)
        return query, key, value, rest

    def single_out(self, block: Any, attended: Tensor, rest: Tensor, role: Role) -> Tensor:
        attn = block.attn
        return self.linear(attn.to_out, torch.cat([attended, attn.mlp_act_fn(rest)], -1), role)
