"""Recipe of the temporal decoder: only the layers along time learn, on clips seen through noisy latents.

After arXiv 2304.08818 (VideoLDM): encoder and image layers stay fixed; reconstruction and, late in the run,
a patch critic with convolutions over time and space (hinge loss), weighted by the ratio of both losses'
gradients at the last trained layer. A denoiser's frames differ a little from each other where nothing moves;
here noise that is drawn for each frame anew stands for that.

    python -m pipelines.vidrd.train decoder --state DIR --cache CACHE \
        --parts assets/weights/storybook-sd --threads 1
    python -m pipelines.vidrd.publish decoder --state DIR --folder assets/weights/storybook-video \
        --parts assets/weights/storybook-sd

It needs the autoencoder only, so it can run before the video model or beside it, with the same cache of
latents. The 5,000 samples take 16 minutes of one core: 175 ms each (drawing 30, forward 55, backward
85), 215 ms once the critic has a say.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from torch import nn

from pipelines.storybook.clip_latents import STREAM_SIZE, ClipStream
from pipelines.storybook.clips import ClipMix
from pipelines.storybook.dataset import sample_rng, to_tensor
from pipelines.storybook.latents import load_autoencoder
from pipelines.training.command import load_weights
from pipelines.training.loop import LoopConfig, runtime_device
from pipelines.vidrd.autoencoder_vidrd import VidRDAutoencoderKL
from pipelines.vidrd.train_video import HELD_OUT_SEED, NUM_FRAMES, quicken, without_dropout

NOISE = 0.15  # largest deviation of what is added to the latents
CROP = 8  # latents a side that a sample shows
HELD_OUT_COUNT = 12
STATIC = 1.5 / 255  # a pixel is static when its two frames differ by less
CRITIC_FROM = 0.5  # share of the run after which the critic has a say
CRITIC_WEIGHT = 0.05
MOST_ADAPTIVE = 100.0


def decoder_recipe() -> LoopConfig:
    """Flicker is down by 4 % after 60 samples, by 65 % after all (12 and 32 held-out clips)."""
    return LoopConfig(
        samples=5_000, batch=2, lr=6e-4, warmup=50, decay_from=0.5, ema_decay=0.998, weight_decay=0.0,
        evaluate_every_s=600,
    )  # fmt: skip


class PatchCritic3D(nn.Module):
    """Judges patches of three frames: `[B, 3, F, H, W]` to one logit per patch."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(3, width, (3, 4, 4), (1, 2, 2), 1),
            nn.LeakyReLU(0.2),
            nn.Conv3d(width, 2 * width, (3, 4, 4), (1, 2, 2), 1),
            nn.GroupNorm(4, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv3d(2 * width, 1, (3, 3, 3), 1, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class DecoderTask:
    """Reconstruction of clips from noisy latents; `model` holds decoder and critic, trained by one optimiser.

    Args:
        parts: model folder with the vae whose decoder gets temporal layers.
        cache: folder of the clips' latents.
        critic_from: sample from which the critic has a say.
        size: different clips.
    """

    def __init__(
        self,
        parts: Path,
        cache: Path,
        critic_from: int,
        size: int = STREAM_SIZE,
        seed: int = 62,
    ) -> None:
        torch.manual_seed(seed)
        self.vae = VidRDAutoencoderKL.from_image_vae(AutoencoderKL.from_pretrained(parts / "vae"))
        for name, parameter in self.vae.named_parameters():
            parameter.requires_grad_(".temp_convs." in name)
        quicken(self.vae)
        without_dropout(self.vae)
        self.critic = PatchCritic3D()
        self.model: nn.Module = nn.ModuleDict({"vae": self.vae, "critic": self.critic})
        frozen = load_autoencoder(parts)
        self.stream = ClipStream(frozen, cache, size, NUM_FRAMES)
        held_out = ClipMix(scenes=replace(ClipMix().scenes, held_out=True))
        self.held_out = ClipStream(frozen, cache, HELD_OUT_COUNT, NUM_FRAMES, held_out, HELD_OUT_SEED + 1)
        self.critic_from, self.seed = critic_from, seed

    def starting_weights(self, folder: Path) -> dict[str, torch.Tensor]:
        """Weights of a published video model's decoder, with a fresh critic."""
        stored = load_weights(folder / "vae")
        return {**self.model.state_dict(), **{f"vae.{name}": value for name, value in stored.items()}}

    def loss(self, first_sample: int, batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        latents, _ = self.stream.batch(first_sample, batch)
        pictures = []
        rng = sample_rng(self.seed + 1, first_sample)
        room = latents.shape[-1] - CROP
        places = [(rng.randint(0, room), rng.randint(0, room)) for _ in range(batch)]
        for row, (top, left) in enumerate(places):
            frames = self.stream.draw((first_sample + row) % self.stream.size)
            area = (slice(8 * top, 8 * (top + CROP)), slice(8 * left, 8 * (left + CROP)))
            pictures.append(to_tensor([frame[area] for frame in frames]))
        generator = torch.Generator().manual_seed(first_sample)
        z = torch.stack([latents[row, :, :, top : top + CROP, left : left + CROP]
                         for row, (top, left) in enumerate(places)])  # fmt: skip
        level = NOISE * torch.rand(batch, 1, 1, 1, 1, generator=generator)
        z = z + level * torch.randn(z.shape, generator=generator)
        device, dtype = runtime_device()
        y = self.vae.decode(z.flatten(0, 1).to(device, dtype), num_frames=NUM_FRAMES).sample
        y, x = (
            clip.unflatten(0, (batch, NUM_FRAMES)).float() for clip in (y, torch.cat(pictures).to(device))
        )
        loss, figures = reconstruction(y, x)
        if first_sample >= self.critic_from:
            loss = loss + self._with_critic(loss, y, x, figures)
        return loss, figures

    def _with_critic(
        self, loss: torch.Tensor, y: torch.Tensor, x: torch.Tensor, figures: dict[str, float]
    ) -> torch.Tensor:
        """What the critic adds: a term that only the decoder feels and one that only the critic feels."""
        dtype = next(self.critic.parameters()).dtype
        real, made = (clip.transpose(1, 2).to(dtype) for clip in (x, y))
        fixed = {name: value.detach() for name, value in self.critic.named_parameters()}
        fooled = -torch.func.functional_call(self.critic, fixed, (made,)).float().mean()
        last = self.vae.decoder.up_blocks[-1].temp_convs[-1].convs[-1].weight
        norms = [torch.autograd.grad(part, last, retain_graph=True)[0].norm() for part in (loss, fooled)]
        weight = CRITIC_WEIGHT * (norms[0] / norms[1].clamp_min(1e-8)).clamp(max=MOST_ADAPTIVE)
        told_real, told_made = self.critic(real).float(), self.critic(made.detach()).float()
        own = (F.relu(1 - told_real) + F.relu(1 + told_made)).mean()
        figures["critic"] = float(own.detach())
        return weight.detach() * fooled + own

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        """Flicker and PSNR with the temporal layers and without, on held-out clips seen through noise."""
        vae: Any = model["vae"]
        latents, _ = self.held_out.batch(0, HELD_OUT_COUNT)
        clips = [to_tensor(self.held_out.draw(slot)) for slot in range(HELD_OUT_COUNT)]
        figures, rows = decoder_figures(vae, list(latents), clips)
        sheet = np.concatenate(
            [np.concatenate(list(row.permute(0, 2, 3, 1).numpy()), axis=1) for row in rows]
        )
        Image.fromarray((sheet * 255).round().astype(np.uint8)).save(folder / "sheet.png")
        return dict(figures)


def reconstruction(y: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    """Pixels, edges, and changes from frame to frame, of clips `[B, F, 3, H, W]` in [-1, 1]."""
    difference = y - x
    squared = difference.square().mean()
    across, down = difference.diff(dim=4).abs().mean(), difference.diff(dim=3).abs().mean()
    along = difference.diff(dim=1).abs().mean()
    loss = difference.abs().mean() + 0.5 * (across + down) + 2.0 * squared + 2.0 * along
    return loss, {"psnr": -10 * float(torch.log10(squared.detach() / 4)), "along": float(along.detach())}


@torch.no_grad()
def decoder_figures(
    vae: Any, latents: list[torch.Tensor], clips: list[torch.Tensor], noise: float = NOISE / 2
) -> tuple[Mapping[str, float], list[torch.Tensor]]:
    """Flicker on static pixels (0 to 1) and PSNR in dB, temporal layers on and off.

    Args:
        latents: `[F, C, h, w]` of each clip; noise of deviation `noise` is added, anew for every frame.
        clips: the drawn frames, `[F, 3, H, W]` in [-1, 1].
    Returns:
        Figures, and for the first clips the frames in [0, 1]: drawn, off, on.
    """
    parameter = next(vae.parameters())
    totals = {f"{name}_{mode}": 0.0 for name in ("flicker", "psnr") for mode in ("off", "on")}
    shown = []
    for index, (z, x) in enumerate(zip(latents, clips, strict=True)):
        z = z + noise * torch.randn(z.shape, generator=torch.Generator().manual_seed(index))
        truth = (x / 2 + 0.5).clamp(0, 1)
        rows = [truth]
        for mode, frames in (("off", 1), ("on", len(z))):
            y = vae.decode(z.to(parameter), num_frames=frames).sample.float().cpu()
            y = (y / 2 + 0.5).clamp(0, 1)
            totals[f"flicker_{mode}"] += flicker(y, truth) / len(clips)
            totals[f"psnr_{mode}"] += float(-10 * torch.log10((y - truth).square().mean())) / len(clips)
            rows.append(y)
        if index < 3:
            shown += rows
    kept = totals["flicker_on"] / max(totals["flicker_off"], 1e-9)
    return {**totals, "flicker_down": 1 - kept}, shown


def flicker(frames: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean change from frame to frame where the true clip stands still; `[F, 3, H, W]` in [0, 1]."""
    static = truth.diff(dim=0).abs().amax(1, keepdim=True) < STATIC
    change = frames.diff(dim=0).abs() * static
    return float(change.sum() / (static.sum() * frames.shape[1]).clamp_min(1))
