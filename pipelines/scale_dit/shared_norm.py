"""Group norms that use the statistics of the whole picture in every tile.

A tile of plain grass or sky has next to no variance of its own; normalised by itself it comes out in another
colour than the same grass in a whole decode. The statistics are therefore taken once, from a small decode (or
encode) of the whole, and used in all tiles.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

REFERENCE = 64  # longest side in latents of the decode that the statistics come from


@contextmanager
def shared_statistics(vae: nn.Module, latents: Tensor) -> Iterator[None]:
    """Within the block, the decoder's group norms use statistics of `latents` `[B, C, h, w]` as a whole."""

    def decode_small() -> None:
        vae.decode(_shrunk(latents, REFERENCE, vae))

    with _statistics_of(vae.decoder, decode_small):
        yield


@contextmanager
def shared_encoder_statistics(vae: nn.Module, pictures: Tensor) -> Iterator[None]:
    """Within the block, the encoder's group norms use statistics of `pictures` `[B, 3, H, W]` as a whole."""

    def encode_small() -> None:
        vae.encode(_shrunk(pictures, 8 * REFERENCE, vae))

    with _statistics_of(vae.encoder, encode_small):
        yield


def _shrunk(values: Tensor, longest: int, vae: nn.Module) -> Tensor:
    """The whole, averaged down to `longest` on its longer side, as the autoencoder takes it."""
    shrink = max(1.0, max(values.shape[-2:]) / longest)
    multiple = longest // REFERENCE  # 8 pixels per latent
    size = [max(multiple, round(side / shrink / multiple) * multiple) for side in values.shape[-2:]]
    small = F.interpolate(values, size=size, mode="area").to(vae.dtype)
    return small.contiguous(memory_format=torch.channels_last)


@contextmanager
def _statistics_of(network: nn.Module, run: Callable[[], None]) -> Iterator[None]:
    """Record every group norm's statistics during `run`, and use them within the block."""
    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
    statistics: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def record(norm: nn.GroupNorm, inputs: tuple[Tensor, ...]) -> None:
        groups = inputs[0].float().unflatten(1, (norm.num_groups, -1)).flatten(2)
        variance, mean = torch.var_mean(groups, dim=2, correction=0)
        scale = torch.rsqrt(variance + norm.eps)  # [B, groups]
        size = norm.num_channels // norm.num_groups
        gain = scale.repeat_interleave(size, 1) * norm.weight.float()
        shift = norm.bias.float() - mean.repeat_interleave(size, 1) * gain
        dtype = inputs[0].dtype
        statistics[norm] = gain[:, :, None, None].to(dtype), shift[:, :, None, None].to(dtype)

    handles = [norm.register_forward_pre_hook(record) for norm in norms]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()

    def apply(norm: nn.GroupNorm, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        gain, shift = statistics[norm]
        return torch.addcmul(shift, inputs[0], gain)

    handles = [norm.register_forward_hook(apply) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
