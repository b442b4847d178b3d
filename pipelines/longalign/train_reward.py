"""Preference stages: whole rollouts from noise, scored by a CLIP model that reads the page by segments."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from pipelines.longalign.measure_reference import storybook_reference
from pipelines.longalign.pages import held_out_pages, page_of
from pipelines.longalign.preference import DEFAULT_WEIGHT, decompose, preference_logits, preference_loss
from pipelines.longalign.preference_model import (
    REFERENCE_FILE,
    STORYBOOK_INPUT,
    PreferenceModel,
    Reference,
)
from pipelines.longalign.rollout import consistency_rollout, guided, rollout, unguided
from pipelines.longalign.train_parts import SHEET_PAGES, Sources, TrainingParts, save_sheet
from pipelines.storybook.dataset import sample_rng
from pipelines.storybook.guidance import SD_GUIDANCE
from pipelines.training.loop import LoopConfig, runtime_device

HELD_OUT = 24


def reward_recipe() -> LoopConfig:
    """Fifty steps a sample: for a GPU (half an hour); days on a CPU core. The paper: 180,000 rollouts."""
    return LoopConfig(
        samples=40_000, batch=8, lr=2e-4, warmup=50, decay_from=0.7, ema_decay=0.995, weight_decay=0.01,
        clip=0.3, evaluate_every_s=900,
    )  # fmt: skip


def reward_on_lcm_recipe() -> LoopConfig:
    """Four steps a sample: about two hours on one core."""
    return LoopConfig(
        samples=16_000, batch=8, lr=2e-4, warmup=50, decay_from=0.7, ema_decay=0.99, weight_decay=0.01,
        clip=0.3, evaluate_every_s=900,
    )  # fmt: skip


class RewardTask:
    """Raise the reweighted preference score of what the network paints for pages.

    Args:
        sources: the model, T5, and the LongAlign folder with the stages before.
        preference: folder of a `CLIPModel` (`storybook-clip`).
        state: the run's folder; the reference (common direction) is kept there unless `preference` has one.
        few_steps: four distilled steps (stages align and lcm are merged), or fifty guided ones (align).
        weight: w, the share of the text-irrelevant part.
        steps: of the fifty-step rollout, and every how many of them one has gradient.
    """

    def __init__(
        self,
        sources: Sources,
        preference: Path,
        state: Path,
        *,
        few_steps: bool,
        weight: float = DEFAULT_WEIGHT,
        steps: tuple[int, int] = (50, 10),
        seed: int = 161,
    ) -> None:
        torch.manual_seed(seed)
        name, merged = ("reward_lcm", ("align", "lcm")) if few_steps else ("reward", ("align",))
        self.parts = TrainingParts(sources, name, merged, train_adapter=False, dropout=0.1)
        self.model: nn.Module = self.parts.learned
        self.judge = PreferenceModel.from_pretrained(preference, STORYBOOK_INPUT)
        self.judge.to(runtime_device()[0])
        self.direction = self._reference(preference, state, seed).direction.to(self.judge.device)
        self.few_steps, self.weight, self.steps, self.seed = few_steps, weight, steps, seed
        channels, side = (
            self.parts.learned.unet.config.in_channels,
            self.parts.learned.unet.config.sample_size,
        )
        self.shape = (channels, side, side)

    def _reference(self, preference: Path, state: Path, seed: int) -> Reference:
        for folder in (preference, state):
            if (folder / REFERENCE_FILE).exists():
                return Reference.load(folder / REFERENCE_FILE)
        state.mkdir(parents=True, exist_ok=True)
        measured = storybook_reference(self.judge, seed + 7)
        measured.save(state / REFERENCE_FILE)
        return measured

    def paint(self, texts: list[str], sample: int) -> torch.Tensor:
        """Latents `[B, C, H, W]` of a differentiable rollout."""
        device, _ = runtime_device()
        generator = torch.Generator().manual_seed(sample)
        shape = (len(texts), *self.shape)
        x = torch.randn(shape, generator=generator).to(device)
        alphas, prediction = self.parts.alphas.to(device), self.parts.prediction
        if self.few_steps:
            predict = unguided(self.parts.network, self.parts.condition(texts))

            def fresh(_: int) -> torch.Tensor:
                return torch.randn(shape, generator=generator).to(device)

            return consistency_rollout(predict, x, alphas, fresh, prediction=prediction)
        cond, uncond = self.parts.condition([*texts, *[""] * len(texts)]).chunk(2)
        # as Storybook's model is sampled; the paper's 7.5 belongs to Stable Diffusion
        predict = guided(self.parts.network, cond, uncond, SD_GUIDANCE)
        steps, every = self.steps
        start = sample_rng(self.seed + 2, sample).randrange(every)
        options = {"start": start, "steps": steps, "every": every}
        return rollout(predict, x, alphas, prediction=prediction, **options)

    def loss(self, first_sample: int, batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        pages = [page_of(self.seed + 1, first_sample + row).text for row in range(batch)]
        pictures = self.parts.decode(self.paint(pages, first_sample))
        captions = self.judge.embed_captions(pages)
        generator = torch.Generator().manual_seed(first_sample)
        embeds = self.judge.embed_pictures(pictures, generator)
        scores = preference_logits(captions, embeds, self.direction, self.weight).diagonal()
        return preference_loss(scores, self.weight), self._figures(captions, embeds)

    def _figures(self, captions: torch.Tensor, embeds: torch.Tensor) -> dict[str, float]:
        parts, unit = decompose(captions, self.direction), F.normalize(embeds.detach(), dim=-1)
        return {
            "relevant": float(parts.relevant(unit).mean()),
            "irrelevant": float(parts.irrelevant(unit).mean()),
        }

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        pages = [page.text for page in held_out_pages(HELD_OUT)]
        pictures = self.parts.paint(pages, 5, self.few_steps)
        save_sheet(pictures[:SHEET_PAGES], folder / "sheet.png")
        generator = torch.Generator().manual_seed(0)
        embeds = self.judge.embed_pictures(pictures, generator)
        figures = self._figures(self.judge.embed_captions(pages), embeds)
        return {f"held_out_{name}": value for name, value in figures.items()}
