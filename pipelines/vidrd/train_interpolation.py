"""Recipe of the masked-context model that fills in frames: all parameters learn, from the video model on.

Samples are clips of nine frames of which every second or fourth is given; given latents are told with a
little noise (arXiv 2304.08818, VideoLDM).
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from pipelines.storybook.clip_latents import STREAM_SIZE, ClipEntry, ClipStream
from pipelines.storybook.clips import ClipMix
from pipelines.storybook.dataset import sample_rng
from pipelines.storybook.latents import load_autoencoder
from pipelines.training.command import load_weights
from pipelines.training.loop import LoopConfig, runtime_device
from pipelines.vidrd.image_model import image_folder, open_unet, text_folder
from pipelines.vidrd.interpolation import FACTORS, WINDOW, interpolation_unet, masked_context
from pipelines.vidrd.objective import draw_times, load_sampler, noisy_and_target
from pipelines.vidrd.train_video import HELD_OUT_SEED, FrozenText, quicken, without_dropout

AUGMENTATION = 250  # latest of the sampler's 1000 times at which given latents are told
DROPOUT = 0.5  # the given frames say most; the product interpolates without a text
HELD_OUT_COUNT = 16


def interpolation_recipe() -> LoopConfig:
    """About an hour and a half on one core, minutes on a GPU."""
    return LoopConfig(
        samples=30_000, batch=((0, 4), (15_000, 8)), lr=4e-4, warmup=200, decay_from=0.5, ema_decay=0.999,
        weight_decay=0.01, evaluate_every_s=900,
    )  # fmt: skip


class InterpolationTask:
    """The video model's objective on frames that are not given.

    Args:
        parts: model folder of the video model.
        cache: folder of the clips' latents. size: different clips.
    """

    def __init__(self, parts: Path, cache: Path, size: int = STREAM_SIZE, seed: int = 63) -> None:
        torch.manual_seed(seed)
        self.model: nn.Module = interpolation_unet(open_unet(parts))
        quicken(self.model)
        without_dropout(self.model)
        source = image_folder(parts) or parts
        self.sampler, self.vae = load_sampler(parts), load_autoencoder(source)
        self.text = FrozenText(source, text_folder(parts))
        self.stream = ClipStream(self.vae, cache, size, WINDOW)
        held_out = ClipMix(scenes=replace(ClipMix().scenes, held_out=True))
        self.held_out = ClipStream(self.vae, cache, HELD_OUT_COUNT, WINDOW, held_out, HELD_OUT_SEED + 2)
        self.seed = seed

    def starting_weights(self, folder: Path) -> dict[str, torch.Tensor]:
        """Weights of a published model."""
        return load_weights(folder / "interpolator")

    def loss(self, first_sample: int, batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        latents, entries = self.stream.batch(first_sample, batch)
        rng = sample_rng(self.seed + 2, first_sample)
        texts = ["" if rng.random() < DROPOUT else entry.caption for entry in entries]
        loss = self._error(self.model, latents, entries, texts, first_sample, rng.choice(FACTORS))
        return loss, {"error": float(loss.detach())}

    def _error(
        self,
        unet: nn.Module,
        latents: torch.Tensor,
        entries: list[ClipEntry],
        texts: list[str],
        seed: int,
        factor: int,
    ) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        x = latents.transpose(1, 2)
        noise = torch.randn(x.shape, generator=generator)
        times = draw_times(self.sampler, len(x), generator)
        noisy, target = noisy_and_target(self.sampler, x, noise, times)
        given = list(range(0, WINDOW, factor))
        share = torch.rand(len(x), 1, 1, 1, 1, generator=generator) * (AUGMENTATION / 1000)
        told = x + share * torch.randn(x.shape, generator=generator)
        device, dtype = runtime_device()
        told = torch.cat([noisy, masked_context(told, given)], dim=1).to(device, dtype)
        answer = unet(told, times.to(device), self.text.encode(texts).to(device, dtype)).sample
        error = (answer.float() - target.to(device)).square().mean(dim=(1, 3, 4))  # [B, F]
        new = [frame for frame in range(WINDOW) if frame not in given]
        return error[:, new].mean()

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        """Error on held-out clips with fixed noise, for each factor."""
        latents, entries = self.held_out.batch(0, HELD_OUT_COUNT)
        texts = [""] * len(entries)
        return {
            f"held_out_error_{factor}": float(self._error(model, latents, entries, texts, 0, factor))
            for factor in FACTORS
        }
