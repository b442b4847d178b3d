"""Distillation to four steps: the student's answer must agree with itself one teacher's step ahead.

Source: latent consistency distillation (arXiv 2310.04378) in LongAlign's setting: t in 10 ... 999, a DDIM
step of 20 by the guided teacher, pseudo-Huber loss with c = 0.001, the student itself as target network.
"""

from pathlib import Path

import torch
from torch import nn

from pipelines.longalign.pages import held_out_pages, write_page
from pipelines.longalign.solver import boundary_scalings, ddim_step, predict_clean, predict_noise
from pipelines.longalign.train_align import DRAWINGS, SCENES, STREAM_SEED
from pipelines.longalign.train_parts import SHEET_PAGES, Sources, TrainingParts, save_sheet
from pipelines.storybook.dataset import sample_rng
from pipelines.storybook.guidance import SD_GUIDANCE
from pipelines.storybook.latents import LatentStream
from pipelines.training.loop import LoopConfig, runtime_device

JUMP = 20
EARLIEST = 10
HUBER = 0.001


def lcm_recipe() -> LoopConfig:
    """About three hours on one core, ten minutes on a GPU."""
    return LoopConfig(
        samples=60_000, batch=16, lr=4e-4, warmup=100, decay_from=0.6, ema_decay=0.999, weight_decay=0.01,
        clip=0.3, evaluate_every_s=900,
    )  # fmt: skip


def consistency(x: torch.Tensor, clean: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """f(x, t) = c_skip x + c_out x0 for `x` `[B, ...]` and t `[B]`; times below 0 count as 0."""
    skip, out = (part.view(-1, *(1,) * (x.ndim - 1)) for part in boundary_scalings(t.clamp(min=0)))
    return skip * x + out * clean


def pseudo_huber(difference: torch.Tensor) -> torch.Tensor:
    """sqrt(d^2 + c^2) - c, averaged."""
    return ((difference.square() + HUBER**2).sqrt() - HUBER).mean()


class LCMTask:
    """Self-consistency along the guided teacher's path; the teacher is the network without this LoRA."""

    def __init__(self, sources: Sources, cache: Path, size: int = DRAWINGS, seed: int = 151) -> None:
        torch.manual_seed(seed)
        self.parts = TrainingParts(sources, "lcm", ("align",), train_adapter=False, dropout=0.0)
        self.model: nn.Module = self.parts.learned
        self.stream = LatentStream(self.parts.vae, cache, size, SCENES, STREAM_SEED)
        self.seed = seed

    def loss(self, first_sample: int, batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        latents, entries = self.stream.batch(first_sample, batch)
        pages = [
            write_page(scene, sample_rng(self.seed + 1, first_sample + row)).text
            for row, (scene, _) in enumerate(entries)
        ]
        device, _ = runtime_device()
        generator = torch.Generator().manual_seed(first_sample)
        x = latents[:, 0]
        noise = torch.randn(x.shape, generator=generator)
        t = torch.randint(EARLIEST, len(self.parts.alphas), (batch,), generator=generator)
        noisy = self.parts.scheduler.add_noise(x, noise, t).to(device)
        t = t.to(device)
        cond, uncond = self.parts.condition([*pages, *[""] * batch]).chunk(2)
        student = consistency(noisy, self._clean(noisy, t, cond), t)
        with torch.no_grad():
            earlier = self._teacher_step(noisy, t, cond, uncond)
            target = consistency(earlier, self._clean(earlier, t - JUMP, cond), t - JUMP)
        return pseudo_huber(student - target), {}

    def _clean(self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        t = t.clamp(min=0)
        output = self.parts.network(x, t, cond)
        return predict_clean(output, x, t, self.parts.alphas.to(x.device), self.parts.prediction)

    def _teacher_step(
        self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor, uncond: torch.Tensor
    ) -> torch.Tensor:
        alphas, prediction = self.parts.alphas.to(x.device), self.parts.prediction
        with self.parts.learned.as_before():
            asked, plain = self.parts.network(
                torch.cat([x, x]), torch.cat([t, t]), torch.cat([cond, uncond])
            ).chunk(2)
        # as Storybook's model is sampled; the paper's 7.5 belongs to Stable Diffusion
        output = plain + SD_GUIDANCE * (asked - plain)
        clean = predict_clean(output, x, t, alphas, prediction)
        return ddim_step(clean, predict_noise(output, x, t, alphas, prediction), t - JUMP, alphas)

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        pages = [page.text for page in held_out_pages(SHEET_PAGES)]
        few, many = self.parts.paint(pages, 5, few_steps=True), self.parts.paint(pages, 5)
        save_sheet(few, folder / "sheet.png")
        return {"spread_of_four_steps": float(few.std()), "spread_of_twenty": float(many.std())}
