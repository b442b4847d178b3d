"""Video UNet: a stock image UNet with convolution and attention along time between its layers.

Shape letters: B videos, F frames, C channels, H and W latent rows and columns, L text tokens, J text width.
Source: arXiv 2309.03549 (VidRD), arXiv 2304.08818 (VideoLDM).
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_3d_condition import UNet3DConditionOutput
from torch import nn

from pipelines.vidrd.temporal_layers import (
    MotionEmbedding,
    TemporalConvLayer,
    frame_positions,
    join_frames,
    norm_over_frames,
    split_frames,
)

CONV_DEPTH = 4
BLOCKS = (
    "CrossAttnDownBlock2D", "DownBlock2D", "UNetMidBlock2DCrossAttn", "CrossAttnUpBlock2D", "UpBlock2D",
)  # fmt: skip
# what of a stock image UNet's config this model takes over; everything else must be at its default
IMAGE_FIELDS = (
    "sample_size", "in_channels", "out_channels", "center_input_sample", "flip_sin_to_cos", "freq_shift",
    "down_block_types", "mid_block_type", "up_block_types", "only_cross_attention", "block_out_channels",
    "layers_per_block", "downsample_padding", "mid_block_scale_factor", "act_fn", "norm_num_groups",
    "norm_eps", "cross_attention_dim", "attention_head_dim", "use_linear_projection", "upcast_attention",
    "resnet_time_scale_shift",
)  # fmt: skip


class VidRDUNet3DModel(ModelMixin, AttentionMixin, ConfigMixin, PeftAdapterMixin):
    """The denoiser of VidRD. Its image layers carry the keys of `UNet2DConditionModel` unchanged.

    Each layer is resnet, temporal convolution, then (where the block has attention) self-attention,
    cross-attention, temporal attention and feed-forward. Convolutions run frame by frame; group norms of the
    resnets and of the output pool over all frames of a video, so a clip can't be cut along time without a
    change of its result. Temporal layers start at zero.

    Args:
        down_block_types, mid_block_type, up_block_types: names of stock blocks; "3D" in place of "2D" is read
            as well (published configs have it).
        add_temp_conv: temporal convolutions after the resnets.
        add_temp_embed: positions of frames before each temporal attention.
        temp_embed_at: where they are added. "residual", as published: to the residual stream itself, also of
            single frames: not even for one frame is it the image model then. "attention": to what the
            temporal attention reads, so that image layers are left alone.
        add_temp_attn_only_on_upblocks: no temporal attention in down and mid blocks.
        add_motion_embed: the text shifts the time embedding of each frame (`MotionEmbedding`; ours).
        knows_context: the weights have seen clean frames among noisy ones, told by the times of frames (as in
            Diffusion Forcing, arXiv 2407.01392), so a clip can go on from frames that are there already.
        prepend_first_frame: self-attention of frame f sees frames 0 and f - 1 instead of itself.
        add_temp_transformer: must be False (its published form mixes up axes unless it does nothing).
        Others: as in `UNet2DConditionModel`.
    Raises:
        ValueError: a block that isn't one of a text-to-image UNet, or channels that aren't multiples of 32.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["BasicTransformerBlock", "ResnetBlock2D"]

    @register_to_config
    def __init__(
        self,
        sample_size: int | None = None,
        in_channels: int = 4,
        out_channels: int = 4,
        center_input_sample: bool = False,
        flip_sin_to_cos: bool = True,
        freq_shift: int = 0,
        down_block_types: tuple[str, ...] = (*("CrossAttnDownBlock3D",) * 3, "DownBlock3D"),
        mid_block_type: str = "UNetMidBlock3DCrossAttn",
        up_block_types: tuple[str, ...] = ("UpBlock3D", *("CrossAttnUpBlock3D",) * 3),
        only_cross_attention: bool | tuple[bool, ...] = False,
        block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
        layers_per_block: int | tuple[int, ...] = 2,
        downsample_padding: int = 1,
        mid_block_scale_factor: float = 1.0,
        act_fn: str = "silu",
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
        cross_attention_dim: int | tuple[int, ...] = 1024,
        attention_head_dim: int | tuple[int, ...] = (5, 10, 20, 20),
        use_linear_projection: bool = True,
        upcast_attention: bool = False,
        resnet_time_scale_shift: str = "default",
        add_temp_conv: bool = True,
        add_temp_embed: bool = True,
        temp_embed_at: str = "residual",
        add_temp_attn_only_on_upblocks: bool = False,
        add_motion_embed: bool = False,
        knows_context: bool = False,
        prepend_first_frame: bool = False,
        add_temp_transformer: bool = False,
    ) -> None:
        super().__init__()
        if add_temp_transformer:
            raise ValueError("add_temp_transformer is True; only models without that layer can be run")
        if temp_embed_at not in ("residual", "attention"):
            raise ValueError(f"temp_embed_at is {temp_embed_at!r}; it must be residual or attention")
        options = {name: self.config[name] for name in IMAGE_FIELDS}
        for field in ("down_block_types", "up_block_types"):
            options[field] = tuple(_image_block(name) for name in options[field])
        options["mid_block_type"] = _image_block(mid_block_type)
        image = UNet2DConditionModel(**options)
        self.conv_in, self.time_proj, self.time_embedding = (
            image.conv_in,
            image.time_proj,
            image.time_embedding,
        )
        self.down_blocks, self.mid_block, self.up_blocks = image.down_blocks, image.mid_block, image.up_blocks
        self.conv_norm_out, self.conv_act, self.conv_out = image.conv_norm_out, image.conv_act, image.conv_out
        if add_motion_embed:
            self.temp_motion = MotionEmbedding(
                cross_attention_dim if isinstance(cross_attention_dim, int) else cross_attention_dim[0],
                image.time_embedding.linear_2.out_features,
            )
        self.gradient_checkpointing = False
        for block in (*self.down_blocks, self.mid_block, *self.up_blocks):
            if add_temp_conv:
                widths = [resnet.out_channels for resnet in block.resnets]
                block.temp_convs = nn.ModuleList(TemporalConvLayer(width, CONV_DEPTH) for width in widths)
        attending = self.up_blocks if add_temp_attn_only_on_upblocks else (
            *self.down_blocks, self.mid_block, *self.up_blocks
        )  # fmt: skip
        for block in attending:
            for transformer in getattr(block, "attentions", ()):
                for layer in transformer.transformer_blocks:
                    _add_temporal_attention(layer, **_heads(transformer))

    @classmethod
    def from_unet2d(cls, unet: UNet2DConditionModel, **temporal: Any) -> "VidRDUNet3DModel":
        """A video model with the weights of an image model and fresh temporal layers.

        Args:
            unet: source; its weights are copied.
            temporal: options of this class that an image model lacks, for instance `add_temp_embed=False`.
        Raises:
            ValueError: the image model uses options that this class lacks.
        """
        model = cls(**{name: unet.config[name] for name in IMAGE_FIELDS}, **temporal)
        missing, unexpected = model.load_state_dict(unet.state_dict(), strict=False)
        foreign = [name for name in missing if not is_temporal(name)] + unexpected
        if foreign:
            raise ValueError(f"the image UNet has other parts than a plain text-to-image one: {foreign[:4]}")
        return nn.Module.to(model, unet.dtype)  # diffusers' own method warns of every dtype

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        encoder_hidden_states: torch.Tensor,
        return_dict: bool = True,
    ) -> UNet3DConditionOutput | tuple[torch.Tensor]:
        """Predict noise, velocity or whatever the weights were trained for.

        Args:
            sample: `[B, C, F, H, W]`.
            timestep: one number, `[B]`, or `[B, F]`: frames may be at noise levels of their own (only with
                weights that were trained so: `knows_context`).
            encoder_hidden_states: text `[B, L, J]`; all frames of a video read the same.
        Returns:
            `sample`, `[B, C_out, F, H, W]`.
        """
        batch, channels, num_frames, height, width = sample.shape
        if self.config.center_input_sample:
            sample = 2 * sample - 1.0
        # 1. time
        times = torch.as_tensor(timestep, device=sample.device)
        times = (times if times.ndim == 2 else times.reshape(-1, 1)).expand(batch, -1)
        emb = self.time_embedding(self.time_proj(times.flatten()).to(sample.dtype))
        emb = emb.unflatten(0, times.shape)  # [B, 1 or F, E]
        if self.config.add_motion_embed and num_frames > 1:
            emb = emb + self.temp_motion(encoder_hidden_states, num_frames)
        # 2. down
        x = self.conv_in(sample.transpose(1, 2).reshape(batch * num_frames, channels, height, width))
        skips = [x]
        for block in self.down_blocks:
            for index in range(len(block.resnets)):
                x = self._layer(block, index, x, emb, encoder_hidden_states, num_frames)
                skips.append(x)
            for downsampler in block.downsamplers or ():
                x = downsampler(x)
                skips.append(x)
        # 3. middle: its only transformer stands between two resnets
        x = self._layer(self.mid_block, 0, x, emb, encoder_hidden_states, num_frames)
        x = self._run(self._resnet, self.mid_block, 1, x, emb, num_frames)
        # 4. up
        for block in self.up_blocks:
            for index in range(len(block.resnets)):
                x = torch.cat([x, skips.pop()], dim=1)
                x = self._layer(block, index, x, emb, encoder_hidden_states, num_frames)
            for upsampler in block.upsamplers or ():
                size = skips[-1].shape[-2:]  # odd sides come back as they were
                x = upsampler(x, None if size == (2 * x.shape[-2], 2 * x.shape[-1]) else size)
        # 5. out
        x = self.conv_out(self.conv_act(norm_over_frames(self.conv_norm_out, x, num_frames)))
        x = x.reshape(batch, num_frames, -1, height, width).transpose(1, 2)
        return UNet3DConditionOutput(sample=x) if return_dict else (x,)

    def _run(self, function: Callable[..., torch.Tensor], *arguments: Any) -> torch.Tensor:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(function, *arguments)
        return function(*arguments)

    def _layer(
        self,
        block: nn.Module,
        index: int,
        x: torch.Tensor,
        emb: torch.Tensor,
        text: torch.Tensor,
        num_frames: int,
    ) -> torch.Tensor:
        """Resnet and temporal convolution `index` of a block, then its transformer where it has one."""
        x = self._run(self._resnet, block, index, x, emb, num_frames)
        if getattr(block, "has_cross_attention", False):
            x = self._run(self._transformer, block.attentions[index], x, text, num_frames)
        return x

    @staticmethod
    def _resnet(
        block: nn.Module, index: int, x: torch.Tensor, emb: torch.Tensor, num_frames: int
    ) -> torch.Tensor:
        """A stock resnet with norms over all frames, and the temporal convolution behind it."""
        resnet = block.resnets[index]
        change = resnet.nonlinearity(norm_over_frames(resnet.norm1, x, num_frames))
        change = join_frames(resnet.conv1(change), num_frames)
        emb = resnet.time_emb_proj(resnet.nonlinearity(emb)).mT[..., None]
        if emb.shape[2] > 1:
            emb = emb.repeat_interleave(change.shape[2] // num_frames, dim=2)
        if resnet.time_embedding_norm == "scale_shift":
            scale, shift = emb.chunk(2, dim=1)
            change = resnet.norm2(change) * (1 + scale) + shift
        else:
            change = resnet.norm2(change + emb)
        change = split_frames(resnet.dropout(resnet.nonlinearity(change)), num_frames)
        if resnet.conv_shortcut is not None:
            x = resnet.conv_shortcut(x)
        x = (x + resnet.conv2(change)) / resnet.output_scale_factor
        temporal = getattr(block, "temp_convs", None)
        return x if temporal is None else temporal[index](x, num_frames)

    def _transformer(
        self, transformer: nn.Module, x: torch.Tensor, text: torch.Tensor, num_frames: int
    ) -> torch.Tensor:
        """A stock image transformer whose layers also attend along time; its own norm stays per frame."""
        count, _, height, width = x.shape
        change = transformer.norm(x)
        if not transformer.use_linear_projection:
            change = transformer.proj_in(change)
        tokens = change.permute(0, 2, 3, 1).reshape(count, height * width, -1)
        if transformer.use_linear_projection:
            tokens = transformer.proj_in(tokens)
        for layer in transformer.transformer_blocks:
            tokens = self._attend(layer, tokens, text, num_frames)
        if transformer.use_linear_projection:
            tokens = transformer.proj_out(tokens)
        change = tokens.reshape(count, height, width, -1).permute(0, 3, 1, 2)
        if not transformer.use_linear_projection:
            change = transformer.proj_out(change)
        return x + change

    def _attend(self, layer: nn.Module, x: torch.Tensor, text: torch.Tensor, num_frames: int) -> torch.Tensor:
        """One transformer layer on `[B * F, H * W, C]`."""
        count, places, channels = x.shape
        batch = count // num_frames
        tokens = layer.norm1(x)
        if layer.only_cross_attention:
            x = x + self._read_text(layer.attn1, tokens, text)
        elif self.config.prepend_first_frame and num_frames > 1:
            x = x + layer.attn1(tokens, encoder_hidden_states=_first_and_previous(tokens, num_frames))
        else:
            x = x + layer.attn1(tokens)
        x = x + self._read_text(layer.attn2, layer.norm2(x), text)
        if hasattr(layer, "temp_attn"):
            x = x.reshape(batch, num_frames, places, channels)
            positions = frame_positions(num_frames, channels, x) if self.config.add_temp_embed else None
            if positions is not None and self.config.temp_embed_at == "residual":
                x, positions = x + positions[:, None], None
            if num_frames > 1:
                tokens = x.transpose(1, 2).reshape(batch * places, num_frames, channels)
                tokens = layer.temp_norm(tokens)
                if positions is not None:
                    tokens = tokens + positions
                change = layer.temp_attn(tokens)
                x = x + change.reshape(batch, places, num_frames, channels).transpose(1, 2)
            x = x.reshape(count, places, channels)
        return x + layer.ff(layer.norm3(x))

    @staticmethod
    def _read_text(attention: Attention, tokens: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Cross-attention of all frames of a video at once: keys and values are computed once per video."""
        flat = tokens.reshape(len(text), -1, tokens.shape[-1])
        return attention(flat, encoder_hidden_states=text).reshape(tokens.shape)


def is_temporal(key: str) -> bool:
    """Whether a parameter belongs to a layer that the image model lacks."""
    return ".temp_" in key or key.startswith("temp_")


def _image_block(name: str) -> str:
    """The stock name of a block."""
    stock = name.replace("3D", "2D")
    if stock not in BLOCKS:
        raise ValueError(f"block {name!r} can't be run over frames; allowed: {', '.join(BLOCKS)}")
    return stock


def _heads(transformer: nn.Module) -> dict[str, int]:
    config = transformer.config
    return {"heads": config.num_attention_heads, "dim_head": config.attention_head_dim}


def _add_temporal_attention(layer: nn.Module, heads: int, dim_head: int) -> None:
    layer.temp_norm = nn.LayerNorm(heads * dim_head)
    layer.temp_attn = Attention(heads * dim_head, heads=heads, dim_head=dim_head)
    nn.init.zeros_(layer.temp_attn.to_out[0].weight)
    nn.init.zeros_(layer.temp_attn.to_out[0].bias)


def _first_and_previous(tokens: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Keys of sparse-causal attention: `[B * F, P, C]` to `[B * F, 2 P, C]`, frames 0 and max(f - 1, 0)."""
    frames = tokens.reshape(-1, num_frames, *tokens.shape[1:])
    first = frames[:, :1].expand_as(frames)
    previous = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    return torch.cat([first, previous], dim=2).flatten(0, 1)
