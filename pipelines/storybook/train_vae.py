"""Recipe of the autoencoder that all models share: AutoencoderKL, f8, 16 channels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from torch import nn

from pipelines.storybook.dataset import CropMix, crops, to_tensor
from pipelines.storybook.scene import SceneMix
from pipelines.training.group_norm import use_quick_group_norm
from pipelines.training.loop import LoopConfig, runtime_device

VAE_CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (32, 32, 64, 128),
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 16,
    "norm_num_groups": 8,
    "sample_size": 512,
    "scaling_factor": 1.0,
    "shift_factor": 0.0,
    "mid_block_add_attention": False,
}
SIZES = ((128, 0.3), (256, 0.25), (512, 0.15), (1024, 0.15), (2048, 0.08), (4096, 0.07))
HELD_OUT_SEED = 900_001
SMALL_CROPS = 40_000  # samples of 64 px before those of 128 px: at first, steps count more than pixels
EQUIVARIANCE_FROM = 10_000
NOISE = 0.02  # deviation of what is added to the normalised latents a decoder learns from


def vae_recipe() -> LoopConfig:
    """About two hours on two cores, some minutes on a GPU."""
    return LoopConfig(
        samples=200_000, batch=((0, 4), (120_000, 8)), lr=2e-3, muon_lr=4e-3, warmup=50, decay_from=0.5,
        ema_decay=0.998, weight_decay=0.0, adamw_names=("conv_in", "conv_out", "quant_conv"),
        evaluate_every_s=420,
    )  # fmt: skip


class VAETask:
    """L1, gradient and squared error, a light KL, and equivariance under halving of the latents.

    The equivariance term (decode the halved latents, compare with the halved picture; after EQ-VAE,
    arXiv:2502.09509) keeps latents smooth, which later lets stage n + 1 start from enlarged latents of
    stage n.
    """

    def __init__(self, kl: float = 1e-4, seed: int = 11) -> None:
        torch.manual_seed(seed)
        self.model: nn.Module = AutoencoderKL(**VAE_CONFIG).to(memory_format=torch.channels_last)
        use_quick_group_norm(self.model)
        # start with little noise (deviation 0.08): the log variance would need thousands of steps to leave,
        # and until then the noise, not the network, limits the picture (measured: stuck at 17 dB)
        nn.init.constant_(self.model.quant_conv.bias[16:], -5.0)
        self.kl, self.seed = kl, seed
        self.scenes, self.mix = SceneMix(), CropMix(SIZES, on_objects=0.8)

    def loss(self, first_sample: int, batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        device, dtype = runtime_device()
        mix = replace(self.mix, crop=64) if first_sample < SMALL_CROPS else self.mix
        x = to_tensor(crops(self.seed, first_sample, batch, self.scenes, mix))
        x = x.to(device, dtype, memory_format=torch.channels_last)
        posterior = self.model.encode(x).latent_dist
        generator = torch.Generator().manual_seed(first_sample)
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device, dtype)
        z = posterior.mean + posterior.std * noise
        y = self.model.decode(z).sample
        reconstruction, squared = _distance(y, x)
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        loss = reconstruction + self.kl * kl
        if first_sample > EQUIVARIANCE_FROM and first_sample // batch % 3 == 0:
            half = self.model.decode(F.avg_pool2d(z, 2)).sample
            loss = loss + 0.25 * _distance(half, F.avg_pool2d(x, 2))[0]
        return loss, {"psnr": -10 * float(torch.log10(squared / 4)), "kl": float(kl.detach())}

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        metrics = {}
        for side, count in ((128, 24), (256, 24), (1024, 24), (4096, 24)):
            held_out = SceneMix(held_out=True)
            x = to_tensor(
                crops(HELD_OUT_SEED, 0, count, held_out, CropMix(((side, 1.0),), min(side, 256), 0.8))
            )
            y = reconstruct(model, x)
            metrics[f"psnr_{side}"] = mean_psnr(y, x)
            if side in (128, 256):
                save_pairs(folder / f"sheet_{side}.png", x[:6], y[:6])
        return metrics


def vae_decoder_recipe() -> LoopConfig:
    """Half an hour on one core; goes on for as long as it helps."""
    return LoopConfig(
        samples=60_000, batch=4, lr=1e-3, muon_lr=2e-3, warmup=50, decay_from=0.2, ema_decay=0.998,
        weight_decay=0.0, adamw_names=("conv_in", "conv_out", "quant_conv"), evaluate_every_s=420,
    )  # fmt: skip


class VAEDecoderTask(VAETask):
    """The decoder alone, on the latents of a published autoencoder: what was trained on them stays valid."""

    def __init__(self, folder: Path, seed: int = 12) -> None:
        super().__init__(seed=seed)
        published = AutoencoderKL.from_pretrained(folder)
        self.model.load_state_dict(published.state_dict())
        self.model.encoder.requires_grad_(False)
        self.model.quant_conv.requires_grad_(False)

    def loss(self, first_sample: int, batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        device, dtype = runtime_device()
        x = to_tensor(crops(self.seed, first_sample, batch, self.scenes, replace(self.mix, crop=64)))
        x = x.to(device, dtype, memory_format=torch.channels_last)
        with torch.no_grad():
            z = self.model.encode(x).latent_dist.mean
        generator = torch.Generator().manual_seed(first_sample)
        z = z + NOISE * torch.randn(z.shape, generator=generator).to(device, dtype)
        loss, squared = _distance(self.model.decode(z).sample, x)
        return loss, {"psnr": -10 * float(torch.log10(squared / 4))}


def _distance(y: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    difference = y.float() - x.float()
    squared = difference.square().mean()
    across, down = difference.diff(dim=3).abs().mean(), difference.diff(dim=2).abs().mean()
    return difference.abs().mean() + 0.5 * (across + down) + 2.0 * squared, squared.detach()


@torch.no_grad()
def reconstruct(vae: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Decode the posterior mean: `[B, 3, H, W]` in [-1, 1]."""
    parameter = next(vae.parameters())
    out = []
    for part in x.split(8):
        part = part.to(parameter.device, parameter.dtype, memory_format=torch.channels_last)
        out.append(vae.decode(vae.encode(part).latent_dist.mean).sample.float().clamp(-1, 1).cpu())
    return torch.cat(out)


def mean_psnr(y: torch.Tensor, x: torch.Tensor) -> float:
    """Mean over pictures of the peak signal-to-noise ratio in dB (peak to peak 2)."""
    squared = (y - x).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
    return float((10 * torch.log10(4 / squared)).mean())


def save_pairs(path: Path, x: torch.Tensor, y: torch.Tensor) -> None:
    """Originals above, reconstructions below."""
    rows = [np.concatenate(list(part.permute(0, 2, 3, 1).numpy()), axis=1) for part in (x, y)]
    sheet = np.concatenate(rows, axis=0)
    Image.fromarray(((sheet + 1) * 127.5).round().clip(0, 255).astype(np.uint8)).save(path)
