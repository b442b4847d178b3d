"""Recipe of the FLUX adapter: flow matching on pairs that SCOP accepts, with TENOR in the double blocks.

Settings are those of arXiv 2412.13195 where they carry over: rank 16 on the attention of all double blocks
and of single blocks 1 to 4, plain mean squared error, times drawn from the shifted list, guidance input 1.

Texts are as different as those of the base model: some captions have many sentences, and padding is up to
16 tokens, of which each may stand for dozens at positions of their own.
"""

import math
from pathlib import Path
from random import Random
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
LONGEST_PADDING = 500  # that the padding stands for, log-uniform, in every second padded batch
TEXT_LIMIT = 512
LONG_CAPTIONS = 0.15  # share of captions with many sentences


def flux_adapter_recipe() -> LoopConfig:
    """Storybook: about 40 minutes on one core, 2 on a GPU."""
    return LoopConfig(
        samples=96_000, batch=16, lr=6e-4, warmup=50, decay_from=0.5, ema_decay=0.999, weight_decay=0.01,
        evaluate_every_s=600,
    )  # fmt: skip


def published_flux_recipe() -> LoopConfig:
    """FLUX.1-dev as the authors trained it: 24,005 steps of two samples, constant rate after 10 steps."""
    return LoopConfig(
        samples=48_010, batch=2, lr=1e-5, warmup=10, decay_from=1.0, weight_decay=0.01, clip=1.0
    )


class Padding:
    """Padding of a batch: few tokens are computed, each for as many as lie in its part of the padding.

    A token's weight in the attention is that of its part, and its position is drawn from there: what the
    whole padding would add to a softmax is met on average.

    Args:
        longest: tokens of the longest text of the batch; without room for padding there is none.
    Attributes:
        computed: tokens of padding in the sequence. total: tokens of padding that they stand for.
        positions: `[longest + computed]` of all text tokens; None: in order, from 0 on.
    """

    def __init__(self, rng: Random, longest: int) -> None:
        self.longest, room = longest, TEXT_LIMIT - longest
        self.computed = self.total = min(rng.choice(TEXT_PADS), room)
        if self.computed and rng.random() < 0.5:
            drawn = round(math.exp(rng.uniform(0, math.log(LONGEST_PADDING))))
            self.total = min(max(self.computed, drawn), room)
        self.positions: Tensor | None = None
        if self.total > self.computed:
            edges = [longest + self.total * part // self.computed for part in range(self.computed + 1)]
            places = [rng.randrange(*edges[part : part + 2]) for part in range(self.computed)]
            self.positions = torch.tensor([*range(longest), *places])

    def bias(self, image: int) -> Tensor | None:
        """What is added to the scores of text and `image` tokens as keys, `[1, 1, 1, S]`; None: nothing."""
        if self.total == self.computed:
            return None
        bias = torch.zeros(1, 1, 1, self.longest + self.computed + image)
        bias[..., self.longest : self.longest + self.computed] = math.log(self.total / self.computed)
        return bias


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
        self.tenor = install_tenor(self.transformer) if tenor else None
        self.source: PairSource = source(self.pipeline.vae)
        self.seed, self.eyes = seed, eyes
        tokens = (self.source.side_px // 16) ** 2
        published = self.transformer.config.guidance_embeds
        self.times = torch.tensor(flux_schedule(TRAIN_STEPS, TRAIN_TOKENS if published else tokens))

    @torch.no_grad()
    def _encode(self, texts: list[str], first: int) -> tuple[Tensor, Tensor, Padding]:
        """T5 states and pooled vectors; texts are padded at random, or to the full length of FLUX.1."""
        pipeline = self.pipeline
        longest = TEXT_LIMIT
        if not self.transformer.config.guidance_embeds:
            longest = min(max(len(ids) for ids in pipeline.tokenizer_2(texts).input_ids), TEXT_LIMIT)
        padding = Padding(sample_rng(self.seed, first), longest)
        states, pooled, _ = pipeline.encode_prompt(
            texts, texts, max_sequence_length=longest + padding.computed
        )
        return states, pooled, padding

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
        states, pooled, padding = self._encode(samples.texts, first_sample)
        ids = pipeline._prepare_latent_image_ids(batch, height // 2, width // 2, device, dtype)
        guidance = torch.ones(batch, device=device) if self.transformer.config.guidance_embeds else None
        bias = padding.bias(len(ids))
        if self.tenor is not None:
            self.tenor.set_positions(padding.positions)
        velocity = self.transformer(
            hidden_states=noisy.to(device, dtype),
            timestep=t.to(device, dtype),
            guidance=guidance,
            encoder_hidden_states=states.to(device, dtype),
            pooled_projections=pooled.to(device, dtype),
            txt_ids=torch.zeros(states.shape[1], 3, device=device, dtype=dtype),
            img_ids=ids,
            joint_attention_kwargs=None if bias is None else {"attention_mask": bias.to(device, dtype)},
        ).sample
        if self.tenor is not None:
            self.tenor.set_positions(None)  # pictures are painted with the rule
        loss = (velocity.float() - (noise - clean).to(device)).square().mean()
        return loss, {}

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        return evaluate_pictures(self.pipeline, folder, self.eyes)
