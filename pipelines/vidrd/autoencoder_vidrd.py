"""Image autoencoder whose decoder also looks along time.

Shape letters: B videos, F frames, C channels, h and w latent rows and columns.
Source: arXiv 2309.03549 (VidRD); tuning the decoder alone is the recipe of arXiv 2304.08818 (VideoLDM).
"""

import torch
from diffusers import AutoencoderKL, ModelMixin  # noqa: F401  (from_pretrained looks ModelMixin up here)
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn

from pipelines.vidrd.temporal_layers import TemporalConvLayer

CONV_DEPTH = 3


class VidRDAutoencoderKL(AutoencoderKL):
    """`AutoencoderKL` with a temporal convolution after each resnet of the decoder's up blocks.

    Encoder, latents and image layers are those of the stock class, with its keys; the weights of a stock
    autoencoder load with `from_image_vae`. Everything but the temporal convolutions works frame by frame.

    Args:
        add_temp_conv: False gives the stock decoder. Others: as in `AutoencoderKL`.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",),
        up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",),
        block_out_channels: tuple[int, ...] = (64,),
        layers_per_block: int = 1,
        act_fn: str = "silu",
        latent_channels: int = 4,
        norm_num_groups: int = 32,
        sample_size: int = 32,
        scaling_factor: float = 0.18215,
        shift_factor: float | None = None,
        latents_mean: tuple[float, ...] | None = None,
        latents_std: tuple[float, ...] | None = None,
        force_upcast: bool = True,
        use_quant_conv: bool = True,
        use_post_quant_conv: bool = True,
        mid_block_add_attention: bool = True,
        add_temp_conv: bool = True,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            down_block_types=down_block_types,
            up_block_types=up_block_types,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            act_fn=act_fn,
            latent_channels=latent_channels,
            norm_num_groups=norm_num_groups,
            sample_size=sample_size,
            scaling_factor=scaling_factor,
            shift_factor=shift_factor,
            latents_mean=latents_mean,
            latents_std=latents_std,
            force_upcast=force_upcast,
            use_quant_conv=use_quant_conv,
            use_post_quant_conv=use_post_quant_conv,
            mid_block_add_attention=mid_block_add_attention,
        )
        if add_temp_conv:
            for block in self.decoder.up_blocks:
                widths = [resnet.out_channels for resnet in block.resnets]
                block.temp_convs = nn.ModuleList(TemporalConvLayer(width, CONV_DEPTH) for width in widths)

    @classmethod
    def from_image_vae(cls, vae: AutoencoderKL) -> "VidRDAutoencoderKL":
        """A copy of an image autoencoder with fresh temporal convolutions: at first it decodes the same."""
        own = {"add_temp_conv"}
        fields = {name: value for name, value in vae.config.items() if name in cls._fields() - own}
        model = cls(**fields)
        missing, unexpected = model.load_state_dict(vae.state_dict(), strict=False)
        assert not unexpected and all(".temp_convs." in name for name in missing)
        return nn.Module.to(model, vae.dtype)  # diffusers' own method warns of every dtype

    @classmethod
    def _fields(cls) -> set[str]:
        return set(cls._get_init_keys(cls))

    @apply_forward_hook
    def decode(
        self,
        z: torch.Tensor,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
        num_frames: int = 1,
    ) -> DecoderOutput | tuple[torch.Tensor]:
        """Decode `num_frames` frames of each video together.

        Args:
            z: `[B * F, C, h, w]`, the frames of one video together; not scaled.
            generator: accepted for the stock signature; nothing is drawn.
            num_frames: F; 1 gives what the stock autoencoder gives.
        Returns:
            `sample`, `[B * F, 3, H, W]`. With `enable_slicing` videos are decoded one after the other, with
            `enable_tiling` large ones in overlapping tiles of all frames; frames are never taken apart.
        Raises:
            ValueError: the number of latents is not a multiple of `num_frames`.
        """
        if num_frames < 1 or z.shape[0] % num_frames:
            raise ValueError(f"{z.shape[0]} latents are no whole number of videos of {num_frames} frames")
        parts = z.split(num_frames) if self.use_slicing else (z,)
        decoded = torch.cat([self._decode_videos(part, num_frames) for part in parts])
        return DecoderOutput(sample=decoded) if return_dict else (decoded,)

    def _decode_videos(self, z: torch.Tensor, num_frames: int) -> torch.Tensor:
        if self.use_tiling and max(z.shape[-2:]) > self.tile_latent_min_size:
            return self._decode_tiles(z, num_frames)
        return self._decode_whole(z, num_frames)

    def _decode_whole(self, z: torch.Tensor, num_frames: int) -> torch.Tensor:
        decoder = self.decoder
        x = z if self.post_quant_conv is None else self.post_quant_conv(z)
        x = decoder.mid_block(decoder.conv_in(x))
        for block in decoder.up_blocks:
            temporal = getattr(block, "temp_convs", None)
            for index, resnet in enumerate(block.resnets):
                x = resnet(x, None)
                if temporal is not None:
                    x = temporal[index](x, num_frames)
            for upsampler in block.upsamplers or ():
                x = upsampler(x)
        return decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(x)))

    def _decode_tiles(self, z: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Overlapping tiles of all frames, faded into each other over the overlap."""
        side, scale = self.tile_latent_min_size, 2 ** (len(self.decoder.up_blocks) - 1)
        step = max(1, int(side * (1 - self.tile_overlap_factor)))
        overlap, (height, width) = (side - step) * scale, z.shape[-2:]
        total = z.new_zeros(len(z), self.config.out_channels, height * scale, width * scale)
        weight = z.new_zeros(height * scale, width * scale)
        for top in _starts(height, side, step):
            for left in _starts(width, side, step):
                tile = self._decode_whole(z[:, :, top : top + side, left : left + side], num_frames)
                rows, columns = tile.shape[-2:]
                mask = _fade(rows, overlap, tile)[:, None] * _fade(columns, overlap, tile)
                down = slice(top * scale, top * scale + rows)
                across = slice(left * scale, left * scale + columns)
                total[:, :, down, across] += tile * mask
                weight[down, across] += mask
        return total / weight


def _starts(length: int, side: int, step: int) -> list[int]:
    """First rows of tiles that cover `length`; the last one ends at the border."""
    last = max(length - side, 0)
    return [*range(0, last, step), last]


def _fade(length: int, overlap: int, like: torch.Tensor) -> torch.Tensor:
    """Weights that rise over `overlap` from both ends and stay positive."""
    ramp = (torch.arange(length, device=like.device, dtype=like.dtype) + 1) / max(overlap, 1)
    return torch.minimum(ramp, ramp.flip(0)).clamp(max=1.0)
