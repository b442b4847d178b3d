"""Recipe of the UNet: fine-tuning with TENOR and both attention losses on pairs that SCOP accepts.

arXiv 2412.13195: mean squared error plus 1e-3 of the token loss and 5e-5 of the pixel loss over the middle
and upward groups; samples whose caption was dropped have no attention loss.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.compass.grounding import AttentionRecorder, find_words, grounding_loss
from pipelines.compass.pair_data import PairBatch, PairSource
from pipelines.compass.pipeline_compass import CompassStableDiffusionPipeline
from pipelines.compass.sheets import evaluate_pictures
from pipelines.compass.tenor import install_tenor
from pipelines.storybook.guidance import SD_GUIDANCE
from pipelines.training.loop import LoopConfig, runtime_device

PREDICTIONS = ("epsilon", "v_prediction", "sample")


def unet_recipe() -> LoopConfig:
    """Storybook: about an hour on one core, 3 minutes on a GPU."""
    return LoopConfig(
        samples=64_000, batch=16, lr=2e-4, warmup=50, decay_from=0.5, ema_decay=0.999, weight_decay=0.01,
        evaluate_every_s=600,
    )  # fmt: skip


def published_unet_recipe() -> LoopConfig:
    """Stable Diffusion 1.x as the authors trained it: 24,500 steps of four samples at 5e-6."""
    return LoopConfig(samples=98_000, batch=4, lr=5e-6, warmup=1, decay_from=1.0, weight_decay=0.01, clip=1.0)


class UNetTask:
    """Trains the whole UNet; the autoencoder and the text encoder stay as they are.

    Args:
        parts: a Stable Diffusion model folder. source: where samples come from; gets the autoencoder.
        tenor: with text positions. grounded: with the attention losses.
        eyes: folder of Storybook's eyes, for quick metrics; None: pictures only.
    Raises:
        ValueError: the scheduler predicts something that isn't known here.
    """

    def __init__(
        self, parts: Path, source: Any, tenor: bool = True, grounded: bool = True, seed: int = 61,
        eyes: Path | None = None,
    ) -> None:  # fmt: skip
        from diffusers import DDPMScheduler

        torch.manual_seed(seed)
        device, dtype = runtime_device()
        # the UNet stays in fp32 here: its values become the master weights of the run
        self.pipeline = CompassStableDiffusionPipeline.from_pretrained(
            parts, compass=None, dtype={"unet": torch.float32, "default": dtype}
        ).to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.scheduler = DDPMScheduler.from_config(self.pipeline.scheduler.config)
        self.prediction = self.scheduler.config.prediction_type
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"the scheduler predicts {self.prediction!r}; expected one of {PREDICTIONS}")
        for frozen in (self.pipeline.vae, self.pipeline.text_encoder):
            frozen.requires_grad_(False)
        self.model: nn.Module = self.pipeline.unet
        if tenor:
            install_tenor(self.model, "continuous")
        self.recorder = AttentionRecorder(self.model) if grounded else None
        self.source: PairSource = source(self.pipeline.vae)
        self.eyes = eyes

    @torch.no_grad()
    def _encode(self, texts: list[str]) -> tuple[Tensor, list[list[int]]]:
        """Text states `[B, 77, C]` and the token ids of each text."""
        device = runtime_device()[0]
        ids = self.pipeline.tokenizer(
            texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
        ).input_ids
        return self.pipeline.text_encoder(ids.to(device))[0], ids.tolist()

    def loss(self, first_sample: int, batch: int) -> tuple[Tensor, dict[str, float]]:
        samples = self.source.batch(first_sample, batch, with_masks=self.recorder is not None)
        device, dtype = runtime_device()
        clean = samples.latents * self.pipeline.vae.config.scaling_factor
        generator = torch.Generator().manual_seed(first_sample)
        noise = torch.randn(clean.shape, generator=generator)
        t = torch.randint(self.scheduler.config.num_train_timesteps, (batch,), generator=generator)
        noisy = self.scheduler.add_noise(clean, noise, t)
        states, ids = self._encode(samples.texts)
        if self.recorder is not None:
            self.recorder.start()
        answer = self.model(noisy.to(device, dtype), t.to(device), states.to(device, dtype)).sample.float()
        # before the backward pass: gradient checkpointing runs the forward pass a second time in it
        maps = self.recorder.take() if self.recorder is not None else {}
        target = {"epsilon": noise, "sample": clean}.get(self.prediction)
        if target is None:
            target = self.scheduler.get_velocity(clean, noise, t)
        error = (answer - target.to(device)).square().mean()
        if self.recorder is None:
            return error, {}
        grounding, figures = self._grounding(samples, ids, maps)
        return error + grounding, {"error": float(error.detach()), **figures}

    def _grounding(
        self, samples: PairBatch, ids: list[list[int]], maps: dict[str, list[Tensor]]
    ) -> tuple[Tensor, dict[str, float]]:
        """Mean attention loss over the batch; samples without caption count as zero."""
        count = len(ids)
        total, token, pixel, grounded = torch.zeros((), device=runtime_device()[0]), 0.0, 0.0, 0
        for row, (names, masks) in enumerate(zip(samples.names, samples.masks, strict=True)):
            if names is None or masks is None:
                continue
            words = self._words(ids[row], names)
            own = {
                name: [part.unflatten(0, (count, -1))[row] for part in parts] for name, parts in maps.items()
            }
            loss = grounding_loss(own, masks.to(total.device), words, self.source.side_px)
            total = total + loss.weighted / count
            token, pixel = token + float(loss.token.detach()), pixel + float(loss.pixel.detach())
            grounded += 1
        return total, {"token": token / grounded, "pixel": pixel / grounded} if grounded else {}

    def _words(self, ids: list[int], names: tuple[str, str]) -> list[list[int]]:
        """Positions of both objects' words; the second is looked for behind the first."""
        words: list[list[int]] = []
        for name in names:
            wanted = self.pipeline.tokenizer(name, add_special_tokens=False).input_ids
            words.append(find_words(ids, wanted, words[-1][-1] + 1 if words else 0))
        return words

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        return evaluate_pictures(self.pipeline, folder, self.eyes, guidance_scale=SD_GUIDANCE)
