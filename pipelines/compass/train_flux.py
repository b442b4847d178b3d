"""Recipe of the FLUX adapter: flow matching on pairs that SCOP accepts, with TENOR in the double blocks.

Settings are those of arXiv 2412.13195 where they carry over: rank 16 on the attention of all double blocks
and of single blocks 1 to 4, plain mean squared error, times drawn from the shifted list, guidance input 1.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.compass.adapter_weights import AdapterWeights, add_adapter, compass_targets
from pipelines.compass.pair_data import PairSource
from pipelines.compass.pipeline_compass import CompassFluxPipeline
from pipelines.compass.schedule import TRAIN_STEPS, TRAIN_TOKENS, flux_schedule
from pipelines.compass.sheets import evaluate_pictures
from pipelines.compass.tenor import install_tenor
from pipelines.compass.weights_compass import ADAPTER
from pipelines.storybook.dataset import sample_rng
from pipelines.training.loop import LoopConfig, runtime_device

RANK = 16
TEXT_PADS = (0, 0, 2, 4, 8, 16)


def flux_adapter_recipe() -> LoopConfig:
    """Storybook: about 40 minutes on one AMX core, 2 on a GPU."""
    return LoopConfig(
        samples=96_000, batch=16, lr=6e-4, warmup=50, decay_from=0.5, ema_decay=0.999, weight_decay=0.01,
        evaluate_every_s=600,
    )  # fmt: skip


def published_flux_recipe() -> LoopConfig:
    """FLUX.1-dev as the authors trained it: 24,005 steps of two samples, constant rate after 10 steps."""
    return LoopConfig(
        samples=48_010, batch=2, lr=1e-5, warmup=10, decay_from=1.0, weight_decay=0.01, clip=1.0
    )


class FluxAdapterTask:
    """Trains the adapter; the base, the autoencoder and the text encoders stay as they are.

    Args:
        parts: a FLUX-type model folder. source: where samples come from; gets the autoencoder.
        tenor: with text positions.
        rank: of the adapter.
        eyes: folder of Storybook's eyes, for quick metrics; None: pictures only.
    """

    def __init__(
        self,
        parts: Path,
        source: Any,
        tenor: bool = True,
        rank: int = RANK,
        seed: int = 51,
        eyes: Path | None = None,
    ) -> None:
        torch.manual_seed(seed)
        device, dtype = runtime_device()
        self.pipeline = CompassFluxPipeline.from_pretrained(parts, compass=None, dtype=dtype).to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.transformer = self.pipeline.transformer.requires_grad_(False)
        self.pipeline.vae.requires_grad_(False)
        add_adapter(self.transformer, rank, compass_targets(self.transformer), ADAPTER)
        self.model: nn.Module = AdapterWeights(self.transformer, ADAPTER, "transformer").float()
        if tenor:
            install_tenor(self.transformer)
        self.source: PairSource = source(self.pipeline.vae)
        self.seed, self.eyes = seed, eyes
        tokens = (self.source.side_px // 16) ** 2
        published = self.transformer.config.guidance_embeds
        self.times = torch.tensor(flux_schedule(TRAIN_STEPS, TRAIN_TOKENS if published else tokens))

    @torch.no_grad()
    def _encode(self, texts: list[str], first: int) -> tuple[Tensor, Tensor]:
        """T5 states and pooled vectors; texts are padded at random, or to the full length of FLUX.1."""
        pipeline = self.pipeline
        if self.transformer.config.guidance_embeds:
            length = 512
        else:
            longest = max(len(ids) for ids in pipeline.tokenizer_2(texts).input_ids)
            length = min(longest + sample_rng(self.seed, first).choice(TEXT_PADS), 512)
        states, pooled, _ = pipeline.encode_prompt(texts, texts, max_sequence_length=length)
        return states, pooled

    def loss(self, first_sample: int, batch: int) -> tuple[Tensor, dict[str, float]]:
        samples = self.source.batch(first_sample, batch, with_masks=False)
        config, pipeline = self.pipeline.vae.config, self.pipeline
        clean = (samples.latents - (config.shift_factor or 0.0)) * config.scaling_factor
        channels, height, width = clean.shape[1:]
        clean = pipeline._pack_latents(clean, batch, channels, height, width)
        generator = torch.Generator().manual_seed(first_sample)
        noise = torch.randn(clean.shape, generator=generator)
        t = self.times[torch.randint(len(self.times), (batch,), generator=generator)]
        noisy = clean + t[:, None, None] * (noise - clean)
        device, dtype = runtime_device()
        states, pooled = self._encode(samples.texts, first_sample)
        ids = pipeline._prepare_latent_image_ids(batch, height // 2, width // 2, device, dtype)
        guidance = torch.ones(batch, device=device) if self.transformer.config.guidance_embeds else None
        velocity = self.transformer(
            hidden_states=noisy.to(device, dtype),
            timestep=t.to(device, dtype),
            guidance=guidance,
            encoder_hidden_states=states.to(device, dtype),
            pooled_projections=pooled.to(device, dtype),
            txt_ids=torch.zeros(states.shape[1], 3, device=device, dtype=dtype),
            img_ids=ids,
        ).sample
        loss = (velocity.float() - (noise - clean).to(device)).square().mean()
        return loss, {}

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        return evaluate_pictures(self.pipeline, folder, self.eyes)
